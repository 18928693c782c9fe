"""Other people's prefill kernels, called on the same inputs: SDPA's backends and FlashAttention-3.

Each takes q, k, v [B, H, S, D] and the mask, and returns a callable without arguments whose result is
[B, H, S, D]; what lays tensors out differently is given them so beforehand, which costs it no time.
Raises whatever the peer raises where it is not there or does not take the shape.
"""

# mypy: ignore-errors

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Peer = Callable[[Tensor, Tensor, Tensor, bool], Callable[[], Tensor]]


def _sdpa(backend: SDPBackend) -> Peer:
    def peer(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Callable[[], Tensor]:
        def call() -> Tensor:
            with sdpa_kernel([backend]):
                return torch.nn.functional.scaled_dot_product_attention(
                    q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
                )

        return call

    return peer


def flash_attention_3(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Callable[[], Tensor]:
    """FlashAttention-3 from vLLM's wheel, its library under $PEERS/fa3: prompts packed one after another."""
    library = Path(os.environ.get("PEERS", "peers")) / "fa3" / "_vllm_fa3_C.abi3.so"
    torch.ops.load_library(str(library))
    batch, heads, queries, dim = q.shape
    keys = k.shape[2]
    packed = [t.transpose(1, 2).reshape(-1, t.shape[1], dim).contiguous() for t in (q, k, v)]
    cu_q, cu_k = (
        torch.arange(batch + 1, device=q.device, dtype=torch.int32) * length for length in (queries, keys)
    )

    def call() -> Tensor:
        out = torch.ops._vllm_fa3_C.fwd(
            *packed, None, None, None, None, cu_q, cu_k, None, None, None, queries, keys, None, None, None,
            None, None, None, None, None, None, dim**-0.5, causal, -1, -1, 0.0, True, None, 1, None, 0, None,
            1, 0, None,
        )[0]  # fmt: skip
        return out.view(batch, queries, heads, dim).transpose(1, 2)

    return call


PEERS: Mapping[str, Peer] = MappingProxyType(
    {
        "sdpa_cudnn": _sdpa(SDPBackend.CUDNN_ATTENTION),
        "sdpa_flash": _sdpa(SDPBackend.FLASH_ATTENTION),
        "flash_attention_3": flash_attention_3,
    }
)
