"""Random inputs of MLA decode of a given size, and what a call has to move and to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monitorgen.kernels.attention.mla_check import VALUE, WIDTH


@dataclass(frozen=True, slots=True)
class Inputs:
    """q [B, H, 576], cache [pages, page, 576], table [B, W] and lengths [B] int32; `held`: the lengths."""

    q: Tensor
    cache: Tensor
    table: Tensor
    lengths: Tensor
    held: tuple[int, ...]

    @property
    def bytes_moved(self) -> float:
        """Bytes that a call has to move at least: each token and q once, the output and the tables once."""
        batch, heads, _ = self.q.shape
        element = self.q.element_size()
        numbers = sum(self.held) * WIDTH + batch * heads * (WIDTH + VALUE)
        tables = 4 * (batch + sum(-(-length // self.cache.shape[1]) for length in self.held))
        return float(numbers * element + tables)

    @property
    def flops(self) -> float:
        """Multiplications and additions of both matrix products; the softmax is not counted."""
        return float(2 * self.q.shape[1] * sum(self.held) * (WIDTH + VALUE))


def make_inputs(
    lengths: Sequence[int],
    heads: int,
    page: int = 64,
    *,
    device: torch.device | str = "cuda",
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
) -> Inputs:
    """Inputs for requests of the given lengths: pages in random order, numbers from a normal distribution."""
    generator = torch.Generator(device).manual_seed(seed)
    needed = [-(-length // page) for length in lengths]
    width = max(1, *needed)
    pages = max(1, sum(needed))
    order = torch.randperm(pages, generator=torch.Generator().manual_seed(seed)).int()
    table = torch.zeros(len(lengths), width, dtype=torch.int32)
    used = 0
    for row, count in enumerate(needed):
        table[row, :count] = order[used : used + count]
        used += count
    cache = torch.empty(pages, page, WIDTH, dtype=dtype, device=device).normal_(generator=generator)
    q = torch.empty(len(lengths), heads, WIDTH, dtype=dtype, device=device).normal_(generator=generator)
    held = torch.tensor(lengths, dtype=torch.int32, device=device)
    return Inputs(q, cache, table.to(device), held, tuple(lengths))
