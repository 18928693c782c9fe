"""Launches the Triton prefill kernel: validation, tilings, descriptors, and what the compiler made of it."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from monitorgen.kernels.attention.prefill_common import ERROR_LIMITS, Problem, check, check_out, made
from monitorgen.kernels.attention.prefill_kernel import prefill_kernel

LOG2E = math.log2(math.e)


@dataclass(frozen=True, slots=True)
class Tiling:
    """How the work is cut: BM queries by BN keys, warps and pipeline stages of a program.

    `registers` limits those of a thread, so that two programs fit a multiprocessor; 0 leaves it open.
    `specialize` asks the compiler for warp specialisation, whose descriptors are made on the device. For
    Hopper, Triton 3.6 does it in programs of 4 warps with one loop, and fails on those with two: it adds a
    producer and a second warpgroup of consumers, each with half of the rows. Whether it did is read from
    what was compiled (`specialized`).
    """

    bm: int = 128
    bn: int = 128
    warps: int = 8
    stages: int = 2
    specialize: bool = False
    registers: int = 0

    def __post_init__(self) -> None:
        for name, value, most in (("bm", self.bm, 256), ("bn", self.bn, 256)):
            if value not in (16, 32, 64, 128, 256):
                raise ValueError(f"tiling {name} {value}: supported is a power of two from 16 to {most}")
        if self.warps not in (1, 2, 4, 8):
            raise ValueError(f"tiling warps {self.warps}: supported is 1, 2, 4 and 8")
        if not 1 <= self.stages <= 8:
            raise ValueError(f"tiling stages {self.stages}: supported is 1 to 8")
        if self.registers and not 32 <= self.registers <= 255:
            raise ValueError(f"tiling registers {self.registers}: supported is 0 for no limit, and 32 to 255")


def default_tiling(dim: int, *, specialize: bool = False) -> Tiling:
    """The tiling that is taken where none is given.

    For heads of 128, the fastest of those tried on an H100 (16 heads, bf16, 2,048 / 8,192 / 16,384 tokens,
    TFLOP/s; FA3 is FlashAttention 3):

        plain 128 x 64        full 517 / 540 / 550    causal 408 / 478 / 498
        specialised 128 x 128 full 496 / 601 / 599    causal 350 / 451 / 505
        FA3                   full 643 / 710 / 701    causal 508 / 675 / 705

    At best 0.79 to 0.85 of the fastest peer without a mask and 0.71 to 0.79 of it with the causal one, where
    0.90 and 0.85 were aimed at: both are missed. Specialised 128 x 64 raced with that head size, so that
    blocks of keys are as wide as a head there.
    """
    if specialize:
        return Tiling(128, dim, warps=4, stages=2, specialize=True)
    return Tiling(128, 64, 4, 2) if dim == 128 else Tiling(128, 128, 8, 3)


def prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    tiling: Tiling | None = None,
    out: Tensor | None = None,
    lse: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Attention of q [B, H, Sq, D] to k and v [B, Hkv, Sk, D]: [B, H, Sq, D], and with `lse` [B, H, Sq].

    Query i sees key j if not `causal` or j <= i + Sk - Sq. bf16 or fp16, D of 64 or 128, any strides whose
    last is 1; the log-sum-exp is natural and in float32. Raises ValueError for all else, before a launch,
    and for a tiling with specialised warps that the compiler gets wrong (`agrees`).
    """
    if tiling is not None and tiling.specialize:
        problem = check(q, k, v, causal=causal, scale=scale)
        _check_device(q)
        if not agrees(problem, q.dtype, tiling):
            raise ValueError(f"tiling {tiling}: this compiler specialises its warps wrongly; take another")
    found, sums, _ = launch(q, k, v, causal=causal, scale=scale, tiling=tiling, out=out, lse=lse)
    return found, sums


