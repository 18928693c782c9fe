"""What one layer keeps for the tokens of a request: keys and values, a latent vector, or a state.

Sizes follow the model's KV heads and head size, never hidden size over heads: nearly every model since 2023
shares KV heads between query heads (GQA), and some keep a window, a latent (MLA) or a constant state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from monitorgen.errors import InputError

Kind = Literal["full", "sliding", "chunked", "mla", "state", "none"]

# Bytes of an element, without scales. vLLM keeps fp8 with one scale a tensor, which is nothing a token.
ELEMENT_BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5, "int4": 0.5}
DTYPES = (*ELEMENT_BYTES, "fp8_ds_mla", "custom")

NVFP4_GROUP = 16  # NVFP4: one fp8 scale for 16 elements
INT_SCALE_BYTES = 4  # int8: an fp32 scale; int4: an fp16 scale and an fp16 zero point
DS_MLA_BYTES = 656  # fp8_ds_mla: 512 fp8 latents, 4 fp32 scales, 64 bf16 rotary values


@dataclass(frozen=True, slots=True)
class ElementType:
    """How K and V are stored. `bytes_per_elem` is for `custom`; `scale_group` elements share a scale (0: a
    whole head does)."""

    name: str = "bf16"
    bytes_per_elem: float = 0.0
    scale_group: int = 0

    def __post_init__(self) -> None:
        if self.name not in DTYPES:
            raise InputError(f"no KV cache type {self.name!r}", hint=f"one of {', '.join(DTYPES)}")
        if (self.name == "custom") != (self.bytes_per_elem > 0):
            raise InputError("--bytes-per-elem goes with --dtype custom, and --dtype custom needs it")

    def vector_bytes(self, size: int) -> float:
        """Bytes of one vector of `size` elements (K or V of one head and one token), scales included."""
        if self.name == "custom":
            return size * self.bytes_per_elem
        if self.name == "fp8_ds_mla":
            raise InputError("fp8_ds_mla is the layout of a latent (MLA)", hint="fp8 is its like for K and V")
        data = size * ELEMENT_BYTES[self.name]
        if self.name == "fp4":
            return data + size / NVFP4_GROUP
        if self.name in ("int8", "int4"):
            return data + INT_SCALE_BYTES * math.ceil(size / (self.scale_group or size))
        return data

    def latent_bytes(self, size: int) -> float:
        """Bytes of the latent of one token: there is no V beside it."""
        if self.name == "fp8_ds_mla":
            return float(DS_MLA_BYTES)
        # vLLM keeps two scales with a latent too, though it has one side only.
        pair = INT_SCALE_BYTES if self.name in ("int8", "int4") else 0
        return self.vector_bytes(size) + pair


@dataclass(frozen=True, slots=True)
class State:
    """A recurrent state (Mamba, linear attention) in bytes of one layer and request over all GPUs.

    `sharded` is split over tensor parallel ranks; each of `groups` groups has `group_bytes`, and vLLM gives
    every rank a group of its own where they do not divide evenly.
    """

    sharded: int
    groups: int = 0
    group_bytes: int = 0

    def rank_bytes(self, tp: int) -> int:
        """Bytes on one of `tp` ranks."""
        groups = self.groups if self.groups % tp == 0 else tp
        return self.sharded // tp + groups * self.group_bytes // tp


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of the model as it is in the checkpoint, before it is split over GPUs.

    `k_dim` and `v_dim` are elements of a head (`mla`: the latent with its rotary part, and 0). `window` are
    the tokens that a sliding layer sees, or a chunk of chunked attention. `none` caches nothing (an MLP
    layer, or one that reads another layer's cache) and counts for pipeline stages only. `extra_bytes` a token
    are kept whatever the type of the cache, such as the keys of a sparse indexer.
    """

    kind: Kind
    kv_heads: int = 0
    k_dim: int = 0
    v_dim: int = 0
    window: int = 0
    state: State | None = None
    extra_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Cache:
    """What a layer caches on one GPU, in pages of `block_tokens` tokens.

    `token_bytes` is 0 for a state, whose page is `state_bytes`. `padded` is what a page is
    padded to (0: not).
    """

    kind: Kind
    block_tokens: int
    token_bytes: float = 0.0
    state_bytes: int = 0
    window: int = 0
    padded: int = 0

    @property
    def page_bytes(self) -> int:
        """Bytes of a page."""
        bare = self.state_bytes if self.kind == "state" else math.ceil(self.token_bytes * self.block_tokens)
        return max(bare, self.padded)

    def blocks(self, tokens: int, in_flight: int) -> int:
        """Pages that a request of `tokens` tokens holds at most, with `in_flight` tokens not yet settled.

        A window may start within a page, hence one page more. Source: vLLM's max_memory_usage_bytes of
        each kind of cache (vllm/v1/kv_cache_interface.py).
        """
        if self.kind == "state":
            return 1
        if self.kind == "sliding":
            return math.ceil(min(self.window - 1 + in_flight, tokens) / self.block_tokens) + 1
        if self.kind == "chunked":
            return math.ceil(min(self.window + in_flight, tokens) / self.block_tokens)
        return math.ceil(tokens / self.block_tokens)


