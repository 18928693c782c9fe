"""A mutation: one place of one written file, changed as a person might change it by mistake."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

GONE = object()  # in place of a value: the key, or the list's entry, is taken away


@dataclass(frozen=True)
class Mutation:
    """`value` at `path` of the parsed `file`; `item` is whose proofs must notice, "" if a file's."""

    kind: str
    item: str
    note: str
    file: str
    path: tuple[str | int, ...]
    value: Any

    @property
    def key(self) -> str:
        """A name that stays as long as the item and the change are there."""
        return f"{self.kind}: {self.item or self.file}: {self.note}"

    def original(self, tree: Any) -> Any:
        """What stands there before the change; None where nothing does."""
        for step in self.path[:-1]:
            tree = tree[step]
        last = self.path[-1]
        return tree.get(last) if isinstance(tree, dict) else tree[last]

    def applied(self, tree: Any) -> Any:
        """The tree with the change; the given one stays as it is."""
        tree = copy.deepcopy(tree)
        holder = tree
        for step in self.path[:-1]:
            holder = holder[step]
        if self.value is GONE:
            del holder[self.path[-1]]
        else:
            holder[self.path[-1]] = self.value
        return tree


def edits(
    kind: str, item: str, file: str, path: tuple[str | int, ...], values: Iterable[tuple[str, Any]]
) -> Iterator[Mutation]:
    """One mutation for each (note, value)."""
    return (Mutation(kind, item, note, file, path, value) for note, value in values)


def sample(mutations: Iterable[Mutation], quota: Callable[[str], int]) -> list[Mutation]:
    """At most `quota(kind)` of each kind, chosen by a checksum of their names: the same ones every time."""
    by_kind: dict[str, list[Mutation]] = {}
    for mutation in mutations:
        by_kind.setdefault(mutation.kind, []).append(mutation)
    return [
        mutation
        for kind, found in sorted(by_kind.items())
        for mutation in sorted(found, key=lambda one: zlib.crc32(one.key.encode()))[: quota(kind)]
    ]
