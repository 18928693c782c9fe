"""The native FlexAttention path: a decoder over whole sequences, without a cache and without decode steps.

What decodes token by token is held against it: the mask here is FlexAttention's own, built from the sentence
that says who sees whom, so that it shares no block list, no cache and no position arithmetic with them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from monitorgen.kernels.decode.torch_ops import rms_norm, rotate
from monitorgen.kernels.decode.weights import Weights


class NativeFlex:
    """Logits of whole sequences of up to `context` tokens, causal or with a sliding window."""

    def __init__(self, weights: Weights, context: int, window: int = 0) -> None:
        self.weights, self.window = weights, window
        self.length = -(-context // 128) * 128  # one shape for all: it compiles once
        torch._dynamo.config.recompile_limit = 256
        self.attend: Callable[..., Any] = flex_attention
        if weights.device.type == "cuda":
            self.attend = torch.compile(flex_attention, dynamic=False)
        else:
            warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")

        def causal(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
            return q >= kv

        def sliding(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
            return (q >= kv) & (q - kv < window)

        make: Any = create_block_mask
        self.mask = make(
            sliding if window else causal, None, None, self.length, self.length, device=weights.device
        )

    def logits(self, tokens: list[int], start: int) -> Tensor:
        """The logits after each token from number `start` on, [T - start, V] float32."""
        weights, config, count = self.weights, self.weights.config, len(tokens)
        padded = torch.tensor([tokens + [0] * (self.length - count)], device=weights.device)  # [1, S]
        places = min(self.length, weights.cos.shape[0])
        cos, sin = (self._tables(table, places) for table in (weights.cos, weights.sin))  # [S, 1, D / 2]
        x = F.embedding(padded, weights.embed)  # [1, S, H]
        for layer in weights.layers:
            normed = rms_norm(x, layer.attention_norm, config.norm_eps)
            heads = F.linear(normed, layer.qkv).view(1, self.length, -1, config.head_dim)
            q, k, v = torch.split(heads, [config.heads, config.kv_heads, config.kv_heads], 2)
            found = self.attend(
                rotate(q, cos, sin).transpose(1, 2), rotate(k, cos, sin).transpose(1, 2), v.transpose(1, 2),
                block_mask=self.mask, enable_gqa=True,
            )  # [1, Hq, S, D]  # fmt: skip
            x = x + F.linear(found.transpose(1, 2).flatten(2), layer.out)
            gate, up = F.linear(rms_norm(x, layer.mlp_norm, config.norm_eps), layer.gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, layer.down)
        last = rms_norm(x[0, start:count], weights.norm, config.norm_eps)
        return F.linear(last, weights.head).float()

    def _tables(self, table: Tensor, places: int) -> Tensor:
        """Rotary factors of all places; padding past the model's last place takes the last's."""
        at = torch.arange(self.length, device=table.device).clamp(max=places - 1)
        return table[at][:, None]
