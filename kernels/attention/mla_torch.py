"""MLA decode in plain torch: pages gathered, two matrix products and a softmax. The baseline.

All requests are computed together, padded to the longest that the table holds, as one would write it without
a kernel. It reads the cache once to gather, and the gathered tokens twice more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monitorgen.kernels.attention.mla_check import VALUE, check_call
from monitorgen.kernels.attention.mla_reference import SCALE


def mla_torch(
    q: Tensor, cache: Tensor, table: Tensor, lengths: Tensor, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Output [B, H, 512] like q and LSE [B, H] float32; arguments and meaning as `mla_reference`'s.

    Scores and softmax are float32, products of q's type. Every page in the table is read: unlike the kernels,
    this needs page numbers that exist also beyond the lengths. Nothing waits for the device.
    """
    check_call(q, cache, table, lengths, scale)
    tokens = cache[table.long()].flatten(1, 2)  # [B, W * page, 576]
    beyond = torch.arange(tokens.shape[1], device=q.device) >= lengths[:, None]  # [B, W * page]
    scores = torch.bmm(q, tokens.mT).float() * (SCALE if scale is None else scale)  # [B, H, W * page]
    scores = scores.masked_fill_(beyond[:, None], -torch.inf)
    lse = scores.logsumexp(-1)
    weights = scores.sub_(lse[..., None]).exp_().nan_to_num_(0.0)  # a request without tokens: -inf - -inf
    # What lies beyond a length may be anything, also nan, which a weight of 0 does not hide.
    values = tokens[..., :VALUE].masked_fill(beyond[..., None], 0.0)
    return torch.bmm(weights.to(q.dtype), values), lse
