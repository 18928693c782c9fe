"""Launches the Triton prefill kernel: validation, tilings, descriptors, and what the compiler made of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from monitorgen.kernels.attention.prefill_common import check, check_out
from monitorgen.kernels.attention.prefill_kernel import prefill_kernel

LOG2E = math.log2(math.e)


@dataclass(frozen=True, slots=True)
class Tiling:
    """How the work is cut: BM queries by BN keys, warps and pipeline stages of a program.

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

    def __post_init__(self) -> None:
        for name, value, most in (("bm", self.bm, 256), ("bn", self.bn, 256)):
            if value not in (16, 32, 64, 128, 256):
                raise ValueError(f"tiling {name} {value}: supported is a power of two from 16 to {most}")
        if self.warps not in (1, 2, 4, 8):
            raise ValueError(f"tiling warps {self.warps}: supported is 1, 2, 4 and 8")
        if not 1 <= self.stages <= 8:
            raise ValueError(f"tiling stages {self.stages}: supported is 1 to 8")


def default_tiling(dim: int, *, specialize: bool = False) -> Tiling:
    """The tiling that is taken where none is given."""
    if specialize:
        return Tiling(128, 128, warps=4, stages=2, specialize=True)
    return Tiling(128, 128, 8, 2) if dim == 128 else Tiling(128, 128, 8, 3)


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
    last is 1; the log-sum-exp is natural and in float32. Raises ValueError for all else, before a launch.
    """
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
        *tensors, sums, scale * LOG2E, problem.heads, problem.queries, problem.keys,
        *(stride for tensor in (q, k, v, out) for stride in _strides(tensor)[:3]),
        GROUP=problem.heads // problem.kv_heads, D=problem.dim, BM=cut.bm, BN=cut.bn, CAUSAL=causal,
        EVEN=problem.keys % cut.bn == 0, LSE=lse, ON_DEVICE=cut.specialize,
        SPECIALIZE=cut.specialize, num_warps=cut.warps, num_stages=cut.stages,
    )  # fmt: skip
    return out, sums, compiled


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
