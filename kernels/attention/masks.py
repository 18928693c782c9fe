"""Which keys a query may look at: factories that return named mask functions, composed by and/or.

A mask is FlexAttention's `mask_mod`: `(batch, head, query, key) -> bool`, of index tensors of any shapes that
broadcast. Positions count from 0; the query at position q sees the key at position k where it is true.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from monitorgen.kernels.workload import UsageError

Mask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def _named(mask: Mask, name: str) -> Mask:
    """The mask under a name that says what it does, for messages and reports."""
    mask.__name__ = mask.__qualname__ = name
    return mask


def full() -> Mask:
    """Every query sees every key."""

    def everything(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return query >= 0

    return _named(everything, "full")


def causal() -> Mask:
    """A query sees itself and what came before."""

    def earlier(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return query >= key

    return _named(earlier, "causal")


def sliding_window(window: int) -> Mask:
    """A query sees the last `window` keys, itself included, and none that is later.

    Raises ValueError if `window` is below 1.
    """
    _at_least("window", window, 1)

    def near(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query - key < window)

    return _named(near, f"sliding_window({window})")


def document(ids: Tensor) -> Mask:
    """A query sees keys of its own document. `ids` [B, S] or [S] holds the document of each position.

    Raises ValueError for other shapes, or ids that are no whole numbers.
    """
    if ids.dim() not in (1, 2) or ids.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"ids: shape {tuple(ids.shape)} of {ids.dtype}; document() takes [B, S] or [S] of int32 or int64"
        )
    if ids.dim() == 1:

        def of_one(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return ids[query] == ids[key]

        return _named(of_one, "document")

    def of_batch(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return ids[batch, query] == ids[batch, key]

    return _named(of_batch, "document")


def prefix_lm(prefix: int | Tensor) -> Mask:
    """Every query sees the prefix, and beyond it what came before. One length for all, or [B] of them.

    Raises ValueError if the length is negative, or the tensor is not [B] of whole numbers.
    """
    if isinstance(prefix, Tensor):
        lengths = prefix
        if lengths.dim() != 1 or lengths.dtype not in (torch.int32, torch.int64):
            raise ValueError(
                f"prefix: shape {tuple(lengths.shape)} of {lengths.dtype}; "
                "prefix_lm() takes an int or [B] of int32 or int64"
            )

        def each(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (key < lengths[batch]) | (query >= key)

        return _named(each, "prefix_lm")
    _at_least("prefix", prefix, 0)
    length: int = prefix

    def prefixed(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key < length) | (query >= key)

    return _named(prefixed, f"prefix_lm({length})")


def all_of(*masks: Mask) -> Mask:
    """A query sees what every one of the masks lets it see. Raises ValueError without any."""
    if not masks:
        raise ValueError("masks: none given; all_of() takes at least one")

    def every(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = masks[0](batch, head, query, key)
        for mask in masks[1:]:
            seen = seen & mask(batch, head, query, key)
        return seen

    return _named(every, "&".join(_inner(mask, "|") for mask in masks)) if len(masks) > 1 else masks[0]


def any_of(*masks: Mask) -> Mask:
    """A query sees what at least one of the masks lets it see. Raises ValueError without any."""
    if not masks:
        raise ValueError("masks: none given; any_of() takes at least one")

    def some(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = masks[0](batch, head, query, key)
        for mask in masks[1:]:
            seen = seen | mask(batch, head, query, key)
        return seen

    return _named(some, "|".join(mask.__name__ for mask in masks)) if len(masks) > 1 else masks[0]


def shifted(mask: Mask, offset: Tensor) -> Mask:
    """The mask for queries that start at a position other than 0, as in decoding.

    `offset` [B] stays a tensor on the device, so that it can change without a new compilation.
    """

    def later(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return mask(batch, head, query + offset[batch], key)

    return _named(later, f"{mask.__name__}, shifted")


def document_ids(batch: int, length: int, span: int, *, seed: int = 0) -> Tensor:
    """Documents packed one after the other, [B, S] int32 on the CPU: lengths of 1 to 2 * span - 1, so `span`
    on average, the last one cut off at the end of its row.

    Raises ValueError for sizes below 1.
    """
    for name, size in (("batch", batch), ("length", length), ("span", span)):
        _at_least(name, size, 1)
    generator = torch.Generator().manual_seed(seed)
    # Enough of them for a row even if all had length 1 would be `length`; draw in one go and cut.
    lengths = torch.randint(1, 2 * span, (batch, length), generator=generator)
    starts = torch.zeros(batch, length + 1, dtype=torch.int64)
    starts.scatter_(1, lengths.cumsum(1).clamp(max=length), 1)
    return starts[:, :length].cumsum(1).int()


NAMES = ("full", "causal", "sliding_window", "document", "prefix_lm")


def parse(text: str, *, window: int, ids: Tensor, prefix: int | Tensor) -> Mask:
    """A mask from names with `&` (binds first) and `|` between: `causal&document`, `prefix_lm|document`.

    `ids`, `window` and `prefix` are those of the masks that take them. Raises UsageError for other names.
    """
    made: Mapping[str, Callable[[], Mask]] = {
        "full": full,
        "causal": causal,
        "sliding_window": lambda: sliding_window(window),
        "document": lambda: document(ids),
        "prefix_lm": lambda: prefix_lm(prefix),
    }
    sums = [[name.strip() for name in term.split("&")] for term in text.split("|")]
    for name in [name for term in sums for name in term]:
        if name not in made:
            raise UsageError(
                f"mask {text!r}: no mask {name!r}; there are {', '.join(NAMES)}, with & and | between"
            )
    return any_of(*(all_of(*(made[name]() for name in term)) for term in sums))


def _inner(mask: Mask, weaker: str) -> str:
    """A mask's name as part of a product, in brackets where it would read otherwise."""
    return f"({mask.__name__})" if weaker in mask.__name__ else mask.__name__


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name}: {value}; at least {least}")
