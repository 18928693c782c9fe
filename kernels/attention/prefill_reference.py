"""Prefill attention in float64: what the fast kernels are compared with.

A causal query sees the keys up to its own place, counted from the end: query i of `queries` sees the keys
0 to i + keys - queries, so that a prompt's last part can attend to a cache that holds all of it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def prefill_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    scale: float | None = None,
    rows: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """softmax(scale * q k^T) v and the log-sum-exp of each row, both in float64.

    q is [B, H, Sq, D]; k and v are [B, Hkv, Sk, D] with H a multiple of Hkv; query head h reads KV head
    h // (H // Hkv). `rows` picks queries by index; all by default. Returns [B, H, rows, D] and [B, H, rows],
    the latter in natural logarithms. `scale` is 1 / sqrt(D) by default.
    """
    queries, keys, dim = q.shape[2], k.shape[2], q.shape[3]
    rows = torch.arange(queries, device=q.device) if rows is None else rows.to(q.device)
    scale = 1.0 / math.sqrt(dim) if scale is None else scale
    group = q.shape[1] // k.shape[1]
    outs, sums = [], []
    for batch in range(q.shape[0]):  # one at a time: float64 scores of all would not fit
        wide_k = k[batch].double().repeat_interleave(group, 0)  # [H, Sk, D]
        wide_v = v[batch].double().repeat_interleave(group, 0)
        scores = q[batch][:, rows].double() @ wide_k.transpose(1, 2) * scale  # [H, rows, Sk]
        if causal:
            seen = torch.arange(keys, device=q.device)[None] <= rows[:, None] + keys - queries
            scores = scores.masked_fill(~seen, -math.inf)
        sums.append(torch.logsumexp(scores, -1))
        outs.append(torch.softmax(scores, -1) @ wide_v)
    return torch.stack(outs), torch.stack(sums)


def some_rows(queries: int, count: int = 32) -> Tensor:
    """Up to `count` query indices spread over a prompt, the first and the last among them."""
    count = min(queries, count)
    spread = [round(number * (queries - 1) / max(count - 1, 1)) for number in range(count)]
    return torch.tensor(spread)


def relative_error(out: Tensor, reference: Tensor) -> float:
    """|out - reference| / |reference|, as norms of everything; inf where `out` is not finite."""
    difference = float((out.double() - reference).norm() / reference.norm())
    return difference if math.isfinite(difference) else math.inf
