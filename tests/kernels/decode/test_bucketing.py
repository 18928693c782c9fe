"""CUDA graph bucketing: both arms decode the same, what they capture differs, and the simulator adds up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the workloads need torch")

from monitorgen.kernels.decode import (
    baseline_cudagraph_bucketing,
    graph_costs,
    optimized_cudagraph_bucketing,
    vllm_sizes,
)
from monitorgen.kernels.decode.bucket_loop import Loop, PriceMachine
from monitorgen.kernels.decode.buckets import Costs, bill
from monitorgen.kernels.decode.graph_costs import load
from monitorgen.kernels.decode.traces import ragged_trace, read_trace
from monitorgen.kernels.workload import WORKLOADS, UsageError

RECORDED = str(Path(graph_costs.__file__).with_name("graph_costs_vllm_h100.json"))
SMALL = ["--vllm-sizes", "recorded", "--max-num-seqs", "8", "--steps", "40", "--min-batch", "1",
         "--max-batch", "9", "--hidden", "8", "--inner", "16", "--layers", "2", "--device", "cpu",
         "--vllm-model", "llama"]  # fmt: skip


def difference(a: list[float], b: list[float]) -> float:
    """|a - b| / |b|"""
    return (sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / sum(y * y for y in b)) ** 0.5


def test_both_arms_decode_the_same_and_only_one_captures_while_decoding() -> None:
    baseline = baseline_cudagraph_bucketing.prepare(SMALL)
    optimized = optimized_cudagraph_bucketing.prepare(SMALL)
    for run in (baseline, optimized):
        run.step()
        run.step()
    ours, theirs = optimized.outcome(), baseline.outcome()
    assert ours.exact == theirs.exact
    values, tolerance = ours.close["outputs"]
    assert any(values)
    assert difference(values, theirs.close["outputs"][0]) < tolerance
    sizes = len(set(ragged_trace(40, 1, 9, 20)))
    assert baseline.metrics()["captures"] == baseline.metrics()["recaptures"] == 2 * sizes  # anew each time
    assert (optimized.metrics()["captures"], optimized.metrics()["recaptures"]) == (5, 0)  # 1, 2, 4, 8, 16
    assert baseline.metrics()["padding_tokens"] == 0
    assert optimized.metrics()["padding_tokens"] > 0
    assert optimized.metrics()["tokens"] == 2 * sum(ragged_trace(40, 1, 9, 20))


COSTS = Costs(lambda n: 10.0 + n, lambda n: 100.0 + n, lambda n: 50.0 + n, lambda n: 7.0)


@pytest.mark.parametrize("buckets", [(4, 9), (9,), (4,), (1, 2, 3, 4, 5, 6, 7, 8, 9)])
def test_the_simulated_loop_costs_what_the_bill_says(buckets: tuple[int, ...]) -> None:
    trace = ragged_trace(60, 1, 9, 3)
    loop = Loop(PriceMachine(COSTS), buckets)
    loop.warm_up()
    loop.run(trace)
    tally, expected = loop.tally, bill(trace, buckets, COSTS)
    assert tally.step_seconds == pytest.approx(expected.step_seconds)
    assert tally.capture_seconds == expected.capture_seconds
    assert (tally.padding_rows, tally.eager_steps) == (expected.padding_rows, expected.eager_steps)
    assert tally.graph_bytes == expected.graph_bytes
    assert (tally.captures, tally.recaptures, tally.evictions) == (len(buckets), 0, 0)


def test_a_graph_that_made_room_is_captured_again() -> None:
    loop = Loop(PriceMachine(COSTS), None, keep=2)
    loop.run([1, 2, 1, 3, 1, 2])  # 3 takes the place of 2, which is then captured again in the place of 3
    assert (loop.tally.captures, loop.tally.evictions) == (4, 2)
    assert loop.tally.graph_bytes == 14.0
    assert loop.tally.longest_step_seconds == (100 + 3) + (10 + 3)


def test_the_bundled_calibration_says_what_it_is() -> None:
    calibration = load()
    costs = calibration.costs()
    assert calibration.provenance["device"]
    assert costs.replay(1) > 0
    recorded = load(Path(vllm_sizes.__file__).parent / "graph_costs_vllm_h100.json")
    assert recorded.kind == "recorded"
    # 51 sizes captured twice in 3 s and 0.45 GiB.
    assert 102 * recorded.costs().capture(100) == pytest.approx(3.0, rel=1e-4)
    assert 102 * recorded.costs().graph_bytes(100) == pytest.approx(0.45 * 2**30, rel=1e-4)
    assert 128 / recorded.costs().replay(128) == pytest.approx(17815, rel=1e-3)


def calibration_file(folder: Path, **changes: object) -> Path:
    point = {
        "batch": 4,
        "replay_seconds": 1.0,
        "capture_seconds": 2.0,
        "graph_bytes": 8,
        "eager_seconds": 3.0,
    }
    document: dict[str, object] = {
        "schema": 1, "kind": "measured", "name": "here", "provenance": {"device": "x"},
        "points": [point, point | {"batch": 8, "replay_seconds": 2.0}],
    }  # fmt: skip
    file = folder / "costs.json"
    file.write_text(json.dumps(document | changes))
    return file


@pytest.mark.parametrize(("size", "seconds"), [(1, 1.0), (4, 1.0), (6, 1.5), (8, 2.0), (12, 3.0)])
def test_costs_between_points_are_interpolated(tmp_path: Path, size: int, seconds: float) -> None:
    costs = load(calibration_file(tmp_path)).costs()
    assert costs.replay(size) == pytest.approx(seconds)
    assert costs.eager is not None


def test_a_calibration_survives_being_written(tmp_path: Path) -> None:
    first = load(calibration_file(tmp_path))
    file = tmp_path / "again.json"
    file.write_text(json.dumps(first.document()))
    assert load(file) == first


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schema": 2}, "schema 2 is unknown"),
        ({"kind": "guessed"}, "kind is 'guessed'"),
        ({"points": []}, "one point or more"),
        ({"points": [{"batch": 1}]}, "replay_seconds"),
        (
            {"points": [{"batch": 0, "replay_seconds": 1, "capture_seconds": 1, "graph_bytes": 1}]},
            "size below 1",
        ),
        ({"points": 3}, "no calibration"),
    ],
)
def test_a_broken_calibration_is_refused(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load(calibration_file(tmp_path, **changes))


@pytest.mark.parametrize("text", ["3 4\n5", "[3, 4, 5]"])
def test_a_trace_is_read_from_a_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "trace"
    file.write_text(text)
    assert read_trace(file) == (3, 4, 5)


@pytest.mark.parametrize("text", ["", "3 x", "[3, 0]", "[true]", "[3.5]", "-1", '["3"]'])
def test_a_file_that_is_no_trace_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "trace"
    file.write_text(text)
    with pytest.raises(UsageError, match="no trace"):
        read_trace(file)


def test_a_drawn_trace_stays_in_its_bounds_and_is_seeded() -> None:
    trace = ragged_trace(500, 3, 28, 1)
    assert (min(trace), max(trace)) == (3, 28)
    assert trace == ragged_trace(500, 3, 28, 1) != ragged_trace(500, 3, 28, 2)


def test_sizes_without_vllm_come_from_the_table_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_sizes, "installed", lambda: False)
    made = vllm_sizes.capture_sizes("gpt-oss-20b")
    assert (len(made.sizes), made.sizes[-1]) == (83, 1024)
    assert "vLLM is not installed" in made.source
    assert len(vllm_sizes.capture_sizes("meta-llama/Llama-3.1-8B-Instruct").sizes) == 51
    assert "not in our table" in vllm_sizes.capture_sizes("nobody/knows-this").source


def test_a_model_folder_is_known_by_its_architecture(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["GptOssForCausalLM"]}')
    assert vllm_sizes.architecture_of(str(tmp_path)) == "GptOssForCausalLM"


def test_the_command_reports_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "out.json"
    flags = [*SMALL, "--most", "2", "--json", str(file)]
    assert optimized_cudagraph_bucketing.main(flags) == 0
    said = capsys.readouterr().out
    document = json.loads(file.read_text())
    assert document["this_run"]["recaptures"] == 0
    rows = {row["name"]: row for row in document["simulated"]}
    assert {"captured as seen", "this plan", "best set", "best of at most 2"} <= set(rows)
    total = {name: row["step_seconds"] + row["capture_seconds"] for name, row in rows.items()}
    assert total["best set"] == min(total.values())
    assert len(rows["best of at most 2"]["buckets"]) <= 2
    assert load().name in said
    assert "no CUDA graphs" in said
    smoke = document["compile_smoke"]
    assert smoke["programs"] == smoke["sizes"] == len(document["this_run"]["replays_by_bucket"])
    assert smoke["largest_difference"] < 1e-4


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--device", "cuda"], "no CUDA device here"),
        (["--calibrate", "x.json"], "no CUDA device here"),
        (["--min-batch", "9", "--max-batch", "3"], "from 9 to 3"),
        (["--steps", "0"], "--steps 0"),
        (["--buckets", "0,4"], "bucket size 0"),
        (["--buckets", "4,x"], "--buckets 4,x"),
        (["--buckets", "4", "--calibration", RECORDED], "add a bucket of"),
        (["--max-num-seqs", "0"], "limits of 1 or more"),
        (["--trace", "nowhere"], "nowhere"),
        (["--calibration", "nowhere.json"], "nowhere.json"),
        (["--vllm-model", "./nowhere"], "no model folder"),
        (["--hidden", "0"], "0 is not in the range"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    flags: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    assert optimized_cudagraph_bucketing.main(["--vllm-sizes", "recorded", *flags]) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert len(captured.err.splitlines()) == 1


def test_the_workload_is_listed() -> None:
    assert {"baseline", "optimized"} == set({w.name: w for w in WORKLOADS}["cudagraph_bucketing"].arms)
