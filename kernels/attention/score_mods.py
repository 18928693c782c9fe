"""What is done to attention scores before the softmax: factories that return named functions.

A score mod is FlexAttention's `score_mod`: `(score, batch, head, query, key) -> score`, after the scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from monitorgen.kernels.workload import UsageError

ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
NAMES = ("none", "alibi", "soft_cap", "tanh")


def _named(mod: ScoreMod, name: str) -> ScoreMod:
    mod.__name__ = mod.__qualname__ = name
    return mod


def alibi_slopes(heads: int) -> Tensor:
    """The slope of each head, [H] float32 on the CPU: 2^(-8 i / H) for i from 1 where H is a power of two.

    For other counts the slopes of the power of two below come first, then every other one of the next
    power's (Press, Smith and Lewis, "Train Short, Test Long", 2022). Raises ValueError for `heads` below 1.
    """
    if heads < 1:
        raise ValueError(f"heads: {heads}; at least 1")
    base = 1 << (heads.bit_length() - 1)

    def geometric(count: int) -> list[float]:
        return [2.0 ** (-8.0 * i / count) for i in range(1, count + 1)]

    return torch.tensor(geometric(base) + geometric(2 * base)[0::2][: heads - base])


def alibi(slopes: Tensor) -> ScoreMod:
    """A bias that grows with distance: -slope * |query - key|. `slopes` [H]. Raises ValueError otherwise."""
    if slopes.dim() != 1:
        raise ValueError(f"slopes: shape {tuple(slopes.shape)}; alibi() takes one for each head, [H]")

    def biased(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score - slopes[head] * (query - key).abs()

    return _named(biased, "alibi")


def soft_cap(cap: float) -> ScoreMod:
    """cap * tanh(score / cap): no score beyond the cap, small ones as they were (as in Gemma 2).

    Raises ValueError if `cap` is not positive and finite.
    """
    _positive("cap", cap)

    def capped(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    return _named(capped, f"soft_cap({cap:g})")


def tanh(gain: float) -> ScoreMod:
    """gain * tanh(score): scores bounded by the gain, with slope `gain` at zero.

    Raises ValueError if `gain` is not positive and finite.
    """
    _positive("gain", gain)

    def bounded(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return gain * torch.tanh(score)

    return _named(bounded, f"tanh({gain:g})")


def chain(*mods: ScoreMod) -> ScoreMod:
    """One mod after the other, the first one first. Raises ValueError without any."""
    if not mods:
        raise ValueError("mods: none given; chain() takes at least one")

    def chained(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        for mod in mods:
            score = mod(score, batch, head, query, key)
        return score

    return _named(chained, "+".join(mod.__name__ for mod in mods)) if len(mods) > 1 else mods[0]


def shifted(mod: ScoreMod, offset: Tensor) -> ScoreMod:
    """The mod for queries that start at position `offset` [B], a tensor on the device, as in decoding."""

    def later(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return mod(score, batch, head, query + offset[batch], key)

    return _named(later, f"{mod.__name__}, shifted")


def parse(text: str, *, heads: int, cap: float, gain: float, device: torch.device | str) -> ScoreMod | None:
    """A mod from names with `+` between, applied in that order: `soft_cap+alibi`; None for `none`.

    Raises UsageError for other names.
    """
    made: dict[str, Callable[[], ScoreMod]] = {
        "alibi": lambda: alibi(alibi_slopes(heads).to(device)),
        "soft_cap": lambda: soft_cap(cap),
        "tanh": lambda: tanh(gain),
    }
    names = [name.strip() for name in text.split("+")]
    if names == ["none"]:
        return None
    for name in names:
        if name not in made:
            raise UsageError(
                f"score mod {text!r}: no mod {name!r}; there are {', '.join(NAMES)}, with + between"
            )
    return chain(*(made[name]() for name in names))


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: {value}; a positive number")
