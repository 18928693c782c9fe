"""The float64 reference: one query's attention by loops, and a decoder that keeps nothing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from monitorgen.kernels.decode.weights import Weights


def attention_reference(q: Tensor, keys: Tensor, values: Tensor, positions: Tensor, window: int) -> Tensor:
    """softmax(q k / sqrt(D)) v of one query a row over its own past, in float64, [B, Hq, D].

    q [B, Hq, D]; keys, values [B, Hkv, S, D]; the query of row b stands at positions[b] and sees the keys up
    to there, of these the last `window` if that is not 0.
    """
    batch, heads, dim = q.shape
    group = heads // keys.shape[1]
    out = torch.zeros(batch, heads, dim, dtype=torch.float64)
    for row in range(batch):
        end = int(positions[row]) + 1
        start = max(0, end - window) if window else 0
        for head in range(heads):
            k = keys[row, head // group, start:end].double()
            weight = (k @ q[row, head].double() / math.sqrt(dim)).softmax(0)
            out[row, head] = weight @ values[row, head // group, start:end].double()
    return out


def logits_reference(weights: Weights, tokens: list[int], window: int = 0) -> Tensor:
    """The logits after every token of a sequence, [T, V] in float64: all of it at once, without a cache."""
    config, count = weights.config, len(tokens)
    at = torch.arange(count)
    seen = at <= at[:, None]
    if window:
        seen &= at > at[:, None] - window
    cos, sin = weights.cos[:count, None].double(), weights.sin[:count, None].double()  # [T, 1, D / 2]

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        scaled: Tensor = x / (x.pow(2).mean(-1, keepdim=True) + config.norm_eps).sqrt() * weight.double()
        return scaled

    def turn(x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)

    x = weights.embed[torch.tensor(tokens)].double()  # [T, H]
    for layer in weights.layers:
        heads = (norm(x, layer.attention_norm) @ layer.qkv.double().t()).view(count, -1, config.head_dim)
        q, k, v = torch.split(heads, [config.heads, config.kv_heads, config.kv_heads], 1)
        k, v = (t.repeat_interleave(config.heads // config.kv_heads, 1) for t in (turn(k), v))
        scores = torch.einsum("qhd,khd->hqk", turn(q), k) / math.sqrt(config.head_dim)
        weight = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        attended = torch.einsum("hqk,khd->qhd", weight, v).reshape(count, -1)
        x = x + attended @ layer.out.double().t()
        gate, up = (norm(x, layer.mlp_norm) @ layer.gate_up.double().t()).chunk(2, -1)
        x = x + (gate * gate.sigmoid() * up) @ layer.down.double().t()
    logits: Tensor = norm(x, weights.norm) @ weights.head.double().t()
    return logits
