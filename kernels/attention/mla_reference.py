"""MLA decode in float64, one request at a time: what every fast kernel is compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from monitorgen.kernels.attention.mla_check import VALUE, WIDTH, check_call, check_values

SCALE = WIDTH**-0.5
"""The scale where none is given; DeepSeek's models give (128 + 64) ** -0.5 times their YaRN factor."""


def mla_reference(
    q: Tensor, cache: Tensor, table: Tensor, lengths: Tensor, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Output [B, H, 512] and log-sum-exp [B, H] of one new token a request, both float64.

    q [B, H, 576]; cache [pages, page, 576]; table [B, W] int32, the pages of each request; lengths [B] int32,
    tokens of each request. LSE is the natural logarithm of the sum of exp(scale * q k). A request without
    tokens has output 0 and LSE -inf. Pages that no request holds are not read. Raises ValueError.
    """
    check_call(q, cache, table, lengths, scale)
    check_values(cache, table, lengths)
    scale = SCALE if scale is None else scale
    batch, heads, _ = q.shape
    out = torch.zeros(batch, heads, VALUE, dtype=torch.float64, device=q.device)
    lse = torch.full((batch, heads), -torch.inf, dtype=torch.float64, device=q.device)
    for row, length in enumerate(lengths.tolist()):
        if length:
            pages = table[row, : -(-length // cache.shape[1])].long()
            tokens = cache[pages].flatten(0, 1)[:length].double()  # [L, 576]
            scores = q[row].double() @ tokens.T * scale  # [H, L]
            out[row] = scores.softmax(-1) @ tokens[:, :VALUE]
            lse[row] = scores.logsumexp(-1)
    return out, lse
