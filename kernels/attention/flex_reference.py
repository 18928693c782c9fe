"""Attention with any mask and score mod in float64, written out: what every FlexAttention path must equal.

It knows nothing of FlexAttention's blocks and kernels: masks and mods are evaluated at every pair of
positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from monitorgen.kernels.attention.masks import Mask
from monitorgen.kernels.attention.score_mods import ScoreMod


def indices(
    batch: int, heads: int, queries: int, keys: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Index tensors of every place of a score matrix, that broadcast to [B, H, Q, K]."""
    return (
        torch.arange(batch, device=device).view(-1, 1, 1, 1),
        torch.arange(heads, device=device).view(1, -1, 1, 1),
        torch.arange(queries, device=device).view(1, 1, -1, 1),
        torch.arange(keys, device=device).view(1, 1, 1, -1),
    )


def places_of(scores: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The index tensors of scores [B, H, Q, K]."""
    batch, heads, queries, keys = scores.shape
    return indices(batch, heads, queries, keys, scores.device)


def dense_mask(
    mask: Mask, batch: int, heads: int, queries: int, keys: int, device: torch.device | str = "cpu"
) -> Tensor:
    """The mask at every place, bool [B or 1, H or 1, Q, K]: dimensions that it does not read stay 1."""
    found = mask(*indices(batch, heads, queries, keys, device))
    whole: Tensor = found.expand(*found.shape[:2], queries, keys)
    return whole


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask | None = None,
    score_mod: ScoreMod | None = None,
    scale: float | None = None,
    rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """softmax(mod(q k^T * scale), masked) v, in float64: the output [B, Hq, Q, Dv] and the natural
    log-sum-exp [B, Hq, Q]; of the queries at the positions `rows` [R] alone where those are given.

    `q` is [B, Hq, Q, D], `k` [B, Hkv, K, D], `v` [B, Hkv, K, Dv]; each KV head serves Hq / Hkv query heads in
    turn. `scale` is 1 / sqrt(D) unless given. A query that sees no key gets 0 and -inf.
    """
    positions = torch.arange(q.shape[2], device=q.device) if rows is None else rows
    q, k, v = q[:, :, positions].double(), k.double(), v.double()
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = q @ k.transpose(-1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    batch, head, _, key = places_of(scores)
    places = (batch, head, positions.view(1, 1, -1, 1), key)
    if score_mod is not None:
        scores = score_mod(scores, *places)
    if mask is not None:
        scores = scores.masked_fill(~mask(*places), -math.inf)
    lse = scores.logsumexp(-1)
    # exp(-inf - -inf) is nan: a query that sees nothing takes exp(-inf - 0) = 0 everywhere.
    weights = torch.exp(scores - lse.masked_fill(lse == -math.inf, 0.0).unsqueeze(-1))
    return weights @ v, lse


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks of a mask, over all batches and heads: those with a visible key, those of visible keys only."""

    live: int
    whole: int
    total: int

    @property
    def share(self) -> float:
        """Share of blocks that attention has to compute."""
        return self.live / self.total


def count_blocks(mask: Mask, batch: int, heads: int, queries: int, keys: int, block: int) -> Blocks:
    """Count a mask's blocks of `block` x `block` by looking at every place of it.

    Places beyond the end of the sequence are not visible: a block that holds some is never whole.
    """
    live = whole = total = 0
    places = dense_mask(mask, batch, heads, queries, keys).expand(batch, heads, queries, keys)
    for rows in torch.split(places, block, 2):
        for tile in torch.split(rows, block, 3):
            seen = tile.sum((2, 3))
            live += int((seen > 0).sum())
            whole += int((seen == block * block).sum())
            total += batch * heads
    return Blocks(live, whole, total)
