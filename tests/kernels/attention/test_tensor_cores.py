"""The workload `tensor_cores`: its arms agree, a wrong answer is told, and what it exports is measured."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workloads' extra is not installed")

from monitorgen import telemetry  # noqa: E402
from monitorgen.catalog import exposition  # noqa: E402
from monitorgen.kernels import agreement  # noqa: E402
from monitorgen.kernels.attention import baseline_tensor_cores, tensor_cores_common  # noqa: E402
from monitorgen.kernels.attention.prefill_common import Problem  # noqa: E402
from monitorgen.kernels.attention.tensor_cores_common import Way, make_command, sdpa  # noqa: E402
from monitorgen.kernels.command import parse  # noqa: E402
from monitorgen.kernels.counters import Expected  # noqa: E402
from monitorgen.kernels.expected import expected, hardware_key  # noqa: E402
from monitorgen.kernels.workload import WORKLOADS, UsageError  # noqa: E402

(WORKLOAD,) = (workload for workload in WORKLOADS if workload.name == "tensor_cores")
CPU = ["--device", "cpu"]


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--full", "--tokens", "97", "--heads", "6", "--kv-heads", "3"],
        ["--tokens", "54", "--dtype", "fp16", "--head-dim", "128", "--batch", "2"],
    ],
)
def test_the_arms_agree_and_are_right(flags: list[str]) -> None:
    runs = {arm: WORKLOAD.prepare(arm, [*CPU, *flags]) for arm in WORKLOAD.arms}
    assert list(runs) == ["baseline", "optimized", "warp_specialized"]
    for run in runs.values():
        run.step()
        assert run.device == "cpu"
        assert run.metrics()["error"] <= run.error_limit <= 8e-3
    first, *others = (run.outcome() for run in runs.values())
    for other in others:
        assert agreement.differences(first, other) == []
    for run in runs.values():
        run.close()


def test_a_wrong_answer_fails_the_run(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(tensor_cores_common.timing, "ceilings", ceilings)

    def forgetful(problem: Problem, dtype: Any, device: Any) -> Way:
        right = sdpa(problem)
        return Way("the mask forgotten in one row", lambda q, k, v: spoilt(right(q, k, v)))

    def spoilt(out: Any) -> Any:
        out[:, :, -1] = 0.0
        return out

    command = make_command("optimized", forgetful, "Wrong.")
    assert tensor_cores_common.main("optimized", command, [*CPU, "--repeats", "1"]) == 1
    said = capsys.readouterr()
    assert "a wrong answer" in said.err
    assert float(re.findall(r"float64 (\S+) ", said.out)[0]) > 0.01


def ceilings(device: str) -> dict[str, float]:
    """What nobody has to measure to see which line is printed."""
    return {"copy_gb_per_s": 1e3, "read_gb_per_s": 1e3, "bf16_matmul_tflop_per_s": 1.0}


def test_what_runs_on_a_cpu_is_said(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(tensor_cores_common.timing, "ceilings", ceilings)
    for arm, said in (
        ("baseline", "baseline on cpu: matmul, softmax, matmul"),
        ("optimized", "torch's fused attention, since a CPU runs no Triton kernel"),
        ("warp_specialized", "no specialised warps"),
    ):
        module = __import__(WORKLOAD.arms[arm], fromlist=["main"])
        assert module.main([*CPU, "--repeats", "1", "--tokens", "33"]) == 0
        out = capsys.readouterr().out
        assert said in out
        assert "33 tokens" in out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--head-dim", "80"], "'80' is not one of '64', '128'"),
        (["--heads", "5", "--kv-heads", "2"], "query heads 5: supported is a multiple of the 2 KV heads"),
        (["--tokens", "0"], "0 is not in the range"),
        (["--prom-duration", "3"], "--prom-duration 3 needs --prom-port"),
        (["--batch", "9000000"], "free on cpu: take a smaller --batch"),
        *([] if torch.cuda.is_available() else [(["--device", "cuda"], "torch sees no CUDA device")]),
    ],
)
def test_wrong_flags_are_named(flags: list[str], said: str, capsys: Any) -> None:
    given = flags if "--device" in flags else [*CPU, *flags]
    assert baseline_tensor_cores.main(given) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_what_is_exported_is_measured(end_by_sigterm: Any) -> None:
    argv = [sys.executable, "-m", WORKLOAD.arms["optimized"], *CPU, "--prom-port", "0", "--rate", "100"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url = re.findall(r"http://\S+", process.stderr.readline())[0]
        while "calls go on" not in (line := process.stderr.readline()):
            assert line, "it ended"
        pages = [scraped(url)]
        while pages[-1]["monitorgen_kernel_calls_total"] <= pages[0]["monitorgen_kernel_calls_total"]:
            pages.append(scraped(url))
        said = end_by_sigterm(process)
    page = pages[-1]
    assert process.returncode == 0
    assert "ended by request" in said
    assert {name for name in page if not name.startswith("monitorgen_kernel_seconds")} == {
        metric.name for metric in telemetry.KERNELS if metric.type != "histogram"
    }
    calls = page["monitorgen_kernel_calls_total"]
    problem = Problem(1, 4, 2, 256, 256, 64, True)
    assert page["monitorgen_kernel_flops_total"] == pytest.approx(calls * problem.flops)
    assert page["monitorgen_kernel_bytes_total"] == pytest.approx(calls * problem.bytes_moved(2))
    assert 1e-4 < page["monitorgen_kernel_error_ratio"] < page["monitorgen_kernel_error_limit_ratio"] == 4e-3
    assert page["monitorgen_kernel_roofline_ratio"] > 0
    mean = page["monitorgen_kernel_seconds_sum"] / page["monitorgen_kernel_seconds_count"]
    assert mean / 50 < page["monitorgen_kernel_expected_seconds"] < mean * 50


def scraped(url: str) -> dict[str, float]:
    """The one sample of each series but buckets."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        families = exposition.parse(answer.read().decode())
    samples = [s for family in families for s in family.samples if "le" not in s.labels]
    assert {s.labels["kernel"] for s in samples} == {"optimized_tensor_cores"}
    return {s.name: s.value for s in samples}


