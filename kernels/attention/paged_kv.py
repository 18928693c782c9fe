"""Keys and values in pages, and FlexAttention over them: masks are of positions, pages lie anywhere.

One layer's K is a tensor [1, Hkv, blocks * block_size, D] that all sequences share. A `PagedView` holds, on
the device, which position each slot has for each sequence of a batch, and turns a mask of positions into a
block mask of pages: kernels visit the pages of a sequence that hold a visible key, and no others. Its tensors
keep their shapes and places from step to step, so nothing is compiled anew while sequences grow.
"""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from monitorgen.kernels.attention.flex_attention_native import operator
from monitorgen.kernels.attention.masks import Mask
from monitorgen.kernels.attention.paged_attn_common import PagedCache
from monitorgen.kernels.attention.score_mods import ScoreMod

QUERIES = 128  # queries of a block of the block mask: FlexAttention's decoding kernel expects all in one
# Backward needs the mask by columns too; decoding does not, and newer versions of torch can leave it out.
_FORWARD_ONLY: dict[str, Any] = (
    {"compute_q_blocks": False}
    if "compute_q_blocks" in inspect.signature(BlockMask.from_kv_blocks).parameters
    else {}
)


@dataclass(frozen=True, slots=True)
class PagedKV:
    """One layer's keys and values, each [1, Hkv, blocks * block_size, D]. Slots never written hold zeros.

    Zeros and not garbage: a masked value is multiplied by a weight of 0, which does not help against NaN.
    """

    k: Tensor
    v: Tensor
    block_size: int

    @classmethod
    def empty(
        cls, cache: PagedCache, kv_heads: int, head: int, device: torch.device, dtype: torch.dtype
    ) -> PagedKV:
        """Room for every block of a cache."""
        shape = (1, kv_heads, len(cache.users) * cache.block_size, head)
        k, v = (torch.zeros(shape, device=device, dtype=dtype) for _ in range(2))
        return cls(k, v, cache.block_size)

    def write(self, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Put tokens' keys and values [T, Hkv, D] into slots [T]: block * block_size + offset."""
        self.k[0].index_copy_(1, slots, k.transpose(0, 1))
        self.v[0].index_copy_(1, slots, v.transpose(0, 1))

    def copy(self, source: int, target: int) -> None:
        """Copy a block to another one, as before a write to one that is shared."""
        size = self.block_size
        for pages in (self.k, self.v):
            pages[:, :, target * size : (target + 1) * size] = pages[
                :, :, source * size : (source + 1) * size
            ]


class PagedView:
    """A batch of up to `batch` sequences of a cache, seen by `queries` queries each.

    `width` is the longest block table that can come; the mask is asked about positions up to its end, and
    must not depend on the head. Raises ValueError for sizes that do not fit.
    """

    def __init__(
        self, cache: PagedCache, batch: int, queries: int, width: int, mask: Mask, device: torch.device
    ) -> None:
        blocks, size = len(cache.users), cache.block_size
        for name, count, most in (
            ("batch", batch, 1 << 16),
            ("queries", queries, QUERIES),
            ("width", width, blocks),
        ):
            if not 1 <= count <= most:
                raise ValueError(f"{name}: {count}; from 1 to {most}")
        self.cache, self.queries, self.width, self.mask = cache, queries, width, mask
        self.blocks, self.block_size, self.device = blocks, size, device
        self.tables = torch.zeros(batch, width, dtype=torch.int64, device=device)
        self.logical = torch.full((batch, blocks), -1, dtype=torch.int32, device=device)
        self.lengths = torch.zeros(batch, dtype=torch.int32, device=device)
        self.offsets = torch.zeros(batch, dtype=torch.int32, device=device)
        self.counts = torch.zeros(batch, 1, 1, dtype=torch.int32, device=device)
        self.indices = torch.zeros(batch, 1, 1, blocks, dtype=torch.int32, device=device)
        self.mask_mod = self._mask_mod()
        self.operator = operator(self.device.type == "cuda")

    def update(self, names: Sequence[Hashable], offsets: Sequence[int], lengths: Sequence[int]) -> None:
        """Look at these sequences from now on: their first query stands at `offsets`, and the first
        `lengths` of their tokens are written. Rows without a sequence see nothing.

        Raises ValueError for more sequences or longer tables than there is room for.
        """
        batch = self.lengths.shape[0]
        if len(names) > batch:
            raise ValueError(f"names: {len(names)} sequences; the view holds {batch}")
        tables = torch.zeros(batch, self.width, dtype=torch.int64)
        logical = torch.full((batch, self.blocks), -1, dtype=torch.int32)
        for row, name in enumerate(names):
            table = torch.tensor(self.cache.table(name))
            if len(table) > self.width:
                raise ValueError(f"names: {name!r} has {len(table)} blocks; the view holds {self.width}")
            tables[row, : len(table)] = table
            logical[row, table] = torch.arange(len(table), dtype=torch.int32)
        none = [0] * (batch - len(names))
        self.tables.copy_(tables)
        self.logical.copy_(logical)
        self.offsets.copy_(torch.tensor([*offsets, *none], dtype=torch.int32))
        self.lengths.copy_(torch.tensor([*lengths, *none], dtype=torch.int32))
        self._find_live()

    def _find_live(self) -> None:
        """List each sequence's pages that hold a key that one of its queries sees, on the device."""
        batch, size = self.lengths.shape[0], self.block_size
        row = torch.arange(batch, device=self.device).view(-1, 1, 1, 1)
        query = torch.arange(self.queries, device=self.device).view(1, 1, -1, 1)
        position = torch.arange(self.width * size, device=self.device).view(1, 1, 1, -1)
        offset, length = self.offsets.view(-1, 1, 1, 1), self.lengths.view(-1, 1, 1, 1)
        seen = self.mask(row, torch.zeros_like(row), query + offset, position) & (position < length)
        seen = seen.expand(batch, 1, self.queries, self.width * size)
        live = seen.any(2).view(batch, self.width, size).any(2)
        # Live ones first, in their order: what a block mask wants.
        order = live.int().argsort(dim=1, descending=True, stable=True)
        self.counts.copy_(live.sum(1).view(-1, 1, 1))
        self.indices[..., : self.width] = self.tables.gather(1, order).view(batch, 1, 1, -1)

    def _mask_mod(self) -> Mask:
        """The mask, of slots instead of positions: false where a page is not the sequence's own."""
        logical, size = self.logical, self.block_size
        offsets, lengths, mask = self.offsets, self.lengths, self.mask

        def paged(batch: Tensor, head: Tensor, query: Tensor, slot: Tensor) -> Tensor:
            page = logical[batch, slot // size]
            position = page.clamp(min=0) * size + slot % size
            seen: Tensor = mask(batch, head, query + offsets[batch], position)
            own: Tensor = (page >= 0) & (position < lengths[batch])
            return seen & own

        return paged

    def score_mod(self, mod: ScoreMod) -> ScoreMod:
        """A score mod, of slots instead of positions. Make it once: each is a compilation of its own."""
        logical, size, offsets = self.logical, self.block_size, self.offsets

        def paged(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, slot: Tensor) -> Tensor:
            position = logical[batch, slot // size].clamp(min=0) * size + slot % size
            changed: Tensor = mod(score, batch, head, query + offsets[batch], position)
            return changed

        return paged

    @property
    def block_mask(self) -> BlockMask:
        """The block mask of what `update` was told last."""
        return BlockMask.from_kv_blocks(
            self.counts, self.indices, BLOCK_SIZE=(QUERIES, self.block_size), mask_mod=self.mask_mod,
            seq_lengths=(self.queries, self.blocks * self.block_size), **_FORWARD_ONLY,
        )  # fmt: skip


def attend(
    q: Tensor,
    kv: PagedKV,
    view: PagedView,
    block_mask: BlockMask,
    score_mod: ScoreMod | None = None,
    *,
    scale: float | None = None,
) -> Tensor:
    """Attention of q [B, Hq, Q, D] over the pages that a view shows -> [B, Hq, Q, D].

    `block_mask` is the view's, made once for all layers of a step; `score_mod` one that the view made.
    Compiled on CUDA, run eagerly on a CPU. Raises ValueError for a q that does not fit.
    """
    heads, head = kv.k.shape[1], kv.k.shape[3]
    fits = q.dim() == 4 and q.shape[0] == view.lengths.shape[0] and q.shape[2] == view.queries
    if not fits or q.shape[1] % heads or q.shape[3] != head:
        raise ValueError(
            f"q: shape {tuple(q.shape)}; the view takes [{view.lengths.shape[0]}, a multiple of {heads}, "
            f"{view.queries}, {head}]"
        )
    # Tiles of torch's own choice are 64 or 128 keys; a page must hold whole ones.
    options = {"BLOCK_N": min(kv.block_size, 64)} if q.is_cuda and kv.block_size < QUERIES else None
    out: Tensor = view.operator(
        q, kv.k, kv.v, score_mod, block_mask, scale,
        enable_gqa=q.shape[1] != heads, kernel_options=options,
    )  # fmt: skip
    return out
