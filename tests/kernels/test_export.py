"""What workloads export is what telemetry declares, counting costs little, and ends are clean."""

from __future__ import annotations

import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
import timeit
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from monitorgen import telemetry
from monitorgen.catalog import exposition
from monitorgen.catalog.exposition import Exposed
from monitorgen.kernels.counters import (
    DecodeCounters,
    Expected,
    KernelCounters,
    KVCacheCounters,
    RunnerCounters,
    SpeculationCounters,
    best_seconds,
)
from monitorgen.kernels.export import Telemetry, exporting, serve
from monitorgen.kernels.workload import UsageError


def scrape(port: int) -> dict[str, Exposed]:
    """The families that an exporter shows now, read by the catalog's parser."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        return {family.name: family for family in exposition.parse(answer.read().decode())}


def value(families: dict[str, Exposed], name: str, **labels: str) -> float:
    """The one sample of a series whose labels include the given ones."""
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    family = families.get(name) or families[base]
    (found,) = [s.value for s in family.samples if s.name == name and labels.items() <= s.labels.items()]
    return found


@pytest.fixture
def busy() -> DecodeCounters:
    """A loop on CUDA graphs that did everything that can be counted."""
    counters = DecodeCounters(
        "tiny", mode="full", graphs=True, allocator_bytes=lambda: 77, pool_bytes=lambda: 55
    )
    counters.captured(0.25)
    counters.captured(0.5, "new_shape")
    counters.replayed(8)
    counters.replayed(8)
    counters.replayed(16)
    counters.step(5, 8, 0.00005)
    counters.step(7, 8, 0.00006)
    counters.step(16, 16, 3.0)
    counters.compactions += 2
    return counters


@pytest.fixture
def kernel() -> KernelCounters:
    """A kernel that reached half of a measured ceiling, was checked, and should take half the time."""
    counters = KernelCounters("attend", bytes_per_call=3000.0, flops_per_call=10.0, best_seconds=1e-6)
    counters.error, counters.error_limit = 2e-3, 4e-3
    counters.expected = Expected(1e-6, "startup")
    counters.call(2e-6)
    return counters


@pytest.fixture
def cache() -> KVCacheCounters:
    """A paged KV cache with everything that can be counted: 9 tokens in 3 blocks of 4."""
    return KVCacheCounters(
        "tiny", blocks=10, block_size=4, queries=30, hits=8, evictions=2, copies=1, blocks_in_use=3, tokens=9
    )


@pytest.fixture
def runner() -> RunnerCounters:
    """A runner with two requests of which one was too slow, and tokens of all three verdicts."""
    counters = RunnerCounters("tiny", "flex")
    for first, gaps in ((0.05, [0.01]), (7.0, [0.0003, 0.3])):
        counters.first_token(first)
        for gap in gaps:
            counters.next_token(gap)
        counters.finished(first < 1)
    counters.compared(3, 2, 1)
    return counters


@pytest.fixture
def speculation() -> SpeculationCounters:
    """Three drafts of up to three tokens: none, two and all accepted."""
    counters = SpeculationCounters("tiny", 3)
    counters.draft(3, 0)
    counters.draft(2, 2)
    counters.draft(3, 3)
    return counters


@pytest.fixture
def families(
    busy: DecodeCounters,
    kernel: KernelCounters,
    cache: KVCacheCounters,
    runner: RunnerCounters,
    speculation: SpeculationCounters,
) -> Iterator[dict[str, Exposed]]:
    with serve([Telemetry([busy], [kernel], [cache], [runner], [speculation])], 0) as port:
        yield scrape(port)


def test_a_page_holds_exactly_the_declared_families(families: dict[str, Exposed]) -> None:
    assert set(families) == {metric.name for metric in telemetry.METRICS}
    for metric in telemetry.METRICS:
        family = families[metric.name]
        assert (family.type, family.help, family.created) == (metric.type, metric.help, False)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)
        for label, values in metric.values:
            found = {sample.labels[label] for sample in family.samples}
            # An expectation has one source at a time; of all other labels every value is there.
            assert found == {"startup"} if label == "source" else found == set(values)
        if metric.type == "histogram":
            edges = {float(s.labels["le"]) for s in family.samples if "le" in s.labels}
            assert edges == {*metric.buckets, math.inf}


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("vllm:decode_tokens_total", {}, 5 + 7 + 16),
        ("vllm:decode_padding_tokens_total", {}, 3 + 1),
        ("vllm:decode_batch_size", {}, 16),
        ("vllm:decode_kv_compactions_total", {}, 2),
        ("vllm:decode_allocator_bytes", {}, 77),
        ("vllm:decode_graph_pool_bytes", {}, 55),
        ("vllm:decode_graph_captures_total", {}, 2),
        ("vllm:decode_graph_capture_seconds_total", {}, 0.75),
        ("vllm:decode_graph_recaptures_total", {"reason": "new_shape"}, 1),
        ("vllm:decode_graph_recaptures_total", {"reason": "allocator"}, 0),
        ("vllm:decode_graph_replays_total", {"bucket": "8"}, 2),
        ("vllm:decode_graph_replays_total", {"bucket": "16"}, 1),
        ("vllm:decode_graph_mode", {"mode": "full"}, 1),
        ("vllm:decode_graph_mode", {"mode": "eager"}, 0),
        # An edge belongs to its bucket; what is beyond the last edge is in +Inf alone.
        ("vllm:decode_step_seconds_bucket", {"le": "5e-05"}, 1),
        ("vllm:decode_step_seconds_bucket", {"le": "0.0001"}, 2),
        ("vllm:decode_step_seconds_bucket", {"le": "1.0"}, 2),
        ("vllm:decode_step_seconds_bucket", {"le": "+Inf"}, 3),
        ("vllm:decode_step_seconds_count", {}, 3),
        ("vllm:decode_step_seconds_sum", {}, 3.00011),
        ("vllm:spec_decode_num_drafts_total", {}, 3),
        ("vllm:spec_decode_num_draft_tokens_total", {}, 3 + 2 + 3),
        ("vllm:spec_decode_num_accepted_tokens_total", {}, 0 + 2 + 3),
        ("vllm:spec_decode_num_accepted_tokens_per_pos_total", {"position": "0"}, 2),
        ("vllm:spec_decode_num_accepted_tokens_per_pos_total", {"position": "1"}, 2),
        ("vllm:spec_decode_num_accepted_tokens_per_pos_total", {"position": "2"}, 1),
        ("monitorgen_kernel_bytes_total", {"kernel": "attend"}, 3000),
        ("monitorgen_kernel_flops_total", {"kernel": "attend"}, 10),
        ("monitorgen_kernel_calls_total", {"kernel": "attend"}, 1),
        ("monitorgen_kernel_roofline_ratio", {"kernel": "attend"}, 0.5),
        ("monitorgen_kernel_error_ratio", {"kernel": "attend"}, 2e-3),
        ("monitorgen_kernel_error_limit_ratio", {"kernel": "attend"}, 4e-3),
        ("monitorgen_kernel_expected_seconds", {"kernel": "attend", "source": "startup"}, 1e-6),
        ("monitorgen_kernel_seconds_count", {"kernel": "attend"}, 1),
        ("monitorgen_kernel_seconds_bucket", {"le": "5e-06"}, 1),
        ("monitorgen_kv_prefix_cache_queries_total", {"model_name": "tiny"}, 30),
        ("monitorgen_kv_prefix_cache_hits_total", {}, 8),
        ("monitorgen_kv_cache_evictions_total", {}, 2),
        ("monitorgen_kv_cache_copies_total", {}, 1),
        ("monitorgen_kv_cache_blocks", {}, 10),
        ("monitorgen_kv_cache_blocks_in_use", {}, 3),
        ("monitorgen_kv_cache_fragmentation_ratio", {}, 3 / 12),
        ("monitorgen_runner_tokens_total", {"backend": "flex"}, 5),
        ("monitorgen_runner_requests_total", {"slo": "met", "model_name": "tiny"}, 1),
        ("monitorgen_runner_requests_total", {"slo": "missed"}, 1),
        ("monitorgen_runner_parity_tokens_total", {"result": "equal"}, 3),
        ("monitorgen_runner_parity_tokens_total", {"result": "near_tie"}, 2),
        ("monitorgen_runner_parity_tokens_total", {"result": "different"}, 1),
        ("monitorgen_runner_time_to_first_token_seconds_bucket", {"le": "0.05"}, 1),
        ("monitorgen_runner_time_to_first_token_seconds_bucket", {"le": "10.0"}, 2),
        ("monitorgen_runner_time_to_first_token_seconds_sum", {}, 7.05),
        ("monitorgen_runner_inter_token_latency_seconds_bucket", {"le": "0.0005"}, 1),
        ("monitorgen_runner_inter_token_latency_seconds_count", {}, 3),
    ],
)
def test_a_page_says_what_was_counted(
    families: dict[str, Exposed], name: str, labels: dict[str, str], expected: float
) -> None:
    assert value(families, name, **labels) == pytest.approx(expected)


def test_without_graphs_their_families_are_absent() -> None:
    counters = DecodeCounters("tiny")
    with serve([Telemetry([counters])], 0) as port:
        assert set(scrape(port)) == {metric.name for metric in telemetry.DECODE if not metric.needs}


def test_a_scrape_reads_the_counters_anew() -> None:
    counters = DecodeCounters("tiny")
    with serve([Telemetry([counters])], 0) as port:
        assert value(scrape(port), "vllm:decode_tokens_total") == 0
        counters.step(3, 4, 0.001)
        assert value(scrape(port), "vllm:decode_tokens_total") == 3


@pytest.mark.parametrize("name", ["roofline_ratio", "error_ratio", "error_limit_ratio", "expected_seconds"])
def test_what_was_not_measured_is_not_exported(name: str) -> None:
    kernel = KernelCounters("attend")
    kernel.call(1e-6)
    with serve([Telemetry(kernels=[kernel])], 0) as port:
        assert scrape(port)[f"monitorgen_kernel_{name}"].samples == ()


@pytest.mark.parametrize(
    ("work", "ceilings", "expected"),
    [
        ((100.0, 10.0), (10.0, 10.0), 10.0),
        ((10.0, 100.0), (10.0, 10.0), 10.0),
        ((10.0, 100.0), (10.0, 0.0), 1.0),
        ((10.0, 100.0), (0.0, 0.0), None),
    ],
)
def test_the_ceiling_that_binds(
    work: tuple[float, float], ceilings: tuple[float, float], expected: float | None
) -> None:
    assert best_seconds(*work, *ceilings) == expected


def test_counting_a_step_costs_under_one_percent_of_50_us(capsys: pytest.CaptureFixture[str]) -> None:
    counters = DecodeCounters("tiny", graphs=True)
    clock = time.perf_counter
    rounds = 500

    def bare() -> None:
        for _ in range(rounds):
            pass

    def counted() -> None:
        before = clock()
        for _ in range(rounds):
            now = clock()
            counters.step(5, 8, now - before)
            counters.replayed(8)
            before = now

    # The least of many short slices is what the code costs, not what else the machine does; a machine that
    # is busy with other things gets a minute to show it.
    least = [math.inf, math.inf]
    slices = 0
    deadline = clock() + 60
    while slices < 400 or ((least[1] - least[0]) / rounds > 450e-9 and clock() < deadline):
        least = [
            min(old, timeit.timeit(work, timer=time.thread_time, number=1))
            for old, work in zip(least, (bare, counted), strict=True)
        ]
        slices += 1
    cost = (least[1] - least[0]) / rounds
    with capsys.disabled():
        print(f"\ntelemetry costs {cost * 1e9:.0f} ns a decode step ({cost / 50e-6:.2%} of 50 us)")
    assert counters.tokens == 5 * counters.steps == 5 * slices * rounds
    assert counters.replays == {8: slices * rounds}
    assert cost < 500e-9


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"--prom-port {port}: .*in use"), serve([], port):
            raise AssertionError("must not start")


def test_a_duration_needs_a_port() -> None:
    with pytest.raises(UsageError, match="needs --prom-port"), exporting(port=None, duration=3.0):
        raise AssertionError("must not start")


def die_while_serving(bound: list[int]) -> None:
    with exporting(port=0, duration=60.0) as port:
        assert port is not None
        scrape(port)
        bound.append(port)
        raise ZeroDivisionError


def test_a_workload_that_dies_takes_its_exporter_down(capsys: pytest.CaptureFixture[str]) -> None:
    bound: list[int] = []
    with pytest.raises(ZeroDivisionError):
        die_while_serving(bound)
    with pytest.raises(urllib.error.URLError):
        scrape(bound[0])
    url = f"http://127.0.0.1:{bound[0]}/metrics"
    said = f"exporter at {url} goes down: the workload failed (ZeroDivisionError)"
    assert said in capsys.readouterr().err


def test_serving_goes_on_after_the_work_for_the_duration() -> None:
    started = time.monotonic()
    with exporting(port=0, duration=0.2):
        pass
    assert 0.2 <= time.monotonic() - started < 60


PROGRAM = """
import sys, threading
from monitorgen.kernels.export import exporting
with exporting(port=0, duration={duration}) as port:
    print(port, flush=True)
    if {busy}:
        threading.Event().wait()
"""


@pytest.mark.parametrize(
    ("busy", "code", "said"),
    [(True, 128 + signal.SIGTERM, "goes down: SIGTERM"), (False, 0, "goes down: SIGTERM")],
    ids=["at work", "serving on"],
)
def test_sigterm_ends_a_workload_at_once(busy: bool, code: int, said: str, end_by_sigterm: Any) -> None:
    program = PROGRAM.format(duration=3600, busy=busy)
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        port = int(process.stdout.readline())
        scrape(port)
        if not busy:
            while "work done" not in process.stderr.readline():
                assert process.poll() is None
        errors = end_by_sigterm(process)
    assert process.returncode == code
    assert said in errors
    assert "Traceback" not in errors
