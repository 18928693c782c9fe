"""Three-valued label sets: which labels series have always, maybe or never."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

NAME = "__name__"
_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels that series have: in `always` all have them, in `maybe` some.

    `open`: they may carry labels that are not named here, except those in `never`.
    """

    always: frozenset[str] = _NONE
    maybe: frozenset[str] = _NONE
    open: bool = False
    never: frozenset[str] = _NONE

    def possible(self, label: str) -> bool:
        """Can any series have it."""
        return label in self.always or label in self.maybe or (self.open and label not in self.never)

    def with_always(self, *labels: str) -> Labels:
        """The same series, each with these labels too."""
        added = frozenset(labels)
        return Labels(self.always | added, self.maybe - added, self.open, self.never - added)

    def with_maybe(self, *labels: str) -> Labels:
        """The same series, some of which may now have or lack these labels."""
        added = frozenset(labels)
        return Labels(self.always - added, self.maybe | added, self.open, self.never - added)

    def drop(self, labels: Iterable[str]) -> Labels:
        """The same series without these labels."""
        gone = frozenset(labels)
        return Labels(
            self.always - gone, self.maybe - gone, self.open, self.never | gone if self.open else _NONE
        )

    def only(self, labels: Iterable[str]) -> Labels:
        """The same series with these labels only."""
        kept = frozenset(labels)
        maybe = frozenset(label for label in kept - self.always if self.possible(label))
        return Labels(self.always & kept, maybe)

    def union(self, other: Labels) -> Labels:
        """Series of both kinds in one vector."""
        named = self.always | self.maybe | self.never | other.always | other.maybe | other.never
        always = self.always & other.always
        maybe = frozenset(x for x in named - always if self.possible(x) or other.possible(x))
        is_open = self.open or other.open
        return Labels(always, maybe, is_open, named - always - maybe if is_open else _NONE)
