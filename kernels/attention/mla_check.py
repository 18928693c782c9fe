"""What MLA decode takes, checked before anything is launched.

MLA (multi-head latent attention, DeepSeek-V2, arXiv:2405.04434) caches one vector a token: a latent of 512
numbers, and 64 numbers that carry the position. With the up-projections absorbed into the query and the
output, decoding is attention of all heads over that one vector: keys are its 576 numbers, values the first
512.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

VALUE = 512
ROPE = 64
WIDTH = VALUE + ROPE
"""Numbers of a cached token: kv_lora_rank + qk_rope_head_dim of DeepSeek-V2 and V3."""

PAGES = (16, 32, 64)
DTYPES = (torch.bfloat16, torch.float16)
MOST_HEADS = 1024
MOST_BATCH = 4096
MOST_SCALE = 1e4


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of one decode call."""

    batch: int
    heads: int
    page: int
    table_width: int

    @property
    def longest(self) -> int:
        """Tokens of the longest context that the block table can hold."""
        return self.page * self.table_width


def check_shape(
    batch: int,
    heads: int,
    page: int,
    table_width: int,
    dtype: torch.dtype,
) -> Shape:
    """The sizes as a Shape. Raises ValueError for one that is not supported."""
    for name, value, most in (("batch", batch, MOST_BATCH), ("heads", heads, MOST_HEADS)):
        if not 1 <= value <= most:
            raise ValueError(f"{name} is {value}: 1 to {most} are supported")
    if page not in PAGES:
        raise ValueError(f"page is {page} tokens: {', '.join(map(str, PAGES))} are supported")
    if table_width < 1:
        raise ValueError(f"table_width is {table_width}: a request has at least 1 page")
    if page * table_width >= 2**31:
        raise ValueError(f"table_width is {table_width}: contexts of fewer than 2**31 tokens are supported")
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype}: {', '.join(map(str, DTYPES))} are supported")
    return Shape(batch, heads, page, table_width)


def check_call(q: Tensor, cache: Tensor, table: Tensor, lengths: Tensor, scale: float | None) -> Shape:
    """The sizes of a call: q [B, H, 576], cache [pages, page, 576], table [B, W] and lengths [B] int32.

    Raises ValueError for a tensor of another shape, type, device or layout; no value is read. `cache` may be
    any number of bytes: offsets into it are 64 bits wide.
    """
    for name, tensor, sizes in (
        ("q", q, "[batch, heads, 576]"),
        ("cache", cache, "[pages, page, 576]"),
        ("table", table, "[batch, pages of the longest request]"),
        ("lengths", lengths, "[batch]"),
    ):
        _check_layout(name, tensor, sizes, q.device)
    for name, tensor in (("q", q), ("cache", cache)):
        if tensor.shape[-1] != WIDTH:
            raise ValueError(
                f"{name} has {tensor.shape[-1]} numbers a token: {WIDTH} ({VALUE} + {ROPE}) are supported"
            )
    for name, tensor in (("table", table), ("lengths", lengths)):
        if tensor.dtype != torch.int32:
            raise ValueError(f"{name} has dtype {tensor.dtype}: torch.int32 is supported")
        if tensor.shape[0] != q.shape[0]:
            raise ValueError(f"{name} has {tensor.shape[0]} rows, q {q.shape[0]}: a row for each request")
    if cache.dtype != q.dtype:
        raise ValueError(f"cache has dtype {cache.dtype}, q {q.dtype}: one dtype is supported")
    if cache.shape[0] < 1:
        raise ValueError("cache has 0 pages: at least 1 is supported")
    if scale is not None and not 0 < scale <= MOST_SCALE:  # false for nan too
        raise ValueError(f"scale is {scale}: above 0, at most {MOST_SCALE:g} is supported")
    return check_shape(q.shape[0], q.shape[1], cache.shape[1], table.shape[1], q.dtype)


def _check_layout(name: str, tensor: Tensor, sizes: str, device: torch.device) -> None:
    if tensor.dim() != sizes.count(",") + 1:
        raise ValueError(f"{name} has shape {list(tensor.shape)}: {sizes} is supported")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} has strides {tensor.stride()}: contiguous tensors are supported")
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, q on {device}: one device is supported")


def check_outputs(q: Tensor, out: Tensor | None, lse: Tensor | None) -> None:
    """Raise ValueError unless `out` is [B, H, 512] like q, and `lse` [B, H] float32, both contiguous."""
    batch, heads, _ = q.shape
    for name, tensor, shape, dtype in (
        ("out", out, (batch, heads, VALUE), q.dtype),
        ("lse", lse, (batch, heads), torch.float32),
    ):
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {list(tensor.shape)}: {list(shape)} is supported")
        if tensor.dtype != dtype:
            raise ValueError(f"{name} has dtype {tensor.dtype}: {dtype} is supported")
        if not tensor.is_contiguous():
            raise ValueError(f"{name} has strides {tensor.stride()}: contiguous tensors are supported")
        if tensor.device != q.device:
            raise ValueError(f"{name} is on {tensor.device}, q on {q.device}: one device is supported")


def check_values(cache: Tensor, table: Tensor, lengths: Tensor) -> None:
    """Raise ValueError for a length or a page that is not there. Waits for the device: not for a hot loop.

    Without this check, kernels take a length below 0 as 0 and one beyond the table as the table's; a page
    beyond the cache is an illegal address.
    """
    count, page, _ = cache.shape
    longest = page * table.shape[1]
    held = lengths.tolist()
    for row, length in enumerate(held):
        if not 0 <= length <= longest:
            raise ValueError(
                f"lengths[{row}] is {length}: 0 to {longest} are supported, the table has {table.shape[1]} "
                f"pages of {page} tokens"
            )
    for row, pages in enumerate(table.tolist()):
        for at, number in enumerate(pages[: -(-held[row] // page)]):
            if not 0 <= number < count:
                raise ValueError(f"table[{row}, {at}] is {number}: the cache has pages 0 to {count - 1}")
