"""Scenarios that drive a real vLLM: what is sent, what is done to it meanwhile, which alerts that provokes.

All are made for one server, `SERVER`. The alerts are those of the profile `optimized`, evaluated with every
duration divided by `TIME_SCALE`; a scenario holds its condition for the alert's window and hold time.
What each provokes was found by running it against vLLM 0.32 on two busy cores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

from monitorgen.errors import InputError
from monitorgen.prove.disturb import Aborts, Disturbance, Hang, SlowMotion, Stall
from monitorgen.prove.load import LoadPlan, LoadReport, run_load
from monitorgen.prove.vllm_server import VllmOptions, VllmServer

TIME_SCALE = 60.0
SERVER = VllmOptions(
    ngram=3,
    ngram_lookup=(1, 3),  # from one token on: a random model's text repeats little more
    gpu_blocks=20,  # of 128 tokens: a dozen requests do not fit
    max_num_seqs=12,
    max_queued=64,
    eager=True,  # changes no metric and saves minutes
    dev_mode=True,
    flags=("--long-prefill-token-threshold", "32"),  # long prompts take several steps
)
"""The one server of all scenarios: short of cache blocks, seats and queue, speculating, for its operator."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A load with a purpose. `disturbance` is done to the server from the load's first request on.

    `provokes` names the alerts of `optimized` that fire on a real server by it.
    """

    name: str
    help: str
    plan: LoadPlan
    disturbance: Disturbance | None = None
    provokes: tuple[str, ...] = ()


CALM = LoadPlan(burst_every=0, disconnect_share=0, invalid_share=0, chat_temperature=0.0)
COLD = replace(
    CALM, shared_prefix_share=0.0, temperature=1.0, chat_temperature=1.0, ignore_eos=True, drain=1.0
)

_ALL = (
    Scenario(
        "steady",
        "a few users: no alert fires",
        replace(
            CALM,
            seconds=40,
            rate=1.5,
            prompt_tokens=(16, 40, 80, 250),
            max_tokens=(8, 12, 16, 160),
            shared_prefix_share=0.5,
            shared_prefix_tokens=144,
            invalid_share=0.1,
            max_in_flight=8,
            pulse=0.02,  # so that what clients measured can be compared with what was recorded
        ),
    ),
    Scenario(
        "burst",
        "40 requests at once, every five seconds",
        replace(CALM, seconds=20, rate=0.5, burst_every=5.0, burst_size=40, max_in_flight=64, drain=10.0),
        provokes=("TTFTHigh", "TTFTCritical", "QueueTimeHigh", "KVCacheHigh", "PreemptionsHigh"),
    ),
    Scenario(
        "long_prompts",
        "prompts that fill most of the context",
        replace(COLD, seconds=20, rate=4.0, prompt_tokens=(800, 900, 980), max_tokens=(8,), max_in_flight=16),
        provokes=(
            "TTFTHigh",
            "TTFTCritical",
            "PrefillSlow",
            "QueueTimeHigh",
            "KVCacheHigh",
            "KVCacheCritical",
            "PreemptionsHigh",
        ),
    ),
    Scenario(
        "shared_prefixes",
        "prompts that begin alike: the prefix cache hits",
        replace(CALM, seconds=20, rate=4.0, prompt_tokens=(60, 180), shared_prefix_share=1.0),
    ),
    Scenario(
        "disconnects",
        "clients that hang up after three tokens; vLLM counts none of them as finished",
        replace(CALM, seconds=20, rate=3.0, disconnect_share=0.5),
    ),
    Scenario(
        "invalid",
        "requests that are refused with HTTP 400 and 404",
        replace(CALM, seconds=20, rate=4.0, invalid_share=0.5),
    ),
    Scenario(
        "queue_limit",
        "more requests at once than the queue takes",
        replace(COLD, seconds=20, rate=40.0, prompt_tokens=(16, 40), max_tokens=(60,), max_in_flight=80),
        provokes=("RequestsRejected", "HTTPErrors", "TTFTHigh", "TTFTCritical", "QueueTimeHigh"),
    ),
    Scenario(
        "kv_pressure",
        "long answers in few cache blocks",
        replace(
            COLD, seconds=20, rate=20.0, prompt_tokens=(100, 200), max_tokens=(300, 400), max_in_flight=24
        ),
        provokes=("KVCacheHigh", "KVCacheCritical", "PreemptionsHigh", "TTFTHigh", "TTFTCritical"),
    ),
    Scenario(
        "cold_prefixes",
        "no two prompts begin alike, for longer than an hour divided by 60",
        replace(COLD, seconds=65, rate=5.0, prompt_tokens=(200, 300), max_tokens=(8,), max_in_flight=12),
        provokes=("PrefixCacheCold", "SpeculationPoor"),
    ),
    Scenario(
        "poor_speculation",
        "answers at a high temperature, which cannot be guessed",
        replace(COLD, seconds=40, rate=5.0, prompt_tokens=(40, 80), max_tokens=(40, 80), max_in_flight=8),
        provokes=("SpeculationPoor",),
    ),
    Scenario(
        "overload",
        "cold prompts and random answers, more than the server has seats, blocks and queue for",
        replace(
            COLD,
            seconds=20,
            rate=20.0,
            prompt_tokens=(100, 300, 500),
            max_tokens=(30, 60, 120),
            max_in_flight=80,
        ),
        provokes=(
            "KVCacheHigh",
            "KVCacheCritical",
            "PreemptionsHigh",
            "TTFTHigh",
            "TTFTCritical",
            "QueueTimeHigh",
            "RequestsRejected",
            "HTTPErrors",
        ),
    ),
    Scenario(
        "slow_motion",
        "an engine that takes a step every two seconds, with more waiting than it has seats for",
        replace(
            COLD,
            seconds=54,
            rate=200.0,
            prompt_tokens=(97, 99),  # four steps of prefill
            max_tokens=(12, 13, 14, 15, 16, 17, 18),  # so that one finishes every few seconds, after 33
            max_in_flight=62,
        ),
        SlowMotion(seconds=54, step=2.2),
        provokes=(
            "QueueStalled",
            "TTFTHigh",
            "TTFTCritical",
            "PrefillSlow",
            "DecodeSlow",
            "EndToEndSlow",
            "InterTokenSlow",
        ),
    ),
    Scenario(
        "stall",
        "an engine that hangs while more than fifty requests run or wait",
        replace(
            COLD, seconds=20, rate=200.0, prompt_tokens=(40,), max_tokens=(200,), max_in_flight=62, drain=10
        ),
        Stall(seconds=18, active=51),
        provokes=("QueueStalled",),
    ),
    Scenario(
        "aborts",
        # Long enough for a machine that stands still for a while: the alert's `for` begins anew after a gap.
        "an operator who aborts all requests every second and a half",
        replace(COLD, seconds=40, rate=20.0, prompt_tokens=(40,), max_tokens=(60,), max_in_flight=16),
        Aborts(seconds=40, every=1.5),
        provokes=("RequestsFailing",),
    ),
    Scenario(
        "hang",
        "a server that does not answer, not even for its metrics",
        replace(CALM, seconds=6, rate=1.0, prompt_tokens=(16,), max_tokens=(4,), drain=1.0),
        Hang(seconds=5),
        provokes=("TargetDown",),
    ),
)
SCENARIOS: Mapping[str, Scenario] = {scenario.name: scenario for scenario in _ALL}
PROVOKING = ("cold_prefixes+aborts", "overload", "slow_motion", "hang")
"""The fewest scenarios that provoke all that any of them does, in less than 150 seconds."""
BEYOND: Mapping[str, str] = {
    "MetricsGone": "a target that answers without vLLM's metrics, as with --disable-log-stats",
    "JobGone": "a scrape config without the job: Prometheus must be reloaded with another one",
    "GraphRecaptures": "the decode workload on a CUDA device: vLLM exports nothing of its graphs",
    "GraphModeDrift": "the decode workload: vLLM exports nothing of its graphs",
    "KVCompactionsHigh": "the decode workload: vLLM does not compact its cache",
    "PaddingHigh": "the decode workload: vLLM exports nothing of its padding",
}
"""What no load on a vLLM provokes, and what would."""


def run_scenarios(
    server: VllmServer,
    names: Sequence[str],
    *,
    stop: threading.Event | None = None,
    progress: Callable[[str, float], None] = lambda _name, _seconds: None,
) -> dict[str, LoadReport]:
    """Run scenarios one after the other against a server of our own; their reports by name.

    Those of one entry that are joined by `+` run at once. `progress` is told a scenario's name and for how
    long it has been running, from other threads. `stop` ends it all within a second; the reports are then of
    what was begun.
    Raises `InputError` for an unknown name, and `ProcessError` if the server dies.
    """
    acts = [tuple(_scenario(name) for name in entry.split("+")) for entry in names]
    halt = stop or threading.Event()
    reports: dict[str, LoadReport] = {}
    for act in acts:
        if halt.is_set():
            break
        reports |= _run_act(server, act, halt, progress)
        server.child.check()
    return reports


def _run_act(
    server: VllmServer,
    act: Sequence[Scenario],
    halt: threading.Event,
    progress: Callable[[str, float], None],
) -> dict[str, LoadReport]:
    """Run scenarios at once; a failure in one of them ends the others as well."""
    over = threading.Event()
    with ThreadPoolExecutor(len(act), thread_name_prefix="scenario") as pool:
        running = {one.name: pool.submit(_run, server, one, over, progress) for one in act}
        pending = set(running.values())
        try:
            while pending and not halt.is_set():
                done, pending = wait(pending, timeout=0.1)
                if any(future.exception() for future in done):
                    break
        finally:  # also after Ctrl-C: whatever is still running ends at once
            over.set()
    return {name: future.result() for name, future in running.items()}


def _run(
    server: VllmServer,
    scenario: Scenario,
    over: threading.Event,
    progress: Callable[[str, float], None],
) -> LoadReport:
    """Run one scenario's load, and beside it what is done to the server."""
    plan = replace(scenario.plan, model=server.name)
    with ThreadPoolExecutor(1, thread_name_prefix="disturbance") as pool:
        beside: Future[None] | None = None
        if scenario.disturbance is not None:
            beside = pool.submit(scenario.disturbance.run, server, over)
            beside.add_done_callback(lambda future: over.set() if future.exception() else None)
        try:
            report = run_load(
                server.url, plan, stop=over, progress=lambda seconds: progress(scenario.name, seconds)
            )
        except BaseException:
            over.set()
            raise
        if beside is not None:
            beside.result()
    return report


def _scenario(name: str) -> Scenario:
    try:
        return SCENARIOS[name]
    except KeyError:
        raise InputError(f"there is no scenario {name!r}", hint=f"there are {', '.join(SCENARIOS)}") from None
