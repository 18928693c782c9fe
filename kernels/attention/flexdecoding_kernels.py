# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, N803 - Triton's language is not Python's types; constants are in capitals
"""A Triton kernel for what FlexAttention leaves to others in a step: rotary embedding and cache writes.

In plain torch that is some thirty small kernels a layer; here it is one.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from monitorgen.kernels.decode.state import Cache, State, Workspace
from monitorgen.kernels.decode.weights import Weights


@triton.jit
def rotate_and_write_kernel(
    qkv_ptr, q_ptr, k_ptr, v_ptr, rows_ptr, positions_ptr, table_ptr, cos_ptr, sin_ptr,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, WIDE: tl.constexpr,
    PAGE: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One head of one row: a query is rotated into q, a key rotated into the cache, a value copied there.

    Grid: (B, HEADS + 2 KV_HEADS). WIDE is HALF up to a power of two. Rotated in float32, as the reference.
    """
    row, head = tl.program_id(0), tl.program_id(1)
    slot = tl.load(rows_ptr + row)
    position = tl.load(positions_ptr + slot)
    page = tl.load(table_ptr + slot * WIDTH).to(tl.int64)
    at = tl.arange(0, WIDE)
    ok = at < HALF
    source = qkv_ptr + (row * (HEADS + 2 * KV_HEADS) + head) * (2 * HALF) + at
    first = tl.load(source, mask=ok, other=0.0).to(tl.float32)
    second = tl.load(source + HALF, mask=ok, other=0.0).to(tl.float32)
    if head < HEADS + KV_HEADS:
        cos = tl.load(cos_ptr + position * HALF + at, mask=ok, other=0.0)
        sin = tl.load(sin_ptr + position * HALF + at, mask=ok, other=0.0)
        turned = first * cos - second * sin
        second = second * cos + first * sin
        first = turned
    if head < HEADS:
        target = q_ptr + (row * HEADS + head) * (2 * HALF) + at
        tl.store(target, first.to(q_ptr.dtype.element_ty), mask=ok)
        tl.store(target + HALF, second.to(q_ptr.dtype.element_ty), mask=ok)
    else:
        which = (head - HEADS) % KV_HEADS
        place = ((page * KV_HEADS + which) * PAGE + position) * (2 * HALF) + at
        if head < HEADS + KV_HEADS:
            tl.store(k_ptr + place, first.to(k_ptr.dtype.element_ty), mask=ok)
            tl.store(k_ptr + place + HALF, second.to(k_ptr.dtype.element_ty), mask=ok)
        else:
            tl.store(v_ptr + place, first.to(v_ptr.dtype.element_ty), mask=ok)
            tl.store(v_ptr + place + HALF, second.to(v_ptr.dtype.element_ty), mask=ok)


def rotate_and_write(
    weights: Weights, layer: int, cache: Cache, state: State, rows: Tensor, work: Workspace
) -> Tensor:
    """As `flexdecoding_ops.rotate_and_write`, in one launch: the rotated queries, [B, Hq, D]."""
    config, batch = weights.config, rows.shape[0]
    q = torch.empty(batch, config.heads, config.head_dim, dtype=work.qkv.dtype, device=rows.device)
    half = config.head_dim // 2
    rotate_and_write_kernel[(batch, config.heads + 2 * config.kv_heads)](
        work.qkv, q, cache.k[layer], cache.v[layer], rows, state.positions, state.table,
        weights.cos, weights.sin, HEADS=config.heads, KV_HEADS=config.kv_heads, HALF=half,
        WIDE=triton.next_power_of_2(half), PAGE=cache.page_size, WIDTH=state.table.shape[1], num_warps=1,
    )  # fmt: skip
    return q