def cache_of(layer: Layer, element: ElementType, block_tokens: int, tp: int) -> Cache:
    """What `layer` caches on one of `tp` ranks.

    KV heads are split over the ranks and repeated where there are fewer heads than ranks; a latent is on
    every rank whole.
    """
    if layer.kind == "state":
        assert layer.state is not None
        return Cache("state", block_tokens, state_bytes=layer.state.rank_bytes(tp))
    if layer.kind == "mla":
        return Cache("mla", block_tokens, token_bytes=element.latent_bytes(layer.k_dim) + layer.extra_bytes)
    heads = max(1, layer.kv_heads // tp)
    head = element.vector_bytes(layer.k_dim) + element.vector_bytes(layer.v_dim)
    return Cache(layer.kind, block_tokens, token_bytes=heads * head, window=layer.window)


def check_split(layers: tuple[Layer, ...], tp: int) -> None:
    """Refuse a number of ranks that neither divides the KV heads nor is a multiple of them."""
    for layer in layers:
        heads = layer.kv_heads
        if layer.kind not in ("mla", "state", "none") and heads % tp and tp % heads:
            fits = [n for n in range(1, 129) if heads % n == 0 or n % heads == 0]
            near = sorted(sorted(fits, key=lambda n: abs(n - tp))[:4])
            raise InputError(
                f"{heads} KV heads do not split over --tp {tp}",
                hint=f"{', '.join(map(str, near))} would do",
            )


def align_to_states(caches: list[Cache], nominal: float) -> list[Cache]:
    """Make pages of attention as large as the largest state, and pad the states to them.

    vLLM raises the block size of attention, in steps of the block size that was asked for (128 with a
    latent), until a page holds a state. It counts with `nominal` bytes a token, where V is as wide as K.
    Source: `_align_hybrid_block_size` in vllm/platforms/interface.py.
    """
    states = [cache.state_bytes for cache in caches if cache.kind == "state"]
    if not states or not nominal:
        return caches
    first = primary([cache.kind for cache in caches])
    asked = caches[first].block_tokens
    step = max(asked, 128 if caches[first].kind == "mla" else 16)
    block = max(asked, step * math.ceil(max(states) / (step * nominal)))
    page = math.ceil(block * nominal)
    return [
        replace(cache, padded=page) if cache.kind == "state" else replace(cache, block_tokens=block)
        for cache in caches
    ]


def primary(kinds: Sequence[Kind]) -> int:
    """The layer that stands for the model's attention: the first that keeps every token, else any; or -1."""
    for wanted in (("full", "mla"), ("sliding", "chunked")):
        for number, kind in enumerate(kinds):
            if kind in wanted:
                return number
    return -1
