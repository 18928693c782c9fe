"""Which blocks of a static KV cache a decode step visits, kept on the device.

A mask over the whole cache says what a query may see; a list of blocks says what is read at all. The list is
made anew for each step by a few small operations on tensors at fixed addresses, so that a captured graph
moves its own window on: nothing is built, and the host is not asked.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from monitorgen.kernels.workload import UsageError


def blocks_visited(context: int, window: int, block: int) -> int:
    """The most blocks of `block` tokens that one row visits in a cache of `context` tokens.

    `window` tokens in a row, the query's own included, lie in at most ceil((window - 1) / block) + 1 blocks,
    wherever they start; 0 is no window: all tokens up to the query's own.
    """
    held = -(-context // block)
    return min(-(-(window - 1) // block) + 1, held) if window else held


def check_block(block: int) -> None:
    """Raise UsageError for a block that the kernels do not take."""
    if block < 16 or block & (block - 1):
        raise UsageError(f"a block of {block} tokens: it must be a power of two, 16 or more")


class BlockIndex:
    """The blocks that each row visits, and FlexAttention's mask over them.

    `offset` [B] int64 is where each row's query stands; `counts` [B, 1, 1] and `indices` [B, 1, 1, N] int32
    are the numbers of the visited blocks, the earliest first. The mask is built once and reads all three.
    """

    def __init__(self, rows: int, context: int, window: int, block: int, device: torch.device | str) -> None:
        check_block(block)
        if window < 0:
            raise UsageError(f"a window of {window} tokens: give 1 or more, or 0 for none")
        self.rows, self.context, self.window, self.block = rows, context, window, block
        self.visited = blocks_visited(context, window, block)
        self.offset = torch.zeros(rows, dtype=torch.int64, device=device)
        self.counts = torch.ones(rows, 1, 1, dtype=torch.int32, device=device)
        # As wide as the cache has blocks, as FlexAttention's own masks are; a window leaves the rest unused.
        self.indices = torch.zeros(rows, 1, 1, -(-context // block), dtype=torch.int32, device=device)
        self.steps = torch.arange(self.visited, device=device)
        self.mask = self._mask()

    def move(self, positions: Tensor) -> None:
        """Let each row's query stand at `positions` [B] int64: recomputes the visited blocks in place."""
        self.offset.copy_(positions)
        last = self.offset // self.block  # [B]
        first = last * 0
        if self.window:
            first = (self.offset - (self.window - 1)).clamp_(min=0) // self.block
        self.counts.copy_((last - first + 1)[:, None, None])
        # Past the last one, its number again: those are not counted, but are read as addresses by some.
        found = torch.minimum(first[:, None] + self.steps, last[:, None])  # [B, visited]
        self.indices[:, 0, 0, : self.visited].copy_(found)

    def seen(self, keys: Tensor) -> Tensor:
        """Whether a row's query sees the keys at these positions, [B, ...] for positions [B or 1, ...]."""
        offset = self.offset.view(-1, *[1] * (keys.dim() - 1))
        held = keys <= offset
        return held & (keys > offset - self.window) if self.window else held

    def _mask(self) -> BlockMask:
        """FlexAttention's mask, whose tensors are ours: what `move` writes is what its kernel reads."""
        offset, window = self.offset, self.window

        def causal(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
            return kv <= offset[b]

        def sliding(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
            return (kv <= offset[b]) & (kv > offset[b] - window)

        # The query's side of a block is FlexAttention's default: one row of 128 holds the one query.
        build: Any = BlockMask.from_kv_blocks
        made: BlockMask = build(
            self.counts, self.indices, BLOCK_SIZE=(128, self.block),
            mask_mod=sliding if window else causal, seq_lengths=(1, self.context),
        )  # fmt: skip
        return made