def launch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    scale: float | None = None,
    tiling: Tiling | None = None,
    out: Tensor | None = None,
    lse: bool = False,
) -> tuple[Tensor, Tensor | None, Any]:
    """As `prefill`, with what Triton compiled as the third (None in its interpreter)."""
    problem = check(q, k, v, causal=causal, scale=scale)
    _check_device(q)
    if out is None:
        out = torch.empty_like(q)
    check_out(out, q)
    cut = tiling or default_tiling(problem.dim)
    sums = q.new_empty(q.shape[:3], dtype=torch.float32) if lse else None
    scale = 1.0 / math.sqrt(problem.dim) if scale is None else scale
    tensors: list[Any] = [q, k, v, out]
    if cut.specialize:
        _allocate_descriptors()
    else:
        tensors = [_descriptor(t, cut.bm if t is q or t is out else cut.bn) for t in tensors]
    grid = (triton.cdiv(problem.queries, cut.bm), problem.batch * problem.heads)
    compiled = prefill_kernel[grid](
        *tensors, sums, scale * LOG2E, problem.heads, problem.queries, problem.keys, 0,
        *(stride for tensor in (q, k, v, out) for stride in _strides(tensor)[:3]),
        GROUP=problem.heads // problem.kv_heads, D=problem.dim, BM=cut.bm, BN=cut.bn, CAUSAL=causal,
        EVEN=problem.keys % cut.bn == 0, LSE=lse, ON_DEVICE=cut.specialize,
        SPECIALIZE=cut.specialize, num_warps=cut.warps, num_stages=cut.stages,
        **({"maxnreg": cut.registers} if cut.registers else {}),
    )  # fmt: skip
    return out, sums, compiled


_agreed: dict[tuple[object, ...], bool] = {}


def agrees(problem: Problem, dtype: torch.dtype, tiling: Tiling) -> bool:
    """Whether a tiling computes what the plain kernel computes, on a small problem of the same kind.

    Triton's warp specialisation is young: for some tilings it compiles code that races. So what it makes is
    run three times before it is used, on 16 blocks of keys and many programs, and outputs and log-sum-exps
    are compared. Asked once for each kind of problem; True without asking where Triton is interpreted.
    """
    group, uneven = problem.heads // problem.kv_heads, problem.keys % tiling.bn
    kind = (problem.dim, problem.causal, group, bool(uneven), dtype, tiling)
    if interpreted():
        return True
    if kind not in _agreed:
        keys = 16 * tiling.bn + (tiling.bn // 2 + 1 if uneven else 0)
        kv_heads = max(1, 16 // group)
        small = Problem(2, kv_heads * group, kv_heads, keys, keys, problem.dim, problem.causal)
        q, k, v = made(small, dtype=dtype, device=torch.device("cuda"), seed=5)
        plain, want, _ = launch(q, k, v, causal=small.causal, lse=True)
        try:
            _agreed[kind] = all(
                _same(launch(q, k, v, causal=small.causal, tiling=tiling, lse=lse), plain, want, dtype)
                for lse in (True, False, True)
            )
        except RuntimeError as error:  # the compiler's passes fail on what they do not know
            warnings.warn(f"tiling {tiling} does not compile: {str(error).splitlines()[0]}", stacklevel=2)
            _agreed[kind] = False
    return _agreed[kind]


def _same(found: tuple[Tensor, Tensor | None, Any], plain: Tensor, want: Any, dtype: torch.dtype) -> bool:
    out, lse, _ = found
    error = float((out.float() - plain.float()).norm() / plain.float().norm())
    close = lse is None or float((lse - want).abs().max()) < 1e-3
    return error <= ERROR_LIMITS[dtype] and close


def specialized(compiled: Any) -> bool:
    """Whether the compiler split a kernel's warps, as its TTGIR says; False for None (interpreted)."""
    return compiled is not None and "ttg.warp_specialize" in compiled.asm["ttgir"]


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernel, which then takes tensors of the CPU."""
    return not isinstance(prefill_kernel, JITFunction)


def _check_device(q: Tensor) -> None:
    if interpreted():
        return
    if q.device.type != "cuda":
        raise ValueError(f"q.device {q.device}: supported is cuda (or Triton's interpreter)")
    if torch.version.hip is None and torch.cuda.get_device_capability(q.device) < (8, 0):
        name = torch.cuda.get_device_name(q.device)
        raise ValueError(f"q.device {name}: supported is compute capability 8.0 and later")


def _descriptor(tensor: Tensor, rows: int) -> Any:
    """A host descriptor of [B, H, S, D] that moves `rows` rows of one head."""
    return TensorDescriptor(tensor, list(tensor.shape), _strides(tensor), [1, 1, rows, tensor.shape[3]])


def _strides(tensor: Tensor) -> list[int]:
    """The strides of [B, H, S, D]; those of sizes of 1 can be anything, and descriptors want them aligned."""
    strides = list(tensor.stride())
    for place in (2, 1, 0):
        if tensor.shape[place] == 1:
            strides[place] = strides[place + 1] * tensor.shape[place + 1]
    return strides


def _allocate_descriptors() -> None:
    """Where descriptors made on the device lie; Triton asks for this memory at each launch."""

    def allocate(size: int, alignment: int, stream: int | None) -> Tensor:
        return torch.empty(size, dtype=torch.int8, device="cuda")

    triton.set_allocator(allocate)
