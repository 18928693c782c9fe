"""The model over whole sequences at once, without a cache: for training, and to judge decoded tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from monitorgen.kernels.decode.torch_ops import rms_norm, rotate
from monitorgen.kernels.decode.weights import Weights


def hidden_states(weights: Weights, tokens: Tensor) -> Tensor:
    """The last hidden state at every position of sequences [B, T] without a cache, [B, T, H]."""
    config, (batch, length) = weights.config, tokens.shape
    cos, sin = weights.cos[:length, None], weights.sin[:length, None]  # [T, 1, D / 2]
    x = F.embedding(tokens, weights.embed)  # [B, T, H]
    for layer in weights.layers:
        normed = rms_norm(x, layer.attention_norm, config.norm_eps)
        heads = F.linear(normed, layer.qkv).view(batch, length, -1, config.head_dim)
        q, k, v = torch.split(heads, [config.heads, config.kv_heads, config.kv_heads], 2)  # [B, T, heads, D]
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        attended = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, enable_gqa=True
        )  # [B, Hq, T, D]
        x = x + F.linear(attended.transpose(1, 2).flatten(2), layer.out)
        gate, up = F.linear(rms_norm(x, layer.mlp_norm, config.norm_eps), layer.gate_up).chunk(2, -1)
        x = x + F.linear(F.silu(gate) * up, layer.down)
    return x


def logits_of(weights: Weights, hidden: Tensor) -> Tensor:
    """The logits after hidden states [..., H], [..., V]."""
    return F.linear(rms_norm(hidden, weights.norm, weights.config.norm_eps), weights.head)
