"""What a decoder remembers between steps: keys and values in pages, and each request's place.

Everything is allocated once and updated in place, so that captured graphs keep their addresses. A static
cache is the case of one page as long as the longest context for every slot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from monitorgen.kernels.decode.config import Config
from monitorgen.kernels.workload import UsageError


@dataclass(slots=True)
class Cache:
    """Keys and values of all layers in pages. The last page is scratch: padded rows write there."""

    k: Tensor  # [L, P + 1, Hkv, S, D]
    v: Tensor  # [L, P + 1, Hkv, S, D]

    @property
    def pages(self) -> int:
        """Pages for requests; the scratch page is the one of this number."""
        return int(self.k.shape[1]) - 1

    @property
    def page_size(self) -> int:
        """Tokens of a page."""
        return int(self.k.shape[3])

    def move(self, sources: list[int], targets: list[int]) -> None:
        """Copy pages onto others, in all layers. The two lists share no page."""
        device = self.k.device
        source = torch.tensor(sources, device=device)
        target = torch.tensor(targets, device=device)
        self.k.index_copy_(1, target, self.k.index_select(1, source))
        self.v.index_copy_(1, target, self.v.index_select(1, source))


def make_cache(
    config: Config, pages: int, page_size: int, *, device: torch.device | str, dtype: torch.dtype
) -> Cache:
    """A cache of zeros with `pages` pages of `page_size` tokens, and the scratch page."""
    shape = (config.layers, pages + 1, config.kv_heads, page_size, config.head_dim)
    return Cache(
        torch.zeros(shape, device=device, dtype=dtype), torch.zeros(shape, device=device, dtype=dtype)
    )


@dataclass(slots=True)
class State:
    """Where each slot is. The last slot is scratch: position 0, scratch pages; padded rows name it."""

    tokens: Tensor  # [N + 1] int64: the token that a slot's next step reads
    positions: Tensor  # [N + 1] int64: where that token stands
    table: Tensor  # [N + 1, M] int32: the page of every page_size positions

    @property
    def slots(self) -> int:
        """Slots for requests; the scratch slot is the one of this number."""
        return int(self.tokens.shape[0]) - 1

    def tensors(self) -> Iterable[Tensor]:
        """All tensors."""
        return (self.tokens, self.positions, self.table)


def make_state(slots: int, width: int, scratch_page: int, device: torch.device | str) -> State:
    """A state of `slots` empty slots, each with room for `width` pages."""
    return State(
        tokens=torch.zeros(slots + 1, dtype=torch.int64, device=device),
        positions=torch.zeros(slots + 1, dtype=torch.int64, device=device),
        table=torch.full((slots + 1, width), scratch_page, dtype=torch.int32, device=device),
    )


def static_cache(
    config: Config, slots: int, context: int, *, device: torch.device | str, dtype: torch.dtype
) -> tuple[Cache, State]:
    """A cache of one page of `context` tokens a slot, [L, slots + 1, Hkv, context, D], and its state.

    Raises UsageError if the context is longer than the model's positions.
    """
    if context > config.positions:
        raise UsageError(f"a context of {context} tokens: {config.name} has {config.positions} positions")
    cache = make_cache(config, slots, context, device=device, dtype=dtype)
    state = make_state(slots, 1, slots, device)
    state.table[:, 0] = torch.arange(slots + 1, dtype=torch.int32, device=device)
    return cache, state


@dataclass(frozen=True, slots=True)
class Workspace:
    """The activations of a step, allocated once for the largest batch; smaller ones use the first rows."""

    x: Tensor  # [B, H]: the residual stream
    qkv: Tensor  # [B, (Hq + 2 Hkv) D]
    attended: Tensor  # [B, Hq D]
    up: Tensor  # [B, I]
    logits: Tensor  # [B, V] float32
    partial: Tensor  # [splits, B, Hq, D + 2] float32: sums, maximum and weight of a part of the context
    best: Tensor  # [B, tiles] float32: the best logit of a tile of the vocabulary
    best_token: Tensor  # [B, tiles] int32: and its token

    def rows(self, count: int) -> Workspace:
        """Views of the first rows."""
        return Workspace(
            self.x[:count], self.qkv[:count], self.attended[:count], self.up[:count], self.logits[:count],
            self.partial[:, :count], self.best[:count], self.best_token[:count],
        )  # fmt: skip

    def tensors(self) -> Iterable[Tensor]:
        """All tensors."""
        return (
            self.x, self.qkv, self.attended, self.up, self.logits, self.partial, self.best, self.best_token,
        )  # fmt: skip


def make_workspace(
    config: Config,
    rows: int,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    splits: int = 1,
    tiles: int = 1,
) -> Workspace:
    """Room for batches of up to `rows`; `splits` and `tiles` as the kernels that use it say."""

    def empty(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, device=device, dtype=kind)

    return Workspace(
        x=empty(rows, config.hidden),
        qkv=empty(rows, config.qkv_rows),
        attended=empty(rows, config.heads * config.head_dim),
        up=empty(rows, config.intermediate),
        logits=empty(rows, config.vocab, kind=torch.float32),
        partial=empty(splits, rows, config.heads, config.head_dim + 2, kind=torch.float32),
        best=empty(rows, tiles, kind=torch.float32),
        best_token=empty(rows, tiles, kind=torch.int32),
    )
