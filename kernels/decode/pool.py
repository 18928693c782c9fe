"""Which pages of the KV cache belong to whom; holes, fragmentation, and what compaction has to move."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


class PagePool:
    """Pages 0 to `pages` - 1. The lowest free page is given out first, so that holes fill by themselves."""

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.free = list(range(pages))
        self.used: set[int] = set()
        self.extent = 0  # one more than the highest page in use

    def take(self) -> int:
        """A page. Raises IndexError if none is free."""
        page = heapq.heappop(self.free)
        self.used.add(page)
        self.extent = max(self.extent, page + 1)
        return page

    def give(self, pages: Sequence[int]) -> None:
        """Take pages back."""
        for page in pages:
            self.used.remove(page)
            heapq.heappush(self.free, page)
        self.extent = max(self.used, default=-1) + 1

    def grow(self, pages: int) -> None:
        """Add pages up to `pages` in all."""
        for page in range(self.pages, pages):
            heapq.heappush(self.free, page)
        self.pages = pages

    @property
    def fragmentation(self) -> float:
        """Share of the pages below the highest used one that nobody owns: 0 is dense."""
        return 1 - len(self.used) / self.extent if self.extent else 0.0

    def compact(self) -> dict[int, int]:
        """Make the used pages the lowest ones; returns where each page that has to move goes."""
        count = len(self.used)
        sources = sorted(page for page in self.used if page >= count)
        targets = [page for page in range(count) if page not in self.used]
        self.used = set(range(count))
        self.free = list(range(count, self.pages))
        self.extent = count
        return dict(zip(sources, targets, strict=True))


class Compaction:
    """When to compact: once the fragmentation was over `fragmentation` for `age` steps on end.

    (0, 0) is eager: every hole is closed at once.
    """

    def __init__(self, fragmentation: float, age: int) -> None:
        self.fragmentation, self.age = fragmentation, age
        self.since: int | None = None

    def due(self, pool: PagePool, step: int) -> bool:
        """Whether to compact before this step."""
        if pool.fragmentation <= self.fragmentation:
            self.since = None
            return False
        if self.since is None:
            self.since = step
        if step - self.since < self.age:
            return False
        self.since = None
        return True
