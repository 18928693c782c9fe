"""Speeds follow from measured times and from bytes that are really there; here on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workloads' extra is not installed")
pytest.importorskip("triton", reason="tiles are Triton's")

from monitorgen.kernels.decode import decode_throughput, tune  # noqa: E402
from monitorgen.kernels.decode.stepper import make_stepper  # noqa: E402
from monitorgen.kernels.decode.torch_ops import TorchOps  # noqa: E402
from monitorgen.kernels.decode.weights import make_weights  # noqa: E402
from monitorgen.kernels.workload import WORKLOADS, UsageError  # noqa: E402

(WORKLOAD,) = (workload for workload in WORKLOADS if workload.name == "decode_throughput")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("found") / "found.json"
    flags = ["--device", "cpu", "--batches", "1,3", "--context", "20", "--tokens", "4", "--repeats", "4"]
    assert decode_throughput.main([*flags, "--telemetry", "5", "--json", str(path)]) == 0
    return json.loads(path.read_text())


def test_speeds_follow_from_times(found: Any) -> None:
    assert [row["batch"] for row in found["rows"]] == [1, 3]
    for row in found["rows"]:
        assert len(row["samples"]) == 4
        median = row["step_seconds"]["median"]
        assert min(row["samples"]) <= median <= max(row["samples"])
        assert row["tokens_per_second"] == pytest.approx(row["batch"] / median)
        assert row["bytes_per_second"] == pytest.approx(row["bytes_per_step"] / median)
        assert row["share_of_copy"] == pytest.approx(row["bytes_per_second"] / found["copy_bytes_per_second"])
        assert row["logits_distance"] < 1e-6
        assert row["graph"] is False


def test_telemetry_is_measured_on_and_off(found: Any) -> None:
    speeds = found["telemetry"]["tokens_per_second"]
    assert {name: len(samples) for name, samples in speeds.items()} == {"on": 11, "off": 11}
    medians = {name: sorted(samples)[5] for name, samples in speeds.items()}
    assert found["telemetry"]["loss"] == pytest.approx(1 - medians["on"] / medians["off"])


def test_bytes_are_those_of_the_tensors() -> None:
    weights = make_weights("tiny", device="cpu", dtype=torch.float32, positions=64)
    stepper = make_stepper(weights, TorchOps(weights), 3, context=20, tokens=1, graph=False)
    read = [
        t
        for t in weights.tensors()
        if t is not weights.embed and t is not weights.cos and t is not weights.sin
    ]
    matrices = sum(t.numel() for t in read)
    # Keys and values of 20 tokens are read and one token's written, for three requests in four layers.
    cache = 2 * 4 * (20 + 1) * 3 * 4 * 32
    assert stepper.bytes_moved == 4 * (matrices + 3 * 256 + cache)


def test_a_run_starts_where_the_last_one_did() -> None:
    weights = make_weights("tiny", device="cpu", dtype=torch.float32, positions=64)
    stepper = make_stepper(weights, TorchOps(weights), 2, context=9, tokens=5, graph=False)
    stepper.step()
    first = (stepper.state.tokens.clone(), stepper.chosen.clone())
    stepper.step()
    assert torch.equal(stepper.state.tokens, first[0])
    assert torch.equal(stepper.chosen, first[1])
    assert stepper.state.positions.tolist() == [14, 14, 0]


def test_the_registered_arms_agree() -> None:
    flags = ["--device", "cpu", "--batch", "2", "--context", "8", "--tokens", "2"]
    runs = [WORKLOAD.prepare(arm, flags) for arm in ("baseline", "optimized")]
    for run in runs:
        run.step()
    (logits, tolerance), (other, _) = (run.outcome().close["logits"] for run in runs)
    assert len(logits) == 2 * 264
    distance = torch.tensor(logits) - torch.tensor(other)
    assert distance.norm() / torch.tensor(other).norm() <= tolerance
    assert runs[0].metrics()["allocator_bytes"] > 4 * 2.4e6
    for run in runs:
        run.close()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--batches", "1,x"], "--batches '1,x'"),
        (["--batches", "0"], "--batches '0'"),
        (["--ops", "magic"], "no magic; there are"),
        (["--context", "5000"], "tiny has 2048 positions"),
        (["--ops", "triton"], "needs --device cuda"),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_2(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert decode_throughput.main(["--device", "cpu", *flags]) == 2
    assert said in capsys.readouterr().err


def test_tuning_needs_cuda(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("triton", reason="tiles are of Triton kernels")
    assert tune.main(["--device", "cpu", "--out", "nowhere"]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err


def test_tiles_are_those_of_the_least_rows_that_hold_a_batch(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="tiles are of Triton kernels")
    from monitorgen.kernels.decode.triton_ops import Tile, TritonOps

    ops = TritonOps(make_weights("tiny", device="cpu", dtype=torch.float32, positions=8), 8)
    file = tmp_path / "tiles.json"
    entries = [
        {"rows": rows, "part": "down", "tile": {"bm": bm, "bn": 32, "bk": 128, "warps": 4, "stages": 3}}
        for rows, bm in ((1, 1), (16, 16), (64, 64))
    ]
    file.write_text(json.dumps({"tiles": entries}))
    for batch, bm in ((1, 1), (2, 16), (16, 16), (17, 64)):
        assert tune.tiles_for(file, batch, ops) == {"down": Tile(bm, 32, 128, 4, 3)}
    assert tune.tiles_for(file, 65, ops) == {}
    file.write_text("{}")
    with pytest.raises(UsageError, match="cannot be read"):
        tune.tiles_for(file, 1, ops)
