"""A series over time: one sample every 13 seconds, kept as runs of equal steps.

Counters grow by multiples of 2**-20, and as long as they stay below 2**32 such sums are exact in binary
floating point: promtool, which adds step by step, and Python, which multiplies, see the same samples.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

# 13 s divides none of the usual windows: no window's edge falls on a sample, where Prometheus 2 (closed on
# the left) and Prometheus 3 (open) would count differently.
SAMPLE_INTERVAL = 13.0
GRAIN = 2.0**-20
EXACT = 2.0**32


def grain(value: float) -> float:
    """The nearest multiple of 2**-20."""
    return round(value / GRAIN) * GRAIN


@dataclass(slots=True)
class Run:
    """`count` samples: `first`, `first + step`, and so on; where `first` is None, there are none.

    A step is never negative: what falls is a run of its own.
    """

    first: float | None
    step: float
    count: int

    def at(self, offset: int) -> float | None:
        """The sample so many after the first."""
        return None if self.first is None else self.first + self.step * offset


@dataclass(frozen=True, slots=True)
class Growth:
    """What a counter did between two samples: `count` samples from index `start` to `end`, resets added."""

    start: int
    end: int
    count: int
    first: float
    growth: float


class Course:
    """A series and its samples: one every SAMPLE_INTERVAL from time 0, None where there is none."""

    __slots__ = ("_starts", "_total", "key", "labels", "length", "name", "runs")

    def __init__(self, name: str, labels: Mapping[str, str], values: Iterable[float | None] = ()) -> None:
        self.name = name
        self.labels = labels
        self.key = tuple(sorted(labels.items()))
        self.runs: list[Run] = []
        self.length = 0
        self._starts: list[int] = []
        self._total = 0.0
        for value in values:
            self._add(value, 0.0, 1)

    def grow(self, increment: float, count: int) -> None:
        """Add `count` samples of a counter that goes on from where it stands; `increment` is a sample's."""
        step = grain(increment)
        total = self._total
        end = total + step * count
        if end < EXACT:
            self._add(total + step, step, count)
            self._total = end
            return
        for _ in range(count):
            self._total += step
            self._add(self._total, 0.0, 1)

    def restart(self) -> None:
        """The counter starts again from 0, as when its process does."""
        self._total = 0.0

    def hold(self, value: float, count: int) -> None:
        """Add `count` equal samples."""
        self._add(value, 0.0, count)

    def gap(self, count: int) -> None:
        """Add `count` times no sample."""
        self._add(None, 0.0, count)

    def _add(self, first: float | None, step: float, count: int) -> None:
        if count <= 0:
            return
        if self.runs:
            last = self.runs[-1]
            if last.step == step and last.at(last.count) == first:
                last.count += count
                self.length += count
                return
        self._starts.append(self.length)
        self.runs.append(Run(first, step, count))
        self.length += count

    def at(self, index: int) -> float | None:
        """The sample of an index; None where there is none."""
        if not 0 <= index < self.length:
            return None
        number = bisect_right(self._starts, index) - 1
        return self.runs[number].at(index - self._starts[number])

    def latest(self, first: int, last: int) -> float | None:
        """The newest sample of the indices `first` to `last`, both included."""
        for start, run in reversed(list(self.between(first, last))):
            if run.first is not None:
                return run.at(min(last - start, run.count - 1))
        return None

    def between(self, first: int, last: int) -> Iterator[tuple[int, Run]]:
        """The runs that have a sample in `first` to `last`, each with the index of its own first sample."""
        number = max(bisect_right(self._starts, max(first, 0)) - 1, 0)
        while number < len(self.runs) and self._starts[number] <= last:
            start, run = self._starts[number], self.runs[number]
            if start + run.count > first:
                yield start, run
            number += 1

    def samples(self, first: int = 0, last: int | None = None) -> list[tuple[int, float]]:
        """Index and value of the samples that exist in `first` to `last`, both included."""
        last = self.length - 1 if last is None else last
        return [
            (index, run.first + run.step * (index - start))
            for start, run in self.between(first, last)
            if run.first is not None
            for index in range(max(start, first), min(start + run.count - 1, last) + 1)
        ]

    def growth(self, first: int, last: int) -> Growth | None:
        """What a counter did in the samples `first` to `last`, both included; None with fewer than two.

        A value below the one before it is a counter that started again from 0.
        """
        starts, runs = self._starts, self.runs
        begin = end = -1
        count, lost, first_value, last_value = 0, 0.0, 0.0, 0.0
        # Not by `between`: this is what most of the time goes into.
        for number in range(max(bisect_right(starts, first) - 1, 0), len(runs)):
            start, run = starts[number], runs[number]
            if start > last:
                break
            if run.first is None:
                continue
            low = start if start > first else first
            high = start + run.count - 1
            high = high if high < last else last
            if high < low:
                continue
            value = run.first + run.step * (low - start)
            if begin < 0:
                begin, first_value = low, value
            elif value < last_value:
                lost += last_value
            last_value = run.first + run.step * (high - start)
            end = high
            count += high - low + 1
        if count < 2:
            return None
        return Growth(begin, end, count, first_value, last_value - first_value + lost)
