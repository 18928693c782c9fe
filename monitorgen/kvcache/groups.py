"""How vLLM puts layers with different caches into groups that share one pool of pages.

Every group has its own block table, and all draw pages from one pool, so pages of all groups are equally
large. A request holds the pages of each group; the layers of a group share a block's number. Source:
`get_kv_cache_groups` in vllm/v1/core/kv_cache_utils.py, for layouts with the layer outermost, which is what
vLLM's common attention backends use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from monitorgen.errors import InputError
from monitorgen.kvcache.layers import Cache

Caches = dict[int, Cache]  # by the layer's number

# Below this ratio of layers, the smaller kind is padded up to the larger one instead of splitting that.
NEARLY_EQUAL = 1.5
FULL = ("full", "mla")


@dataclass(frozen=True, slots=True)
class Group:
    """Layers that share a block table, by their number in the model."""

    caches: Caches

    def blocks(self, tokens: int, in_flight: int) -> int:
        """Blocks that a request holds in this group."""
        return max(cache.blocks(tokens, in_flight) for cache in self.caches.values())

    def block_bytes(self, layers: frozenset[int]) -> int:
        """Bytes of a block on the GPU that has these layers."""
        return sum(cache.page_bytes for number, cache in self.caches.items() if number in layers)


def groups_of(caches: Caches) -> tuple[Group, ...]:
    """The groups, in vLLM's order. Raises InputError for mixtures that vLLM cannot serve either."""
    if _one_type(caches):
        return (Group(caches),)
    try:
        unified = _one_page_size(caches)
    except InputError:
        # A latent beside windows: windows are kept whole, as if they were full attention.
        if {cache.kind for cache in caches.values()} - {"full"} != {"mla", "sliding"}:
            raise
        tokens = next(cache.block_tokens for cache in caches.values() if cache.kind == "mla")
        return (
            Group(
                {
                    number: replace(cache, kind="full", window=0, block_tokens=tokens)
                    if cache.kind == "sliding"
                    else cache
                    for number, cache in caches.items()
                }
            ),
        )
    return _split_evenly(unified)


def _one_type(caches: Caches) -> bool:
    """Whether all layers need the same tokens kept in blocks of the same number of tokens."""
    first, *others = caches.values()
    for cache in others:
        if cache.block_tokens != first.block_tokens:
            return False
        if first.kind in FULL:
            if cache.kind not in FULL:
                return False
        elif _alike(cache) != _alike(first):
            return False
    return True


def _alike(cache: Cache) -> tuple[str, int, int]:
    """What layers of one type have in common, other than full attention."""
    return cache.kind, cache.window, cache.page_bytes if cache.kind == "state" else 0


def _one_page_size(caches: Caches) -> Caches:
    """Make all pages as large as the largest: more tokens a block where that comes out even, else padding."""
    largest = max(cache.page_bytes for cache in caches.values())
    unified: Caches = {}
    for number, cache in caches.items():
        page = cache.page_bytes
        if page == largest:
            unified[number] = cache
        elif cache.kind != "state" and largest % page == 0:
            unified[number] = replace(cache, block_tokens=cache.block_tokens * (largest // page))
        elif cache.kind == "mla":
            raise InputError(
                f"pages of a latent ({page} bytes) do not divide those of the other layers ({largest} bytes)",
                hint="vLLM cannot serve this mixture; another --block-size may",
            )
        else:
            unified[number] = replace(cache, padded=largest)
    return unified


def _split_evenly(caches: Caches) -> tuple[Group, ...]:
    """Groups of equally many layers: as many as the rarest kind has, or the commonest if they are close."""
    kinds: dict[Cache, list[int]] = {}
    for number, cache in caches.items():
        kinds.setdefault(cache, []).append(number)
    counts = [len(numbers) for numbers in kinds.values()]
    size = max(counts) if max(counts) < min(counts) * NEARLY_EQUAL else min(counts)
    groups = []
    for cache, numbers in kinds.items():
        parts = math.ceil(len(numbers) / size)
        # Every parts-th layer, so that each pipeline stage has layers of each group.
        groups += [Group(dict.fromkeys(numbers[part::parts], cache)) for part in range(parts)]
    return tuple(groups)


def stages_of(layers: int, pp: int) -> tuple[frozenset[int], ...]:
    """The layers of each pipeline stage: what is left over goes to the stages before the last, backwards.

    Source: `get_pp_indices` in vllm/distributed/utils.py.
    """
    sizes = [layers // pp] * pp
    for back in range(2, layers % pp + 2):
        sizes[-back] += 1
    stages, start = [], 0
    for size in sizes:
        stages.append(frozenset(range(start, start + size)))
        start += size
    return tuple(stages)