# What is expected

GPU = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    metrics = {"optimized_time_ms": 1.5, "optimized_flags": ["--full"], "baseline_time_ms": 9.0}
    examples = {"tensor_cores": {"metrics": metrics, "provenance": {}}}
    (tmp_path / "nvidia_h100_80gb_hbm3.json").write_text(json.dumps({"examples": examples}))
    return tmp_path


def test_the_key_is_the_one_of_the_bench() -> None:
    from monitorgen.bench.environment import hardware_key as of_bench

    assert hardware_key(GPU) == of_bench({"gpu": GPU}, {}) == "nvidia_h100_80gb_hbm3"


@pytest.mark.parametrize(
    ("gpu", "workload", "arm", "full", "seconds"),
    [
        (GPU, "tensor_cores", "optimized", True, 1.5e-3),
        (GPU, "tensor_cores", "optimized", False, None),  # timed with other options
        (GPU, "tensor_cores", "baseline", False, 9e-3),
        (GPU, "tensor_cores", "warp_specialized", True, None),
        (GPU, "other", "optimized", True, None),
        ("Some Other GPU", "tensor_cores", "optimized", True, None),
        ("", "tensor_cores", "optimized", True, None),
    ],
)
def test_a_file_expects_of_the_same_options_alone(
    folder: Path, gpu: str, workload: str, arm: str, full: bool, seconds: float | None
) -> None:
    def same(flags: list[str]) -> bool:
        return parse(baseline_tensor_cores.command, flags, "x")["causal"] is not full

    found = expected(gpu, workload, arm, same, folder)
    assert found == (None if seconds is None else Expected(seconds, "expectations"))


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"examples": []}', '{"examples": {"tensor_cores": {"metrics": 3}}}']
)
def test_a_file_that_holds_none_is_named(folder: Path, text: str) -> None:
    path = folder / "nvidia_h100_80gb_hbm3.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=re.escape(f"{path} holds no expectations")):
        expected(GPU, "tensor_cores", "optimized", lambda flags: True, folder)
