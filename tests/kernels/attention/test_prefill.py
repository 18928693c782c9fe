"""The prefill kernel computes what float64 computes, refuses the rest, and compiles as it is asked to."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workloads' extra is not installed")

from monitorgen.kernels.attention.prefill_common import DTYPES, ERROR_LIMITS, Problem, check, made  # noqa: E402
from monitorgen.kernels.attention.prefill_reference import (  # noqa: E402
    prefill_reference,
    relative_error,
    some_rows,
)

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed; `dev` has it on Linux"
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


# The reference


def test_the_reference_by_hand() -> None:
    # Two query heads share a KV head; the last 2 of 3 tokens ask, so the first of them sees 2 keys.
    q = torch.tensor([[[[1.0], [2.0]], [[0.0], [3.0]]]])  # [1, 2, 2, 1]
    k = torch.tensor([[[[0.0], [1.0], [2.0]]]])
    v = torch.tensor([[[[10.0], [20.0], [30.0]]]])
    out, lse = prefill_reference(q, k, v, causal=True, scale=1.0)
    first = [1.0, math.e]
    assert out[0, 0, 0, 0] == pytest.approx((10 * first[0] + 20 * first[1]) / sum(first))
    assert lse[0, 0, 0] == pytest.approx(math.log(sum(first)))
    assert out[0, 1, 0, 0] == pytest.approx(15.0)  # a query of zeros weighs its two keys alike
    last = [1.0, math.exp(3), math.exp(6)]
    assert out[0, 1, 1, 0] == pytest.approx(
        sum(w * x for w, x in zip(last, (10, 20, 30), strict=True)) / sum(last)
    )
    assert lse[0, 1, 1] == pytest.approx(math.log(sum(last)))


@pytest.mark.parametrize(("causal", "heads", "kv_heads"), [(True, 4, 4), (False, 6, 2), (True, 5, 1)])
def test_the_reference_is_what_torch_computes(causal: bool, heads: int, kv_heads: int) -> None:
    q, k, v = (t.double() for t in _made(Problem(2, heads, kv_heads, 33, 33, 64, causal)))
    want = torch.nn.functional.scaled_dot_product_attention(
        q, *(t.repeat_interleave(heads // kv_heads, 1) for t in (k, v)), is_causal=causal
    )
    out, _ = prefill_reference(q, k, v, causal=causal)
    assert relative_error(out, want) < 1e-12
    rows = torch.tensor([0, 7, 32])
    some, _ = prefill_reference(q, k, v, causal=causal, rows=rows)
    assert relative_error(some, out[:, :, rows]) < 1e-14


def test_an_output_that_is_not_finite_is_infinitely_wrong() -> None:
    reference = torch.ones(3, dtype=torch.float64)
    assert relative_error(torch.tensor([1.0, math.nan, 1.0]), reference) == math.inf
    assert relative_error(torch.tensor([1.0, 1.0, 2.0]), reference) == pytest.approx(1 / math.sqrt(3))


@pytest.mark.parametrize("queries", [1, 2, 31, 32, 33, 4096])
def test_checked_rows_reach_from_the_first_to_the_last(queries: int) -> None:
    rows = some_rows(queries).tolist()
    assert rows == sorted(set(rows))
    assert len(rows) == min(queries, 32)
    assert (rows[0], rows[-1]) == (0, queries - 1)


def _made(problem: Problem) -> tuple[Any, ...]:
    return made(problem, dtype=torch.float16, device=torch.device("cpu"), seed=4)


@pytest.mark.parametrize(
    ("problem", "pairs"),
    [
        (Problem(1, 1, 1, 3, 3, 64, False), 9),
        (Problem(1, 1, 1, 3, 3, 64, True), 1 + 2 + 3),
        (Problem(1, 1, 1, 2, 5, 64, True), 4 + 5),
        (Problem(1, 1, 1, 1, 1, 64, True), 1),
    ],
)
def test_work_is_counted_without_what_the_mask_hides(problem: Problem, pairs: int) -> None:
    assert problem.pairs == pairs
    assert problem.flops == 2 * 2 * pairs * 64


def test_bytes_are_those_of_the_tensors() -> None:
    problem = Problem(2, 6, 3, 5, 7, 64, False)
    q, k, v = _made(problem)
    assert problem.bytes_moved(2) == sum(t.numel() * 2 for t in (q, k, v, q))


# What is refused, before any launch


def wrong(**changes: Any) -> dict[str, Any]:
    """Arguments that would do, but for the changes."""
    q, k, v = _made(Problem(1, 4, 2, 8, 8, 64, True))
    return {"q": q, "k": k, "v": v, "causal": True, "scale": None, **changes}


def given(*shape: int, dtype: Any = torch.float16) -> Any:
    return torch.zeros(shape, dtype=dtype)


REFUSED: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "three dimensions": (lambda: wrong(q=given(4, 8, 64)), r"q\.shape \(4, 8, 64\): .*batch, heads"),
    "float32": (
        lambda: wrong(q=given(1, 4, 8, 64, dtype=torch.float32)),
        r"q\.dtype torch\.float32: .*bfloat16",
    ),
    "two types": (
        lambda: wrong(v=given(1, 2, 8, 64, dtype=torch.bfloat16)),
        r"v\.dtype and device .*float16",
    ),
    "no tokens": (lambda: wrong(k=given(1, 2, 0, 64)), r"k\.shape \(1, 2, 0, 64\): .*sizes from 1"),
    "head size 80": (
        lambda: wrong(q=given(1, 4, 8, 80), k=given(1, 2, 8, 80), v=given(1, 2, 8, 80)),
        "head size 80: supported is 64 and 128",
    ),
    "other head sizes": (lambda: wrong(k=given(1, 2, 8, 128)), r"k\.shape .*\(1, 2, 8, 64\)"),
    "fewer values": (lambda: wrong(v=given(1, 2, 7, 64)), r"v\.shape \(1, 2, 7, 64\): .*\(1, 2, 8, 64\)"),
    "odd groups": (
        lambda: wrong(q=given(1, 5, 8, 64)),
        "query heads 5: supported is a multiple of the 2 KV heads",
    ),
    "queries before the keys": (
        lambda: wrong(q=given(1, 4, 9, 64)),
        "causal with queries 9: supported is up to the 8 keys",
    ),
    "too many programs": (
        lambda: wrong(q=given(1, 65536, 1, 64), k=given(1, 1, 1, 64), v=given(1, 1, 1, 64)),
        "65536: supported is up to 65535",
    ),
    "no scale": (lambda: wrong(scale=0.0), "scale 0.0: .*above 0"),
    "no number": (lambda: wrong(scale=math.nan), "scale nan: .*finite"),
    "columns apart": (lambda: wrong(q=given(1, 4, 8, 128)[..., ::2]), r"q\.stride .*1 for the last"),
    "rows at odd places": (
        lambda: wrong(k=given(1, 2, 8, 68)[..., :64]),
        r"k\.stride .*multiples of 16 bytes",
    ),
    "a head for all": (
        lambda: wrong(v=given(1, 1, 8, 64).expand(1, 2, 8, 64)),
        r"v\.stride .*none of them 0",
    ),
    "an odd start": (
        lambda: wrong(q=given(4 * 8 * 64 + 1)[1:].view(1, 4, 8, 64)),
        r"q\.data_ptr\(\) .*that 16 divides",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_named(name: str) -> None:
    arguments, said = REFUSED[name]
    with pytest.raises(ValueError, match=said):
        check(**arguments())


def test_what_is_supported_passes() -> None:
    assert check(**wrong()) == Problem(1, 4, 2, 8, 8, 64, True)


@needs_triton
@pytest.mark.parametrize(
    ("tiling", "said"),
    [
        ({"bm": 48}, "tiling bm 48: supported is a power of two from 16 to 256"),
        ({"bn": 512}, "tiling bn 512: .*16 to 256"),
        ({"warps": 3}, "tiling warps 3: supported is 1, 2, 4 and 8"),
        ({"stages": 0}, "tiling stages 0: supported is 1 to 8"),
        ({"registers": 16}, "tiling registers 16: supported is 0 for no limit, and 32 to 255"),
    ],
)
def test_tilings_that_no_kernel_has_are_refused(tiling: dict[str, int], said: str) -> None:
    from monitorgen.kernels.attention.prefill_triton import Tiling

    with pytest.raises(ValueError, match=said):
        Tiling(**tiling)


@needs_triton
def test_a_tensor_of_the_cpu_and_an_output_of_another_shape_are_refused() -> None:
    from monitorgen.kernels.attention.prefill_common import check_out
    from monitorgen.kernels.attention.prefill_triton import prefill

    q, k, v = _made(Problem(1, 4, 2, 8, 8, 64, True))
    with pytest.raises(ValueError, match=r"q\.device cpu: supported is cuda"):
        prefill(q, k, v)
    with pytest.raises(ValueError, match=r"out \(1, 4, 9, 64\).*\(1, 4, 8, 64\)"):
        check_out(q.new_empty(1, 4, 9, 64), q)


# The kernel


@pytest.fixture(scope="module")
def found() -> Any:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed; the extra `dev` has it on Linux")
    program = Path(__file__).with_name("interpreted_prefill.py")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_outputs_and_log_sum_exps_are_those_of_float64(found: Any) -> None:
    assert len(found["cases"]) == 13
    limits = {str(dtype): limit for dtype, limit in ERROR_LIMITS.items()}
    for name, case in found["cases"].items():
        assert case["error"] <= limits[case["dtype"]], name  # inf if the poison around the inputs was read
        assert case["lse"] < 5e-6, name
        assert case["kept"], name  # nothing beside the output was written
        assert not case["specialized"], name  # nobody compiled anything
    assert found["scaled"] < 1e-3


@needs_triton
@pytest.mark.parametrize(
    ("specialize", "causal", "even"), [(True, False, True), (True, True, False), (False, True, False)]
)
def test_what_the_compiler_makes_for_hopper(
    specialize: bool, causal: bool, even: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled for compute capability 9.0, which takes no GPU; half a tile's size, to be quick."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton import compiler
    from triton.backends.compiler import GPUTarget

    from monitorgen.kernels.attention.prefill_kernel import prefill_kernel
    from monitorgen.kernels.attention.prefill_triton import specialized

    constants = {
        "GROUP": 1, "D": 64, "BM": 128, "BN": 64, "CAUSAL": causal, "EVEN": even, "LSE": True,
        "ON_DEVICE": specialize, "SPECIALIZE": specialize,
    }  # fmt: skip
    tensors = {"q_arg": 128, "k_arg": 64, "v_arg": 64, "out_arg": 128}
    signature, divisible = {}, {}
    for place, name in enumerate(prefill_kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in tensors:
            signature[name] = "*bf16" if specialize else f"tensordesc<bf16[1, 1, {tensors[name]}, 64]>"
        else:
            signature[name] = {"lse": "*fp32", "scale": "fp32"}.get(name, "i32")
        if signature[name] in ("i32", "*bf16", "*fp32"):
            divisible[(place,)] = [["tt.divisibility", 16]]
    places = {(prefill_kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = compiler.ASTSource(prefill_kernel, signature, constexprs=places, attrs=divisible)
    compiled = compiler.compile(
        source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4, "num_stages": 2}
    )
    assert specialized(compiled) == specialize
    assert "warp_group_dot" in compiled.asm["ttgir"]  # tensor cores of Hopper, not multiplications
    assert "async_tma_copy_global_to_local" in compiled.asm["ttgir"]
    # The second group of consumers has rows 64 to 127: that half is in its range, not in what is added to it.
    for consumer in compiled.asm["ttgir"].split("partition1(")[1:]:
        assert "start = 64 : i32} : tensor<64xi32" in consumer
        assert "end = 128 : i32" in consumer
        moved = re.findall(r"(%\w+) = arith\.addi %\w+, %c64_i32\w*[ {]", consumer)
        assert moved  # where Q lies
        assert not [one for one in moved if re.search(rf"tt\.splat {one}[ {{]", consumer)]


@needs_cuda
@pytest.mark.parametrize("specialize", [False, True])
@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [
        ((1, 1, 1, 1, 1, 128, True), "bf16"),
        ((2, 8, 2, 54, 54, 128, True), "fp16"),
        ((3, 4, 4, 97, 97, 64, False), "bf16"),
        ((1, 32, 8, 130, 4095, 128, True), "bf16"),
        ((1, 16, 16, 2048, 2048, 128, False), "bf16"),
    ],
)
def test_on_a_gpu(sizes: tuple[int, int, int, int, int, int, bool], dtype: str, specialize: bool) -> None:
    from monitorgen.kernels.attention.prefill_triton import default_tiling, launch

    if specialize and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("warps are specialised for compute capability 9.0 and later")
    problem = Problem(*sizes)
    q, k, v = made(problem, dtype=DTYPES[dtype], device=torch.device("cuda"), seed=1)
    want, want_lse = prefill_reference(q, k, v, causal=problem.causal)
    out = torch.full_like(q, torch.nan)
    tiling = default_tiling(problem.dim, specialize=specialize)
    _, lse, _ = launch(q, k, v, causal=problem.causal, tiling=tiling, out=out, lse=True)
    assert relative_error(out, want) <= ERROR_LIMITS[DTYPES[dtype]]
    assert float((lse - want_lse).abs().max()) < 1e-3
