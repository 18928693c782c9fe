"""Series and samples for the reference evaluator. Times are seconds outside and whole milliseconds inside."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

NAME = "__name__"
LabelSet: TypeAlias = tuple[tuple[str, str], ...]  # sorted pairs, no empty values
Vector: TypeAlias = dict[LabelSet, float]


class Unsupported(Exception):  # noqa: N818 - a limit of ours, not an error of whoever asked
    """The reference evaluator does not know this; the message says what."""


class QueryError(Exception):
    """Prometheus refuses to answer: series that would collide, matches that are not unique."""


@dataclass(frozen=True, slots=True)
class Series:
    """A series: its labels with `__name__`, and samples (seconds, value) in order of time.

    A value of None is a stale marker: the series ends there.
    """

    labels: Mapping[str, str]
    samples: Sequence[tuple[float, float | None]]
    label_set: LabelSet = field(init=False, compare=False, repr=False)
    times: list[int] = field(init=False, compare=False, repr=False)  # milliseconds

    def __post_init__(self) -> None:
        times = [round(t * 1000) for t, _ in self.samples]
        if any(later <= earlier for earlier, later in pairwise(times)):
            raise ValueError(f"samples of {dict(self.labels)} are not in order of time")
        object.__setattr__(self, "label_set", label_set(self.labels))
        object.__setattr__(self, "times", times)

    def latest(self, t: int) -> tuple[int, float | None] | None:
        """Time and value of the latest sample at `t` milliseconds or before."""
        index = bisect_right(self.times, t) - 1
        return (self.times[index], self.samples[index][1]) if index >= 0 else None

    def between(self, start: int, end: int) -> list[tuple[int, float]]:
        """Samples from `start` to `end` milliseconds, both included, without stale markers."""
        found = range(bisect_left(self.times, start), bisect_right(self.times, end))
        return [(self.times[i], value) for i in found if (value := self.samples[i][1]) is not None]


@dataclass(frozen=True, slots=True)
class Storage:
    """All series. `lookback` is seconds; so is `interval`, the default step of subqueries (None: unknown)."""

    series: Sequence[Series]
    lookback: float = 300.0
    interval: float | None = None

    @property
    def lookback_ms(self) -> int:
        """The lookback in milliseconds."""
        return round(self.lookback * 1000)


def label_set(labels: Mapping[str, str]) -> LabelSet:
    """Labels as sorted pairs; an empty value is no label."""
    return tuple(sorted((name, value) for name, value in labels.items() if value))


def drop(labels: LabelSet, *names: str) -> LabelSet:
    """A label set without some labels."""
    return tuple(pair for pair in labels if pair[0] not in names)


def keep(labels: LabelSet, names: Iterable[str]) -> LabelSet:
    """A label set with some labels only."""
    kept = frozenset(names)
    return tuple(pair for pair in labels if pair[0] in kept)


def collect(results: Iterable[tuple[LabelSet, float]]) -> Vector:
    """A vector; QueryError where two series would have the same labels."""
    vector: Vector = {}
    for labels, value in results:
        if labels in vector:
            raise QueryError(f"vector cannot contain metrics with the same labelset: {dict(labels)}")
        vector[labels] = value
    return vector
