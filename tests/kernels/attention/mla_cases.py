"""Caches for the tests of MLA decode: shuffled pages, poison in every token that no request holds."""

from __future__ import annotations

from typing import Any

import torch


def made(
    lengths: list[int],
    heads: int,
    page: int,
    *,
    dtype: Any = torch.bfloat16,
    device: str = "cpu",
    seed: int = 3,
) -> tuple[Any, Any, Any, Any]:
    """q, cache, table and lengths; NaN and wrong page numbers beyond each length."""
    generator = torch.Generator().manual_seed(seed)
    needed = [-(-length // page) for length in lengths]
    width = max(1, *needed) + 1
    pages = sum(needed) + 2
    cache = torch.full((pages, page, 576), torch.nan)
    table = torch.full((len(lengths), width), -(10**6), dtype=torch.int32)
    free = (torch.randperm(pages - 2, generator=generator) + 1).tolist()  # the first and last stay poisoned
    for row, length in enumerate(lengths):
        for at in range(needed[row]):
            number = free.pop()
            table[row, at] = number
            count = min(page, length - at * page)
            cache[number, :count] = torch.randn(count, 576, generator=generator)
    q = torch.randn(len(lengths), heads, 576, generator=generator) * 2
    return (
        q.to(device, dtype),
        cache.to(device, dtype),
        table.to(device),
        torch.tensor(lengths, dtype=torch.int32, device=device),
    )


def distance(found: Any, wanted: Any) -> float:
    """Relative norm of the difference, in float64."""
    found, wanted = found.double().cpu(), wanted.double().cpu()
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-30))


def lse_distance(found: Any, wanted: Any) -> float:
    """Largest difference of log-sum-exps; infinite where only one of them is -inf, or either is NaN."""
    found, wanted = found.double().cpu(), wanted.double().cpu()
    empty = wanted == -torch.inf
    if not torch.equal(found == -torch.inf, empty) or found.isnan().any():
        return float("inf")
    return float((found - wanted)[~empty].abs().max()) if (~empty).any() else 0.0
