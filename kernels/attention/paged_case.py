"""Random paged batches: shuffled pages, ragged lengths, and poison where no kernel may look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn


@dataclass(frozen=True, slots=True)
class Case:
    """A batch of one new token a sequence over its pages; see `paged_gqa.Plan.run` for the shapes."""

    q: Tensor
    k_pages: Tensor
    v_pages: Tensor
    table: Tensor
    lengths: Tensor
    host_lengths: tuple[int, ...]
    k_scale: Tensor | None = None
    v_scale: Tensor | None = None

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values that have to be read, without a window."""
        return self.read_bytes(0)

    def read_bytes(self, window: int) -> int:
        """Bytes of keys and values that have to be read with a sliding window (0 for none)."""
        tokens = sum(min(length, window) if window else length for length in self.host_lengths)
        kv_heads, head_dim = self.k_pages.shape[2:]
        return 2 * tokens * kv_heads * head_dim * self.k_pages.element_size()

    def flops(self, window: int) -> int:
        """Floating point operations: two products of 2 D for each query head and key that it sees."""
        tokens = sum(min(length, window) if window else length for length in self.host_lengths)
        return 4 * tokens * self.q.shape[1] * self.q.shape[2]


def ragged_lengths(batch: int, mean: int, most: int, seed: int) -> list[int]:
    """Lengths as real traffic has them: log-normal around a median of `mean`, sigma 1, from 1 to `most`."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.exp(torch.randn(batch, generator=generator) + math.log(mean))
    return [int(length) for length in drawn.clamp(1, most).long().tolist()]


def make_case(
    lengths: Sequence[int],
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    page_size: int,
    dtype: torch.dtype = torch.bfloat16,
    kv_dtype: torch.dtype | None = None,
    width: int | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    poison: bool = True,
) -> Case:
    """A random batch. Pages are shuffled; with `poison`, whatever no sequence owns holds NaN: slots beyond a
    length, a page that is no one's, and table entries beyond a sequence's pages point at it.

    fp8 caches have a scale for each KV head. `width` is the pages in a table row, as many as the longest
    needs unless given.
    """
    kind, where = kv_dtype or dtype, torch.device(device)
    generator = torch.Generator(where).manual_seed(seed)
    used = [-(-length // page_size) for length in lengths]
    count = sum(used) + 1  # the last one is no one's
    table_width = width or max(1, *used)
    order = torch.randperm(count - 1, generator=generator, device=where, dtype=torch.int32)
    table = torch.full((len(lengths), table_width), count - 1, dtype=torch.int32, device=where)
    owned = torch.zeros(count, dtype=torch.int32, device=where)  # tokens of a page that are someone's
    at = 0
    for index, (length, pages) in enumerate(zip(lengths, used, strict=True)):
        mine = order[at : at + pages]
        table[index, :pages] = mine
        owned[mine.long()] = page_size
        if pages:
            owned[mine[-1].long()] = length - (pages - 1) * page_size
        at += pages
    shape = (count, page_size, kv_heads, head_dim)
    k, v = (_random(shape, kind, generator) for _ in range(2))
    if poison:
        free = torch.arange(page_size, device=where)[None, :] >= owned[:, None]
        for pages_of in (k, v):
            _poison(pages_of, free)
    q = torch.randn(len(lengths), heads, head_dim, generator=generator, device=where).to(dtype)
    scales: list[Tensor | None] = [None, None]
    if kind == FP8:
        scales = [0.5 + torch.rand(kv_heads, generator=generator, device=where) for _ in range(2)]
    lengths_there = torch.tensor(list(lengths), dtype=torch.int32, device=where)
    return Case(q, k, v, table, lengths_there, tuple(lengths), scales[0], scales[1])


def _random(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    if dtype != FP8:
        return torch.empty(shape, dtype=dtype, device=generator.device).normal_(generator=generator)
    made = torch.empty(shape, dtype=dtype, device=generator.device)
    for first in range(0, shape[0], 4096):  # no type of 8 bits is drawn directly
        some = made[first : first + 4096]
        some.copy_(torch.randn(some.shape, generator=generator, device=generator.device).to(dtype))
    return made


def _poison(pages: Tensor, free: Tensor) -> None:
    """NaN into the free slots [pages, page] of some pages."""
    if pages.dtype == FP8:
        pages.view(torch.uint8).masked_fill_(free[:, :, None, None], 0x7F)  # NaN of e4m3fn
    else:
        pages.masked_fill_(free[:, :, None, None], math.nan)
