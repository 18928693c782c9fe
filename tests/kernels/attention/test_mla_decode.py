"""The MLA decode workload: its arms agree, count what they do, and export it; its kernels on a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workloads' extra is not installed")
pytest.importorskip("triton", reason="an arm is Triton's")

sys.path.insert(0, str(Path(__file__).parent))
from mla_cases import distance, lse_distance, made  # noqa: E402

from monitorgen.kernels.agreement import differences  # noqa: E402
from monitorgen.kernels.attention import (  # noqa: E402
    baseline_mla_decode,
    bench_mla,
    flashmla_probe,
    mla_triton,
    mla_tune,
)
from monitorgen.kernels.attention.mla_decode_common import lengths_of  # noqa: E402
from monitorgen.kernels.attention.mla_inputs import make_inputs  # noqa: E402
from monitorgen.kernels.attention.mla_reference import mla_reference  # noqa: E402
from monitorgen.kernels.attention.mla_torch import mla_torch  # noqa: E402
from monitorgen.kernels.workload import WORKLOADS  # noqa: E402

(WORKLOAD,) = (workload for workload in WORKLOADS if workload.name == "mla_decode")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
SMALL = ["--device", "cpu", "--batch", "3", "--context", "70", "--heads", "5", "--ragged"]


def test_dense_torch_is_the_reference_with_pages_that_exist() -> None:
    q, cache, table, lengths = made([97, 0, 1, 300], 5, 32, dtype=torch.float16)
    existing = table.clamp_min(0)  # dense torch gathers also what no request holds: here a page of NaN
    out, lse = mla_torch(q, cache, existing, lengths, 0.05)
    wanted, sums = mla_reference(q, cache, table, lengths, 0.05)
    assert distance(out, wanted) < 2e-3
    assert lse_distance(lse, sums) < 5e-3
    assert bool((out[1] == 0).all())


def test_the_arms_agree_and_offer_numbers() -> None:
    outcomes = []
    for arm in WORKLOAD.arms:
        run = WORKLOAD.prepare(arm, SMALL)
        run.step()
        outcomes.append(run.outcome())
        run.close()
    assert len(outcomes) == 3
    numbers, tolerance = outcomes[0].close["out"]
    assert len(numbers) == 3 * 5 * 512
    assert tolerance == 8e-3
    assert any(numbers)
    assert differences(outcomes[0], outcomes[1]) == differences(outcomes[0], outcomes[2]) == []


def test_bytes_and_operations_are_those_of_the_algorithm() -> None:
    run = WORKLOAD.prepare("baseline", SMALL)  # lengths 4, 37, 70
    assert run.metrics()["tokens"] == 111
    assert run.flops == 2 * 5 * 111 * (576 + 512)
    # Tokens, q and output in bf16; 4 pages of the table and 3 lengths in int32.
    assert run.bytes_moved == 2 * (111 * 576 + 3 * 5 * (576 + 512)) + 4 * (4 + 3)


@pytest.mark.parametrize(
    ("batch", "context", "ragged", "wanted"),
    [
        (3, 70, False, [70, 70, 70]),
        (3, 70, True, [4, 37, 70]),
        (1, 9, True, [9]),
        (2, 3, True, [1, 3]),
    ],
)
def test_lengths(batch: int, context: int, ragged: bool, wanted: list[int]) -> None:
    assert lengths_of(batch, context, ragged) == wanted


def test_pages_of_inputs_are_each_held_once() -> None:
    inputs = make_inputs([65, 0, 64, 1], 2, device="cpu")
    assert inputs.table.shape == (4, 2)
    assert sorted([*inputs.table[0].tolist(), int(inputs.table[2, 0]), int(inputs.table[3, 0])]) == [
        0,
        1,
        2,
        3,
    ]
    assert inputs.cache.shape == (4, 64, 576)


def test_calls_are_counted_and_served(end_by_sigterm: Any) -> None:
    command = [sys.executable, "-m", "monitorgen.kernels.attention.optimized_mla_decode", *SMALL]
    command += ["--repeats", "4", "--prom-port", "0", "--prom-duration", "60"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        assert process.stderr is not None
        said = ""
        while "work done" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        port = re.search(r"http://127.0.0.1:(\d+)/metrics", said)
        assert port is not None
        url = f"http://127.0.0.1:{port[1]}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        end_by_sigterm(process)
    assert "plain torch computes every arm here" in said
    served = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    label = '{kernel="mla_decode_optimized"}'
    assert float(served[f"monitorgen_kernel_seconds_count{label}"]) == 4
    assert float(served[f"monitorgen_kernel_flops_total{label}"]) == 4 * 2 * 5 * 111 * 1088
    assert float(served[f"monitorgen_kernel_roofline_ratio{label}"]) > 0
    assert float(served[f"monitorgen_kernel_seconds_sum{label}"]) > 0


@pytest.mark.parametrize(
    ("main", "flags", "said"),
    [
        (baseline_mla_decode.main, ["--heads", "0"], "--heads"),
        (baseline_mla_decode.main, ["--page", "48"], "--page"),
        (baseline_mla_decode.main, ["--prom-duration", "3", *SMALL], "needs --prom-port"),
        (
            baseline_mla_decode.main,
            ["--batch", "4096", "--context", "1000000", "--device", "cpu"],
            "fewer requests",
        ),
        (bench_mla.main, [], "need a CUDA device"),
        (mla_tune.main, ["--out", "nowhere"], "needs a CUDA device"),
        (flashmla_probe.main, [], "needs a Hopper GPU"),
    ],
)
def test_what_cannot_run_is_one_line_and_exit_code_2(
    main: Callable[[list[str]], int],
    flags: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(flags) == 2
    told = capsys.readouterr().err
    assert said in told
    assert len(told.splitlines()) == 1  # no other line, no traceback


@pytest.mark.parametrize(
    ("sizes", "more", "said"),
    [
        ((0, 16, 64, 4), {}, "batch is 0"),
        ((2, 16, 48, 4), {}, "page is 48"),
        ((2, 16, 64, 4), {"dtype": torch.float32}, "dtype is torch.float32"),
        ((2, 16, 64, 2**26), {}, "table_width is 67108864"),
        ((2, 16, 64, 4), {"programs": 0}, "programs is 0"),
        ((2, 16, 64, 4), {"programs": None}, "device is cpu: give programs"),
        ((2, 16, 64, 4), {"config": mla_triton.Config(48)}, r"config\.heads is 48: 16, 64"),
        ((2, 16, 64, 4), {"config": mla_triton.Config(16, warps=3)}, r"config\.warps is 3"),
        ((2, 16, 64, 4), {"config": mla_triton.Config(16, stages=0)}, r"config\.stages is 0"),
    ],
)
def test_plans_that_cannot_be_are_refused(sizes: Any, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        mla_triton.plan(*sizes, **({"device": "cpu", "programs": 2} | more))


def test_a_call_of_another_size_than_the_plan_is_refused() -> None:
    inputs = make_inputs([5, 6], 16, device="cpu")
    plan = mla_triton.plan(2, 32, 64, 1, device="cpu", programs=2)
    with pytest.raises(ValueError, match="the plan is for"):
        mla_triton.run(plan, inputs.q, inputs.cache, inputs.table, inputs.lengths)


def test_candidates_start_with_the_default_and_have_what_the_kernel_takes() -> None:
    for heads in (16, 24, 64, 128):
        found = mla_tune.candidates(heads)
        assert found[0] == mla_triton.default_config(heads)
        assert len(set(found)) == len(found) > 2
        for config in found:
            mla_triton.check_config(config)


@needs_gpu
@pytest.mark.parametrize(("lengths", "heads", "page"), bench_mla.GRID)
def test_triton_on_a_gpu(lengths: list[int], heads: int, page: int) -> None:
    inputs = make_inputs(lengths, heads, page)
    bench_mla.poison(inputs)
    found = bench_mla.check_one(bench_mla.arms(["triton"], {})["triton"], inputs)
    assert found["good"], found  # errors, the same bits twice, a graph that serves other lengths


@needs_gpu
@pytest.mark.parametrize("heads", [16, 128])
def test_every_candidate_that_fits_is_right(heads: int) -> None:
    for config in mla_tune.candidates(heads):
        failure = mla_tune.compile_one(heads, config)
        assert failure == "" or failure.startswith("OutOfResources"), config
