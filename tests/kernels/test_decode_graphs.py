"""Both arms decode the same tokens, count what they did, and export it; here without CUDA graphs."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workloads' extra is not installed")

from monitorgen import telemetry  # noqa: E402
from monitorgen.catalog import exposition  # noqa: E402
from monitorgen.kernels.counters import DecodeCounters  # noqa: E402
from monitorgen.kernels.decode import loop as loop_module  # noqa: E402
from monitorgen.kernels.decode.decode_graphs_common import GraphsRun  # noqa: E402
from monitorgen.kernels.decode.loop import DecodeLoop, Policy  # noqa: E402
from monitorgen.kernels.decode.model import generate  # noqa: E402
from monitorgen.kernels.decode.pool import Compaction, PagePool  # noqa: E402
from monitorgen.kernels.decode.state import static_cache  # noqa: E402
from monitorgen.kernels.decode.torch_ops import TorchOps  # noqa: E402
from monitorgen.kernels.decode.trace import Plan, plan_requests, random_sizes, read_sizes  # noqa: E402
from monitorgen.kernels.decode.weights import Weights, make_weights  # noqa: E402
from monitorgen.kernels.workload import WORKLOADS, UsageError  # noqa: E402

(WORKLOAD,) = (workload for workload in WORKLOADS if workload.name == "vllm_decode_graphs")
SMALL = ("--device", "cpu", "--steps", "40", "--max-batch", "9", "--context", "48", "--page-size", "4")


@pytest.fixture(scope="module")
def tiny() -> Weights:
    return make_weights("tiny", device="cpu", dtype=torch.float32, seed=1, positions=128)


@pytest.fixture(scope="module")
def plan() -> Plan:
    sizes = random_sizes(40, 3, 9, seed=5)
    return plan_requests(sizes, vocab=264, prompt=(1, 7), longest=40, seed=5)


def decoded(weights: Weights, plan: Plan, policy: Policy, page_size: int = 4) -> DecodeLoop:
    loop = DecodeLoop(weights, TorchOps(weights), plan, policy, DecodeCounters("tiny"), page_size=page_size)
    loop.run()
    return loop


BASELINE = Policy()
OPTIMIZED = Policy(buckets=(4, 8, 12), pages=9 * 11, fragmentation=0.2, age=2)


def test_every_request_gets_the_tokens_it_would_get_alone(tiny: Weights, plan: Plan) -> None:
    alone = []
    wanted = [sum(number in step.rows for step in plan.steps) + 1 for number in range(len(plan.prompts))]
    for prompt, count in zip(plan.prompts, wanted, strict=True):
        cache, state = static_cache(tiny.config, 1, 64, device="cpu", dtype=torch.float32)
        alone += generate(tiny, cache, state, TorchOps(tiny), [list(prompt)], count)
    baseline, optimized = (decoded(tiny, plan, policy) for policy in (BASELINE, OPTIMIZED))
    assert baseline.tokens == alone
    assert optimized.tokens == alone
    # Both did what they are there for, so that the tokens say that it did no harm.
    assert baseline.growths > 0
    assert baseline.moved > 0
    assert optimized.moved > 0
    assert optimized.counters.padding_tokens > 0


def test_a_pass_can_be_repeated(tiny: Weights, plan: Plan) -> None:
    for policy in (BASELINE, OPTIMIZED):
        loop = decoded(tiny, plan, policy)
        first, counted = loop.tokens, loop.counters.tokens
        loop.reset()
        loop.run()
        assert loop.tokens == first
        assert loop.counters.tokens == 2 * counted


def test_what_is_counted_is_what_the_plan_says(tiny: Weights, plan: Plan) -> None:
    rows = [len(step.rows) for step in plan.steps]
    baseline, optimized = (decoded(tiny, plan, policy).counters for policy in (BASELINE, OPTIMIZED))
    for counters in (baseline, optimized):
        assert counters.tokens == sum(rows)
        assert counters.steps == len(rows)
        assert counters.batch_size == rows[-1]
        assert (counters.captures, counters.graphs, counters.mode) == (0, False, "eager")
        assert 0 < counters.step_seconds < 60
    assert baseline.padding_tokens == 0
    assert optimized.padding_tokens == sum(next(b for b in (4, 8, 12) if b >= n) - n for n in rows)
    assert 0 < optimized.compactions < baseline.compactions


class RecordedGraph:
    """Stands in for a CUDA graph where there is none: replays by calling what was captured."""

    pools: list[Any] = []  # noqa: RUF012 - the fixture makes it anew

    def __init__(self, step: Callable[[], None], pool: Any) -> None:
        step()  # as the run before a capture: on the scratch slot, it must harm nothing
        self.replay = step
        RecordedGraph.pools.append(pool)


@pytest.fixture
def on_recorded_graphs(monkeypatch: pytest.MonkeyPatch) -> type[RecordedGraph]:
    """The loop takes the path of a CUDA device, with graphs that are recorded instead of captured."""
    nothing = SimpleNamespace(record=lambda: None, synchronize=lambda: None, elapsed_time=lambda other: 250.0)
    fake = SimpleNamespace(
        Event=lambda **_: nothing, graph_pool_handle=lambda: "shared", synchronize=lambda: None
    )
    monkeypatch.setattr(loop_module, "cuda", fake)
    monkeypatch.setattr(loop_module, "capture", RecordedGraph)
    monkeypatch.setattr(loop_module, "run_aside", lambda step: step())
    monkeypatch.setattr(DecodeLoop, "on_cuda", True)
    monkeypatch.setattr(RecordedGraph, "pools", [])
    return RecordedGraph


def test_the_baseline_captures_late_and_again(
    tiny: Weights, plan: Plan, on_recorded_graphs: type[RecordedGraph]
) -> None:
    loop = decoded(tiny, plan, BASELINE)
    counters, sizes = loop.counters, [len(step.rows) for step in plan.steps]
    # Every size is new once; after the pool grew, those that are needed again are captured again.
    assert counters.recaptures["new_shape"] == len(set(sizes))
    assert loop.growths > 0
    assert counters.recaptures["allocator"] > 0
    assert counters.captures == sum(counters.recaptures.values()) == len(on_recorded_graphs.pools)
    assert set(on_recorded_graphs.pools) == {None}
    assert counters.replays == {size: sizes.count(size) for size in set(sizes)}
    assert counters.capture_seconds > 0
    assert loop.prefill_seconds == 0.25 * sum(1 for step in plan.steps if step.admitted)  # as events say
    tokens = loop.tokens
    loop.reset()
    loop.run()
    assert counters.recaptures["new_shape"] == 2 * len(set(sizes))
    assert loop.tokens == tokens


def test_kept_graphs_are_not_captured_again(
    tiny: Weights, plan: Plan, on_recorded_graphs: type[RecordedGraph]
) -> None:
    loop = decoded(tiny, plan, Policy(keep=True))
    captured = loop.counters.captures
    loop.reset()
    loop.run()
    # The pool has grown already, so only sizes that were not needed since then are captured.
    assert loop.counters.captures - captured < captured
    assert loop.counters.recaptures["new_shape"] == len({len(step.rows) for step in plan.steps})


def test_the_optimized_arm_captures_only_its_buckets_before_the_first_step(
    tiny: Weights, plan: Plan, on_recorded_graphs: type[RecordedGraph]
) -> None:
    loop = decoded(tiny, plan, OPTIMIZED)
    assert list(loop.batches) == [12, 8, 4]  # largest first
    assert on_recorded_graphs.pools == ["shared"] * 3
    assert loop.counters.captures == 3
    assert sum(loop.counters.recaptures.values()) == 0
    assert sum(loop.counters.replays.values()) == len(plan.steps)
    assert set(loop.counters.replays) <= {4, 8, 12}
    held = {batch.work.qkv.untyped_storage().data_ptr() for batch in loop.batches.values()}
    assert len(held) == 1  # one workspace for all
    assert loop.tokens == decoded(tiny, plan, BASELINE).tokens


def test_pages_stay_with_their_owners_over_random_lives() -> None:
    draw, pool = random.Random(7), PagePool(64)
    owned: dict[int, list[int]] = {}
    for at in range(600):
        if owned and (draw.random() < 0.45 or len(pool.free) < 4):
            pool.give(owned.pop(draw.choice(list(owned))))
        else:
            owned[at] = [pool.take() for _ in range(draw.randint(1, 4))]
        if draw.random() < 0.1:
            moves = pool.compact()
            assert not set(moves) & set(moves.values())
            owned = {key: [moves.get(page, page) for page in pages] for key, pages in owned.items()}
            assert pool.fragmentation == 0
        held = sorted(page for pages in owned.values() for page in pages)
        assert held == sorted(pool.used)
        assert sorted(held + pool.free) == list(range(64))
        assert pool.extent == (held[-1] + 1 if held else 0)


@pytest.mark.parametrize(
    ("rule", "due"),
    [
        ((0.0, 0), [False, True, True, False, True, True, True]),
        ((0.4, 0), [False, False, True, False, False, True, True]),
        ((0.0, 1), [False, False, True, False, False, True, False]),
        ((0.4, 1), [False, False, False, False, False, False, True]),
    ],
)
def test_compaction_waits_for_fragmentation_and_age(rule: tuple[float, int], due: list[bool]) -> None:
    class Holes:
        fragmentation = 0.0

    found, pool, compaction = [], Holes(), Compaction(*rule)
    for step, pool.fragmentation in enumerate((0.0, 0.3, 0.5, 0.0, 0.3, 0.5, 0.5)):
        found.append(compaction.due(pool, step))  # type: ignore[arg-type]
    assert found == due


def test_a_plan_follows_its_trace() -> None:
    sizes = random_sizes(200, 3, 28, seed=1)
    assert min(sizes) >= 3
    assert max(sizes) <= 28
    assert len(set(sizes)) > 10
    assert sizes != random_sizes(200, 3, 28, seed=2)
    plan = plan_requests(sizes, vocab=50, prompt=(2, 5), longest=30, seed=1)
    assert [len(step.rows) for step in plan.steps] == sizes
    live: set[int] = set()
    for step, lengths in zip(plan.steps, plan.lengths(), strict=True):
        assert set(step.finished) <= live
        live = live - set(step.finished) | set(step.admitted)
        assert live == set(step.rows)
        assert max(lengths) < 30
    assert plan.context == max(max(lengths) for lengths in plan.lengths()) + 1
    assert {len(prompt) for prompt in plan.prompts} == {2, 3, 4, 5}


@pytest.mark.parametrize(
    ("text", "sizes"),
    [("3 5\n7, 8\n", [3, 5, 7, 8]), ("[3, 5]", [3, 5]), ("# running\n4\n4 # two\n", [4, 4])],
)
def test_a_trace_is_read_from_a_file(text: str, sizes: list[int], tmp_path: Path) -> None:
    (tmp_path / "trace").write_text(text)
    assert read_sizes(tmp_path / "trace") == sizes


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "number 1 is ''"), ("[]", "no batch sizes"), ("3 x", "number 2 is 'x'"), ("0", "number 1 is '0'"),
     ("[1, true]", "number 2 is True"), ("[3", "Expecting"), ("3 -1", "number 2 is '-1'"),
     (None, "No such file")],
)  # fmt: skip
def test_a_broken_trace_is_refused(text: str | None, said: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "trace").write_text(text)
    with pytest.raises(UsageError, match=re.escape(said)):
        read_sizes(tmp_path / "trace")


def test_time_of_prefills_is_told_apart(tiny: Weights, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    prefills = sum(1 for step in plan.steps if step.admitted)
    clock, real = [0.0], loop_module.prefill

    def slow(*args: Any) -> Any:
        clock[0] += 2.0
        return real(*args)

    def step(*args: Any) -> None:
        clock[0] += 0.5
        loop_module.decode_step(*args)

    monkeypatch.setattr(loop_module, "prefill", slow)
    monkeypatch.setattr(loop_module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    counters = DecodeCounters("tiny")
    loop = DecodeLoop(tiny, TorchOps(tiny), plan, OPTIMIZED, counters, page_size=4, step=step)
    loop.run()
    assert loop.prefill_seconds == 2.0 * prefills > 0
    found = GraphsRun(loop, counters, 0.0).metrics()
    assert found["decode_seconds"] == 0.5 * len(plan.steps)
    assert found["decode_tokens_per_second"] == counters.tokens / (0.5 * len(plan.steps))


def test_the_registered_arms_agree() -> None:
    runs = {arm: WORKLOAD.prepare(arm, SMALL) for arm in WORKLOAD.arms}
    for run in runs.values():
        run.step()
        assert run.device == "cpu"
        assert run.metrics()["tokens"] > 0
        assert "captures" not in run.metrics()
    baseline, optimized = runs["baseline"], runs["optimized"]
    assert baseline.outcome().exact == optimized.outcome().exact
    assert baseline.flops == optimized.flops > 2 * 2.4e6 * runs["baseline"].metrics()["tokens"]
    assert baseline.bytes_moved == optimized.bytes_moved > 40 * 4 * 2.4e6
    for run in runs.values():
        run.close()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--nothing"], "No such option '?--nothing"),
        (["--steps", "0"], "--steps"),
        (["--buckets", "2,4", "--max-batch", "9"], "--buckets 2,4: the trace has batches"),
        (["--buckets", "a"], "give whole numbers"),
        (["--min-batch", "9", "--max-batch", "3"], "9 to 3"),
        (["--min-prompt", "50", "--max-prompt", "60", "--context", "40"], "do not fit a context of 40"),
        (["--context", "9000", "--steps", "3000", "--max-batch", "1", "--min-batch", "1"], "tiny has 2048"),
        (["--min-batch", "2000", "--max-batch", "2000", "--page-size", "90000", "--steps", "1"], "are free"),
        (["--model", "nowhere"], "nowhere is no folder"),
        (["--ops", "triton"], "needs --device cuda"),
        (["--trace", "nowhere"], "No such file"),
        *([] if torch.cuda.is_available() else [(["--device", "cuda"], "torch sees no CUDA device")]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_bad_flags_are_one_line_and_exit_code_2(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from monitorgen.kernels.decode import optimized_vllm_decode_graphs as arm

    assert arm.main(["--device", "cpu", *flags]) == 2
    errors = capsys.readouterr().err.strip()
    assert re.search(said, errors)
    assert len(errors.splitlines()) == 1
    with pytest.raises(UsageError, match=said):
        arm.prepare(["--device", "cpu", *flags])


def test_the_command_decodes_exports_and_ends_by_sigterm(tmp_path: Path, end_by_sigterm: Any) -> None:
    found = tmp_path / "found.json"
    command = [
        sys.executable,
        "-m",
        WORKLOAD.arms["optimized"],
        *SMALL,
        "--passes",
        "1",
        "--json",
        str(found),
    ]
    with subprocess.Popen(
        [*command, "--prom-port", "0", "--prom-duration", "3600"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        assert process.stderr is not None
        said = ""
        while "work done" not in said and process.poll() is None:
            said += process.stderr.readline()
        url = re.findall(r"http://\S+/metrics", said)[0]
        with urllib.request.urlopen(url, timeout=60) as answer:
            families = {family.name: family for family in exposition.parse(answer.read().decode())}
        end_by_sigterm(process)
    assert process.returncode == 0
    assert "no CUDA graphs on a CPU" in said
    result: dict[str, Any] = json.loads(found.read_text())
    # The families are those that need no CUDA device, and say what the result says.
    assert set(families) == {metric.name for metric in telemetry.DECODE if not metric.needs}
    values = {name: family.samples[0].value for name, family in families.items() if len(family.samples) == 1}
    assert values["vllm:decode_tokens_total"] == result["metrics"]["tokens"] > 0
    assert values["vllm:decode_padding_tokens_total"] == result["metrics"]["padding_tokens"]
    assert values["vllm:decode_kv_compactions_total"] == result["metrics"]["kv_compactions"]
    assert values["vllm:decode_allocator_bytes"] == result["metrics"]["allocator_bytes"] > 4 * 2.4e6
    (count,) = (s.value for s in families["vllm:decode_step_seconds"].samples if s.name.endswith("_count"))
    assert count == result["steps"] == 40
