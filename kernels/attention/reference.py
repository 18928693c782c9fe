"""What attention is, in float64: every kernel of this room is compared with it.

It is computed where its tensors are, in tests on the CPU. Nothing here is fast. Softmax of scores
q . k * scale over the keys that a query may see, with an optional soft cap (Gemma 2, arXiv 2408.00118:
cap * tanh(score / cap)), a sliding window, grouped query heads (GQA), and the log-sum-exp of the scores,
by which parts of a context are joined.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Attended:
    """`out` [..., Dv] and `lse` [...] in float64: natural log of the sum of exp(score), -inf for no key."""

    out: Tensor
    lse: Tensor


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    softcap: float = 0.0,
    causal: bool = False,
    window: int = 0,
) -> Attended:
    """Attention of one sequence: q [Hq, M, D], k [Hk, N, D], v [Hk, N, Dv] -> out [Hq, M, Dv], lse [Hq, M].

    Queries are the last M positions of N. With `causal`, a query sees no later key; `window` > 0 lets it see
    its own position and the `window` - 1 before it. `scale` is D ** -0.5 unless given. A query that sees no
    key gets zeros and a log-sum-exp of -inf.
    """
    group = q.shape[0] // k.shape[0]
    wide_q = q.detach().double()
    wide_k = k.detach().double().repeat_interleave(group, 0)
    wide_v = v.detach().double().repeat_interleave(group, 0)
    scores = wide_q @ wide_k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    queries, keys = q.shape[1], k.shape[1]
    place = torch.arange(keys - queries, keys, device=q.device)[:, None]
    key = torch.arange(keys, device=q.device)[None, :]
    seen = torch.ones(queries, keys, dtype=torch.bool, device=q.device)
    if causal:
        seen &= key <= place
    if window:
        seen &= key > place - window
    scores = scores.masked_fill(~seen, -math.inf)
    none = torch.full(q.shape[:2], -math.inf, dtype=torch.float64, device=q.device)
    lse = torch.logsumexp(scores, -1) if keys else none
    weights = torch.exp(scores - lse.masked_fill(lse == -math.inf, 0.0)[..., None])
    return Attended(weights @ wide_v, lse)


def gather(pages: Tensor, row: Tensor, length: int) -> Tensor:
    """The first `length` tokens of a sequence [H, length, D] from pages [N, page, H, D] by its table row."""
    page = pages.shape[1]
    used = row[: -(-length // page)].long().to(pages.device)
    tokens = pages[used].reshape(-1, *pages.shape[2:])[:length]
    return tokens.transpose(0, 1)


def paged_decode(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    table: Tensor,
    lengths: Tensor,
    *,
    scale: float | None = None,
    softcap: float = 0.0,
    window: int = 0,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
) -> Attended:
    """One new token a sequence over paged keys and values: out [B, Hq, D], lse [B, Hq].

    q [B, Hq, D]; k_pages and v_pages [pages, page, Hk, D]; table [B, width] names the pages of each
    sequence, of which the first `lengths` [B] tokens count. `k_scale` and `v_scale`, [1] or [Hk], multiply
    keys and values that are kept in 8 bits.
    """
    outs, lses = [], []
    for index, length in enumerate(lengths.tolist()):
        k = gather(k_pages, table[index], length).double()
        v = gather(v_pages, table[index], length).double()
        if k_scale is not None:
            k = k * k_scale.double().view(-1, 1, 1).to(k.device)
        if v_scale is not None:
            v = v * v_scale.double().view(-1, 1, 1).to(v.device)
        found = attention(q[index].unsqueeze(1), k, v, scale=scale, softcap=softcap, window=window)
        outs.append(found.out[:, 0])
        lses.append(found.lse[:, 0])
    return Attended(torch.stack(outs), torch.stack(lses))


def relative_norm(got: Tensor, want: Tensor) -> float:
    """|got - want| / |want| in float64; |got - want| itself where `want` is zero."""
    got, want = got.detach().cpu().double(), want.detach().cpu().double()
    norm = float(want.norm())
    apart = float((got - want).norm())
    return apart / norm if norm else apart
