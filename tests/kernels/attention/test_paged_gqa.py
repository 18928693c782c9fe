"""Paged GQA decode: Triton's interpreter against float64, wrong input, and the larger grid on a GPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workloads' extra is not installed")
pytest.importorskip("triton", reason="the kernels are Triton's")

from monitorgen.kernels.attention import reference  # noqa: E402
from monitorgen.kernels.attention.paged_checks import GPU_CHECKS, Check, compare, plan_of  # noqa: E402
from monitorgen.kernels.attention.paged_gqa import Plan, padded, plan  # noqa: E402
from monitorgen.kernels.attention.paged_gqa_tuning import Tuning  # noqa: E402

FP8 = torch.float8_e4m3fn
needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="torch sees no CUDA device; the interpreter runs the kernels",
)


@pytest.fixture(scope="module")
def found() -> Any:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed; the extra `dev` has it on Linux")
    program = Path(__file__).with_name("interpreted_paged.py")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_results_and_log_sum_exp_are_those_of_the_reference(found: Any) -> None:
    assert len(found["checks"]) == 26
    for name, check in found["checks"].items():
        # Poison that no sequence owns was not read, and what was poisoned in the output was written.
        assert check["error"] <= check["tolerance"], name
        assert check["lse_error"] <= 1e-6, name
        assert check["empty"], name
    assert found["tensor_scale"] <= 1e-3


def test_a_plan_holds_for_other_lengths(found: Any) -> None:
    assert len(found["changed"]) == 4
    assert max(found["changed"]) <= 1e-3


def test_wrong_lengths_and_pages_are_nan_for_their_sequence_only(found: Any) -> None:
    assert len(found["wrong"]) == 6
    for name, case in found["wrong"].items():
        assert case["nan"], name
        assert case["others"] <= 4e-3, name


SHAPE: dict[str, Any] = {
    "batch": 2, "heads": 8, "kv_heads": 2, "head_dim": 64, "page_size": 16, "max_length": 100,
    "device": "cpu",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"head_dim": 96}, r"head_dim is 96; supported: 64, 128, 256"),
        ({"page_size": 8}, r"page_size is 8; supported: 16, 32, 64"),
        ({"heads": 9}, r"heads is 9; supported: multiples of kv_heads = 2"),
        ({"heads": 34}, r"heads is 34; supported: whole numbers from 1 to 32"),
        ({"kv_heads": 0}, r"kv_heads is 0; supported"),
        ({"batch": 0}, r"batch is 0; supported: whole numbers from 1 to 4096"),
        ({"batch": 4097}, r"batch is 4097"),
        ({"batch": 2.0}, r"batch is 2.0"),
        ({"dtype": torch.float32}, r"dtype is float32; supported: bfloat16, float16"),
        (
            {"kv_dtype": torch.float16},
            r"kv_dtype is float16; supported with queries in bfloat16: bfloat16, f",
        ),
        ({"kv_dtype": torch.float8_e5m2}, r"kv_dtype is float8_e5m2"),
        ({"max_length": 0}, r"max_length is 0"),
        ({"table_width": 6}, r"max_length is 100; supported: up to 96, what a table of 6 pages of 16 tokens"),
        ({"batch": 4096, "kv_heads": 8, "max_length": 1 << 20}, r"batch \* kv_heads \* max_length is"),
        ({"window": -1}, r"window is -1"),
        ({"softcap": -2.0}, r"softcap is -2.0; supported: 0 for none"),
        ({"softcap": float("inf")}, r"softcap is inf"),
        ({"programs": 1 << 20}, r"programs is 1048576"),
        ({"tuning": Tuning(pdl=True)}, r"tuning.pdl is True; supported on a CPU: False"),
    ],
)
def test_plans_that_cannot_be(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan(**{**SHAPE, **changed})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_plan_for_cuda_needs_one() -> None:
    with pytest.raises(ValueError, match="device is cuda; supported here: none"):
        plan(**{**SHAPE, "device": "cuda"})


def tensors() -> dict[str, Any]:
    bf16, where = torch.bfloat16, torch.zeros
    return {
        "q": where(2, 8, 64, dtype=bf16),
        "k_pages": where(9, 16, 2, 64, dtype=bf16),
        "v_pages": where(9, 16, 2, 64, dtype=bf16),
        "table": where(2, 7, dtype=torch.int32),
        "lengths": where(2, dtype=torch.int32),
    }


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("q", torch.zeros(3, 8, 64, dtype=torch.bfloat16), r"q has shape \[3, 8, 64\].*\[2, 8, 64\]"),
        ("q", torch.zeros(2, 8, 64), r"q is float32; supported here: bfloat16"),
        ("q", torch.zeros(2, 64, 8, dtype=torch.bfloat16).mT, r"q has strides \[512, 1, 8\]; supported: c"),
        ("k_pages", torch.zeros(9, 16, 3, 64, dtype=torch.bfloat16), r"k_pages has .*\[any, 16, 2, 64\]"),
        ("k_pages", torch.zeros(0, 16, 2, 64, dtype=torch.bfloat16), r"pages of k_pages is 0"),
        ("v_pages", torch.zeros(8, 16, 2, 64, dtype=torch.bfloat16), r"v_pages has shape \[8, .*\[9, 16"),
        ("v_pages", torch.zeros(9, 16, 2, 64, dtype=torch.float16), r"v_pages is float16"),
        ("table", torch.zeros(2, 6, dtype=torch.int32), r"table has shape \[2, 6\]; .*\[2, 7\]"),
        ("table", torch.zeros(2, 7, dtype=torch.int64), r"table is int64; supported here: int32"),
        ("lengths", torch.zeros(2), r"lengths is float32; supported here: int32"),
        ("lengths", torch.zeros(2, 1, dtype=torch.int32), r"lengths has shape \[2, 1\]"),
        ("out", torch.zeros(2, 8, 64), r"out is float32"),
        ("lse", torch.zeros(2, 9), r"lse has shape \[2, 9\]"),
        ("lse", torch.zeros(2, 8, dtype=torch.bfloat16), r"lse is bfloat16; supported here: float32"),
        ("k_scale", torch.ones(1), r"k_scale is given with a cache in bfloat16; supported: float8_e4m3fn"),
        ("lengths", torch.zeros(2, dtype=torch.int32, device="meta"), r"lengths is on meta; .*: cpu"),
    ],
)  # fmt: skip
def test_tensors_that_a_plan_is_not_for(name: str, tensor: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan(**SHAPE).run(**{**tensors(), name: tensor})


@pytest.mark.parametrize("shape", [(2, 1), (3,), ()])
def test_scales_that_do_not_fit(shape: tuple[int, ...]) -> None:
    made = plan(**{**SHAPE, "kv_dtype": FP8})
    pages = {name: torch.zeros(9, 16, 2, 64).to(FP8) for name in ("k_pages", "v_pages")}
    with pytest.raises(ValueError, match=r"v_scale has shape .*; supported: \[1\] or \[2\]"):
        made.run(**{**tensors(), **pages, "v_scale": torch.ones(shape)})


def test_what_was_refused_is_refused_again() -> None:
    made = plan(**SHAPE)
    for _ in range(2):
        with pytest.raises(ValueError, match="table is int64"):
            made.run(**{**tensors(), "table": torch.zeros(2, 7, dtype=torch.int64)})


def test_a_plan_knows_its_workspace_and_launches() -> None:
    made = plan(**SHAPE, programs=5)  # two KV heads: two chunks
    assert made.programs == 4
    assert made.workspace_bytes == 2 * 4 * 4 * (64 + 2) * 4 + 2 * 2 * 4
    assert made.launches == 1
    assert plan(**SHAPE, tuning=Tuning(fused=False)).launches == 2


def test_few_batch_sizes_are_compiled() -> None:
    assert sorted({padded(batch) for batch in range(1, 4097)}) == [16, 64, 256, 1024, 4096]
    assert all(padded(batch) >= batch for batch in range(1, 4097))


@needs_cuda
@pytest.mark.parametrize("check", GPU_CHECKS, ids=lambda check: check.name)
def test_the_larger_grid_on_a_gpu(check: Check) -> None:
    result = compare(check, "cuda")
    assert result["ok"], result  # two runs with the same bits among it


@needs_cuda
@pytest.mark.parametrize("fused", [True, False])
def test_a_captured_run_holds_for_other_lengths(fused: bool) -> None:
    from monitorgen.kernels.decode.graphs import capture

    check = replace(Check(17, page=64), tuning=Tuning(fused=fused, pdl=not fused))
    case = check.case("cuda")
    made: Plan = plan_of(check, "cuda")
    lengths, out = case.lengths.clone(), torch.empty_like(case.q)
    graph = capture(lambda: made.run(case.q, case.k_pages, case.v_pages, case.table, lengths, out=out))
    for shift in range(4):
        lengths.copy_(torch.minimum(case.lengths, torch.randint_like(case.lengths, 1 << (4 * shift))))
        out.fill_(torch.nan)
        graph.replay()
        want = reference.paged_decode(case.q, case.k_pages, case.v_pages, case.table, lengths)
        assert reference.relative_norm(out, want.out) <= 4e-3
