"""How many tokens and requests fit into the memory of a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from monitorgen.errors import InputError
from monitorgen.kvcache.groups import Group, groups_of, stages_of
from monitorgen.kvcache.layers import (
    Cache,
    ElementType,
    Layer,
    align_to_states,
    cache_of,
    check_split,
    primary,
)

GIB = 1024**3
BF16 = ElementType()
LONGEST = 1 << 40  # tokens; no search goes further


@dataclass(frozen=True, slots=True)
class Model:
    """A model's layers in order, and what else its files say (0 or empty: nothing)."""

    layers: tuple[Layer, ...]
    name: str = ""
    max_tokens: int = 0
    weight_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Serving:
    """How it is served. `in_flight` are tokens scheduled and not yet settled: vLLM's
    --max-num-batched-tokens, twice that under asynchronous scheduling."""

    element: ElementType = BF16
    block_tokens: int = 16
    tp: int = 1
    pp: int = 1
    in_flight: int = 8192


@dataclass(frozen=True, slots=True)
class Plan:
    """The caches of a model on its GPUs: `groups` share a pool; `stages` are the layers of each GPU."""

    model: Model
    serving: Serving
    groups: tuple[Group, ...]
    stages: tuple[frozenset[int], ...]

    @property
    def caches(self) -> dict[int, Cache]:
        """Every layer's cache, as it is after pages were made equal."""
        return {number: cache for group in self.groups for number, cache in group.caches.items()}

    @property
    def block_bytes(self) -> int:
        """Bytes of one block on the GPU that needs most: blocks of all groups are as large as the largest."""
        return max(max(group.block_bytes(stage) for group in self.groups) for stage in self.stages)

    @property
    def token_bytes(self) -> float:
        """Bytes that one more token of a long request takes on the GPU that needs most, blocks aside."""
        growing = {n: c.token_bytes for n, c in self.caches.items() if c.kind in ("full", "mla")}
        return max(sum(growing.get(number, 0.0) for number in stage) for stage in self.stages)

    def request_blocks(self, tokens: int) -> int:
        """Blocks that one request of `tokens` tokens holds at most."""
        return sum(group.blocks(tokens, self.serving.in_flight) for group in self.groups)

    def request_bytes(self, tokens: int) -> int:
        """Bytes of them on the GPU that needs most."""
        return self.request_blocks(tokens) * self.block_bytes

    def blocks(self, memory: int) -> int:
        """Blocks that `memory` bytes on each GPU hold; the last one is vLLM's null block."""
        return memory // self.block_bytes

    def vllm_tokens(self, memory: int, tokens: int) -> int:
        """What vLLM reports as the KV cache's size in tokens, for requests of `tokens` tokens."""
        return int(self.blocks(memory) / self.request_blocks(tokens) * tokens)

    def requests(self, memory: int, tokens: int) -> int:
        """Requests of `tokens` tokens that fit at the same time; the null block serves none."""
        return max(self.blocks(memory) - 1, 0) // self.request_blocks(tokens)

    def longest(self, memory: int, batch: int) -> int:
        """The most tokens that each of `batch` requests may have; 0 where not even one fits."""
        return _largest(lambda tokens: self.requests(memory, tokens) >= batch)


def plan_of(model: Model, serving: Serving) -> Plan:
    """Lay the caches of a model out as vLLM does. Raises InputError for what cannot be served."""
    cached = [number for number, layer in enumerate(model.layers) if layer.kind != "none"]
    if not cached:
        raise InputError("this model has no layer that caches anything")
    if serving.pp > len(model.layers):
        raise InputError(
            f"{len(model.layers)} layers do not fill --pp {serving.pp} stages",
            hint=f"at most {len(model.layers)}",
        )
    check_split(model.layers, serving.tp)
    layers = [model.layers[number] for number in cached]
    caches = [cache_of(layer, serving.element, serving.block_tokens, serving.tp) for layer in layers]
    first = primary([layer.kind for layer in layers])
    nominal = 0.0
    if first >= 0:
        square = replace(layers[first], v_dim=layers[first].k_dim)
        nominal = cache_of(square, serving.element, 1, serving.tp).token_bytes
    caches = align_to_states(caches, nominal)
    groups = groups_of(dict(zip(cached, caches, strict=True)))
    return Plan(model, serving, groups, stages_of(len(model.layers), serving.pp))


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes of each GPU, and what of them the KV cache does not get.

    Either `gpu` with `utilization`, `reserve` (activations) and `weights` (of all GPUs), or `kv`: the
    cache's own bytes. `overhead` is a share on top of the cache for what the allocator loses.
    """

    gpu: int = 0
    kv: int = 0
    weights: int = 0
    reserve: int = 0
    utilization: float = 1.0
    overhead: float = 0.0

    def cache_bytes(self, gpus: int) -> int:
        """Bytes on each of `gpus` GPUs for the KV cache. Raises InputError when nothing is left."""
        if self.kv:
            return int(self.kv / (1 + self.overhead))
        weights = math.ceil(self.weights / gpus)
        left = int(self.gpu * self.utilization) - weights - self.reserve
        if left <= 0:
            raise InputError(
                f"nothing is left for the KV cache: {gib(self.gpu * self.utilization)} of a GPU hold "
                f"{gib(weights)} of weights and {gib(self.reserve)} in reserve",
                hint="more --tp or --pp, a smaller reserve, or a larger GPU",
            )
        return int(left / (1 + self.overhead))


def check_fits(plan: Plan, memory: int, tokens: int, batch: int) -> None:
    """Refuse more requests than fit, and say what would."""
    if plan.requests(memory, tokens) >= batch:
        return
    need = (plan.request_blocks(tokens) * batch + 1) * plan.block_bytes
    some, length = plan.requests(memory, tokens), plan.longest(memory, batch)
    would = [f"{some:,} of that length"] if some else []
    would += [f"{batch:,} of {length:,} tokens"] if length else []
    would.append(f"{gib(need)} for the cache on each GPU")
    raise InputError(
        f"{batch:,} request{'s' if batch > 1 else ''} of {tokens:,} tokens do not fit: they need {gib(need)} "
        f"of KV cache on each GPU, and {gib(memory)} are left",
        hint=f"would fit: {', or '.join(would)}",
    )


def gib(size: float) -> str:
    """Bytes for people."""
    if size < 1024**2:
        return f"{size:,.0f} B" if size < 1024 else f"{size / 1024:,.1f} KiB"
    return f"{size / GIB:,.2f} GiB" if size >= GIB / 10 else f"{size / 1024**2:,.1f} MiB"


def _largest(fits: Callable[[int], bool]) -> int:
    """The largest number that fits, where all smaller ones do; 0 for none."""
    low, high = 0, 1
    while high < LONGEST and fits(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
