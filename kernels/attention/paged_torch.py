"""Paged decode attention in plain torch: what a program without our kernels does, and what runs on a CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from monitorgen.kernels.attention.reference import gather


def dense_sdpa(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, table: Tensor, lengths: Sequence[int], out: Tensor
) -> None:
    """Attention sequence by sequence: its pages are gathered, then torch's SDPA. Lengths are on the host.

    Shapes as in `paged_gqa.Plan.run`; no window and no soft cap, which SDPA does not have.
    """
    for index, length in enumerate(lengths):
        if not length:
            out[index].zero_()
            continue
        k = gather(k_pages, table[index], length)[None]  # [1, Hk, L, D]
        v = gather(v_pages, table[index], length)[None]
        found = functional.scaled_dot_product_attention(q[index][None, :, None], k, v, enable_gqa=True)
        out[index].copy_(found[0, :, 0])


def paged_torch(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    table: Tensor,
    lengths: Tensor,
    out: Tensor,
    lse: Tensor | None = None,
) -> None:
    """Attention of the whole batch at once: every table row is gathered to its full width and masked.

    Reads no length on the host, like the Triton kernels. Sums in float32.
    """
    batch, heads, dim = q.shape
    page, kv_heads = k_pages.shape[1:3]
    width = table.shape[1] * page
    seen = torch.arange(width, device=q.device)[None, :] < lengths[:, None]  # [B, N]
    k, v = (pages[table.long()].view(batch, width, kv_heads, dim).float() for pages in (k_pages, v_pages))
    # What is not seen may hold anything, and NaN times zero is NaN.
    v = v.masked_fill(~seen[:, :, None, None], 0.0)
    grouped = q.float().view(batch, kv_heads, heads // kv_heads, dim)
    scores = torch.einsum("bhgd,bnhd->bhgn", grouped, k) * dim**-0.5
    scores = scores.masked_fill(~seen[:, None, None, :], -math.inf)
    found = torch.logsumexp(scores, -1)  # [B, Hk, G]
    weights = torch.exp(scores - found.masked_fill(found == -math.inf, 0.0)[..., None])
    out.copy_(torch.einsum("bhgn,bnhd->bhgd", weights, v).reshape(batch, heads, dim))
    if lse is not None:
        lse.copy_(found.view(batch, heads))
