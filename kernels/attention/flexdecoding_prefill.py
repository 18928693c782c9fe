"""Filling a static cache with prompts, in chunks: causal or with a sliding window, rows of any lengths."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from monitorgen.kernels.decode.state import Cache, State
from monitorgen.kernels.decode.torch_ops import rms_norm, rotate
from monitorgen.kernels.decode.weights import Weights

CHUNK = 512  # tokens: at 16k of context and 32 heads, one row's scores of a chunk are 1 GB in float32


def prefill(
    weights: Weights,
    cache: Cache,
    state: State,
    slots: Tensor,
    tokens: Tensor,
    lengths: Tensor,
    *,
    window: int = 0,
    chunk: int = CHUNK,
) -> Tensor:
    """Fill the slots with their prompts; returns the logits after each prompt's last token, [B, V] float32.

    `slots` [B] int64, `tokens` [B, T] int64 padded on the right, `lengths` [B] int64 from 1 to T. A query
    sees its own token and those before it, of these the last `window` if that is not 0. What pads a prompt is
    written to the scratch page. The state's positions become the lengths; its tokens stay as they are.
    """
    config, (batch, longest) = weights.config, tokens.shape
    last = torch.zeros(batch, config.hidden, dtype=weights.dtype, device=tokens.device)
    for start in range(0, longest, chunk):
        end = min(longest, start + chunk)
        steps = torch.arange(start, end, device=tokens.device)  # [C]
        page = torch.where(steps < lengths[:, None], slots[:, None], cache.pages)  # [B, C]
        hidden = _chunk(weights, cache, slots, tokens[:, start:end], steps, page, start, end, window)
        ends = (lengths > start) & (lengths <= end)
        at = (lengths - 1 - start).clamp(0, end - start - 1)
        last = torch.where(ends[:, None], hidden[torch.arange(batch, device=tokens.device), at], last)
    state.positions[slots] = lengths
    return F.linear(rms_norm(last, weights.norm, config.norm_eps), weights.head).float()


def _chunk(
    weights: Weights,
    cache: Cache,
    slots: Tensor,
    tokens: Tensor,
    steps: Tensor,
    page: Tensor,
    start: int,
    end: int,
    window: int,
) -> Tensor:
    """The last hidden states [B, C, H] of the tokens [B, C] at positions start to end."""
    config, (batch, count) = weights.config, tokens.shape
    first = max(0, start - window + 1) if window else 0
    keys = torch.arange(first, end, device=tokens.device)
    seen = keys <= steps[:, None]  # [C, K]
    if window:
        seen &= keys > steps[:, None] - window
    cos, sin = weights.cos[start:end, None], weights.sin[start:end, None]  # [C, 1, D / 2]
    x = F.embedding(tokens, weights.embed)  # [B, C, H]
    for index, layer in enumerate(weights.layers):
        normed = rms_norm(x, layer.attention_norm, config.norm_eps)
        heads = F.linear(normed, layer.qkv).view(batch, count, -1, config.head_dim)
        q, k, v = torch.split(heads, [config.heads, config.kv_heads, config.kv_heads], 2)  # [B, C, heads, D]
        cache.k[index][page, :, steps] = rotate(k, cos, sin)
        cache.v[index][page, :, steps] = v
        attended = F.scaled_dot_product_attention(
            rotate(q, cos, sin).transpose(1, 2),
            cache.k[index][slots, :, first:end],
            cache.v[index][slots, :, first:end],
            attn_mask=seen,
            enable_gqa=True,
        )  # [B, Hq, C, D]
        x = x + F.linear(attended.transpose(1, 2).flatten(2), layer.out)
        gate, up = F.linear(rms_norm(x, layer.mlp_norm, config.norm_eps), layer.gate_up).chunk(2, -1)
        x = x + F.linear(F.silu(gate) * up, layer.down)
    return x
