"""What all ways to compute prefill attention share: the shapes that they take, and their work."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
HEAD_DIMS = (64, 128)
ERROR_LIMITS = {torch.bfloat16: 4e-3, torch.float16: 1e-3}
"""The relative error that a precision accounts for: outputs and probabilities are rounded to 8 or 11 bits."""


@dataclass(frozen=True, slots=True)
class Problem:
    """The sizes of a prefill: q is [batch, heads, queries, dim], k and v [batch, kv_heads, keys, dim]."""

    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    dim: int
    causal: bool

    @property
    def pairs(self) -> int:
        """(query, key) pairs of a head that the mask lets through."""
        if not self.causal:
            return self.queries * self.keys
        first = self.keys - self.queries + 1  # keys that the first query sees
        return self.queries * (first + self.keys) // 2

    @property
    def flops(self) -> float:
        """Multiplications and additions of both matrix products, masked pairs not counted."""
        return 4.0 * self.batch * self.heads * self.pairs * self.dim

    def bytes_moved(self, itemsize: int) -> float:
        """Bytes of q, k, v and the output, each touched once."""
        rows = 2 * self.heads * self.queries + 2 * self.kv_heads * self.keys
        return float(self.batch * rows * self.dim * itemsize)


def _refuse(name: str, value: object, supported: str) -> ValueError:
    return ValueError(f"{name} {value}: supported is {supported}")


def check(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None) -> Problem:
    """The problem that the tensors pose. Raises ValueError, naming argument, value and what is supported."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        _check_tensor(name, tensor, q)
    batch, heads, queries, dim = q.shape
    kv_heads, keys = k.shape[1], k.shape[2]
    if dim not in HEAD_DIMS:
        raise _refuse("head size", dim, "64 and 128")
    for name, tensor in (("k", k), ("v", v)):
        wanted = (batch, kv_heads, keys, dim)
        if tuple(tensor.shape) != wanted:
            raise _refuse(f"{name}.shape", tuple(tensor.shape), f"{wanted} beside q and k")
    if heads % kv_heads:
        raise _refuse("query heads", heads, f"a multiple of the {kv_heads} KV heads")
    if causal and queries > keys:
        raise _refuse("causal with queries", queries, f"up to the {keys} keys")
    if batch * heads > 65535:
        raise _refuse("batch * heads", batch * heads, "up to 65535")
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise _refuse("scale", scale, "a finite number above 0")
    return Problem(batch, heads, kv_heads, queries, keys, dim, causal)


def _check_tensor(name: str, tensor: Tensor, q: Tensor) -> None:
    """Its dimensions, type, device and memory, by itself."""
    if tensor.ndim != 4:
        raise _refuse(f"{name}.shape", tuple(tensor.shape), "[batch, heads, tokens, head size]")
    if tensor.dtype not in DTYPES.values():
        raise _refuse(f"{name}.dtype", tensor.dtype, "torch.bfloat16 and torch.float16")
    if tensor.dtype != q.dtype or tensor.device != q.device:
        both = f"{q.dtype} on {q.device} as q is"
        raise _refuse(f"{name}.dtype and device", f"{tensor.dtype} on {tensor.device}", both)
    if 0 in tensor.shape:
        raise _refuse(f"{name}.shape", tuple(tensor.shape), "sizes from 1")
    _check_memory(name, tensor)


def _check_memory(name: str, tensor: Tensor) -> None:
    """What the tensor memory accelerator asks for: rows in one piece, everything at multiples of 16 bytes."""
    if tensor.stride(3) != 1 and tensor.shape[3] != 1:
        raise _refuse(f"{name}.stride", tensor.stride(), "1 for the last dimension")
    if any(
        size > 1 and (stride <= 0 or stride * tensor.element_size() % 16)
        for size, stride in zip(tensor.shape[:3], tensor.stride()[:3], strict=True)
    ):
        raise _refuse(f"{name}.stride", tensor.stride(), "multiples of 16 bytes, none of them 0")
    if tensor.data_ptr() % 16:
        raise _refuse(f"{name}.data_ptr()", hex(tensor.data_ptr()), "an address that 16 divides")


def check_out(out: Tensor, q: Tensor) -> None:
    """Raise ValueError unless `out` can take the output of q."""
    if out.shape != q.shape or out.dtype != q.dtype or out.device != q.device:
        given = f"{tuple(out.shape)} in {out.dtype} on {out.device}"
        raise _refuse("out", given, f"{tuple(q.shape)} in {q.dtype} on {q.device}")
    _check_memory("out", out)


def made(problem: Problem, *, dtype: torch.dtype, device: torch.device, seed: int) -> tuple[Tensor, ...]:
    """q, k and v of normal random numbers, the same on every run."""
    generator = torch.Generator(device=device).manual_seed(seed)

    def normal(heads: int, tokens: int) -> Tensor:
        shape = (problem.batch, heads, tokens, problem.dim)
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)

    return (
        normal(problem.heads, problem.queries),
        normal(problem.kv_heads, problem.keys),
        normal(problem.kv_heads, problem.keys),
    )
