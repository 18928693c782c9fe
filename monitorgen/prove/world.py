"""The simulated world: targets that export families, driven by plain numbers.

A *drive* says what a family does on one target during one phase: how fast a counter grows, what a gauge
reads, where a histogram's observations fall. Courses are the samples that follow.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from monitorgen.build import Built, Plan
from monitorgen.build.plan import TARGET_LABELS, Source
from monitorgen.bundle import pairs
from monitorgen.catalog import Family
from monitorgen.prove.course import SAMPLE_INTERVAL, Course, grain

Labels: TypeAlias = tuple[tuple[str, str], ...]
Where: TypeAlias = tuple[tuple[str, tuple[str, ...]], ...]


IDENTITY = ("model_name", "kernel")
"""Labels that say what a target runs: one value on each target."""


@dataclass(frozen=True, slots=True)
class Counter:
    """A counter's growth a second over a target's series; `share` of it falls on those of `where`."""

    rate: float = 1.0
    where: Where = ()
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Gauge:
    """A gauge's value; `toggle` alternates it with 0 every fourth sample."""

    value: float = 1.0
    where: Where = ()
    toggle: bool = False


@dataclass(frozen=True, slots=True)
class Histogram:
    """Observations a second, placed so that quantile `q` reads `value`, or each of them `mean` on average."""

    rate: float = 1.0
    q: float = 0.5
    value: float = 0.0
    mean: float | None = None


@dataclass(frozen=True, slots=True)
class Gone:
    """The family is not exported."""


Drive: TypeAlias = Counter | Gauge | Histogram | Gone
State: TypeAlias = Mapping[str, Drive]


@dataclass(frozen=True, slots=True)
class Target:
    """A scraped process: its target labels, and the values of the identity labels of its series."""

    labels: tuple[tuple[str, str], ...]
    model: str
    engines: tuple[str, ...] = ("0",)


def targets(built: Built, engine: str) -> tuple[Target, Target]:
    """Two targets of an engine's job: the subject, and a bystander that nothing ever happens to."""
    jobs = [job for job in built.bundle.scrape_jobs if job.engine == engine]
    jobs = jobs or list(built.bundle.scrape_jobs)
    job = jobs[0].job if jobs else engine
    extra = jobs[0].labels if jobs else pairs(dict(built.loaded.profile.labels.target))
    return (
        Target((("job", job), ("instance", "10.0.0.1:8000"), *extra), "llama"),
        Target((("job", job), ("instance", "10.0.0.2:8000"), *extra), "qwen"),
    )


def label_sets(family: Family, target: Target, also: Iterable[Where] = ()) -> list[dict[str, str]]:
    """The label sets that a family has on a target. Values are those that were seen on real servers."""
    choices: list[list[str]] = []
    for label in family.labels:
        if label in IDENTITY:
            choices.append([target.model])
        elif label == "engine":
            choices.append(list(target.engines))
        else:
            seen = [v for where in also for key, values in where if key == label for v in values]
            seen += family.values.get(label, ()) or ([] if seen else [f"{label}-a", f"{label}-b"])
            choices.append(list(dict.fromkeys(seen)))
    base = dict(target.labels)
    return [{**base, **dict(zip(family.labels, combo, strict=True))} for combo in itertools.product(*choices)]


def matches(labels: Mapping[str, str], where: Where) -> bool:
    """Whether a label set meets matchers."""
    return all(labels.get(label) in values for label, values in where)


def steps(seconds: float) -> int:
    """How many samples fall into so many seconds, at least."""
    return int(-(-seconds // SAMPLE_INTERVAL))


@dataclass(frozen=True, slots=True)
class HistogramCourses:
    """The series of one histogram: its buckets with +Inf last, its count and its sum."""

    buckets: tuple[Course, ...]
    count: Course
    sum: Course

    def grow(self, inside: Iterable[float], mean: float | None, total: float, samples: int) -> None:
        """Add samples with so many observations `inside` each bucket, of `mean` each or `total` together."""
        running = 0.0
        for course, observations in zip(self.buckets, inside, strict=True):
            running += grain(observations)
            course.grow(running, samples)
        self.count.grow(running, samples)
        self.sum.grow(total if mean is None else running * mean, samples)


class Recorder:
    """Writes the courses of families on targets, phase after phase."""

    def __init__(self) -> None:
        self.courses: list[Course] = []
        self.length = 0
        self._index: dict[tuple[str, Labels], Course] = {}
        self._histograms: dict[tuple[str, Labels], HistogramCourses] = {}

    def phase(
        self, exports: Sequence[tuple[Family, Target, Drive]], count: int, also: Mapping[str, list[Where]]
    ) -> None:
        """Add `count` samples to every family given; what is not given has no samples in this phase."""
        for family, target, drive in exports:
            if isinstance(drive, Gone):
                continue
            sets = label_sets(family, target, also.get(family.name, ()))
            if isinstance(drive, Histogram):
                self._histogram(family, sets, drive, count)
            elif isinstance(drive, Counter):
                self._counter(family, sets, drive, count)
            else:
                self._gauge(family, sets, drive, count)
        self.length += count
        for course in self.courses:
            course.gap(self.length - course.length)

    def course(self, name: str, labels: Mapping[str, str]) -> Course:
        """The course of a series; a new one has no samples up to here."""
        key = (name, tuple(sorted(labels.items())))
        course = self._index.get(key)
        if course is None:
            course = Course(name, labels)
            course.gap(self.length)
            self._index[key] = course
            self.courses.append(course)
        return course

    def histogram(self, family: Family, labels: Mapping[str, str]) -> HistogramCourses:
        """The courses of a histogram's series; new ones have no samples up to here."""
        key = (family.name, tuple(sorted(labels.items())))
        found = self._histograms.get(key)
        if found is None:
            edges = [*(repr(float(edge)) for edge in family.edges), "+Inf"]  # as Python clients write them
            found = HistogramCourses(
                tuple(self.course(f"{family.name}_bucket", {**labels, "le": edge}) for edge in edges),
                self.course(f"{family.name}_count", labels),
                self.course(f"{family.name}_sum", labels),
            )
            self._histograms[key] = found
        return found

    def _counter(self, family: Family, sets: list[dict[str, str]], drive: Counter, count: int) -> None:
        inside = [labels for labels in sets if matches(labels, drive.where)]
        outside = [labels for labels in sets if not matches(labels, drive.where)]
        total = drive.rate * SAMPLE_INTERVAL
        for group, share in ((inside, drive.share), (outside, 1.0 - drive.share)):
            for labels in group:
                self.course(family.name, labels).grow(total * share / len(group), count)

    def _gauge(self, family: Family, sets: list[dict[str, str]], drive: Gauge, count: int) -> None:
        for number, labels in enumerate(sets):
            course = self.course(family.name, labels)
            # Of several series, the first carries the value: sum, max and single reads agree on it.
            on = matches(labels, drive.where) if drive.where else number == 0
            if not drive.toggle:
                course.hold(drive.value if on else 0.0, count)
                continue
            for step in range(self.length, self.length + count):
                course.hold(drive.value if on != bool(step // 4 % 2) else 0.0, 1)

    def _histogram(self, family: Family, sets: list[dict[str, str]], drive: Histogram, count: int) -> None:
        total = drive.rate * SAMPLE_INTERVAL / len(sets)
        inside = [total * weight for weight in bucket_weights(family.edges, drive)]
        mean = drive.value if drive.mean is None else drive.mean
        for labels in sets:
            self.histogram(family, labels).grow(inside, mean, 0.0, count)


def bucket_weights(edges: Sequence[float], drive: Histogram) -> list[float]:
    """The share of observations in each bucket, +Inf last, so that quantile `q` interpolates to `value`.

    Within a bucket (lo, hi], Prometheus reads quantile q as lo + (hi - lo) * (q*N - below) / inside.
    """
    value, q = drive.value, drive.q
    if not 0 < value < edges[-1]:
        raise ValueError(f"no quantile of these buckets reads {value:g}: they end at {edges[-1]:g}")
    index = bisect_left(edges, value)
    low = edges[index - 1] if index else 0.0
    wanted = (value - low) / (edges[index] - low)
    weights = [0.0] * (len(edges) + 1)
    if wanted <= q and index > 0:
        below = (q - wanted) / (1.0 - wanted) if wanted < 1 else 0.0
        weights[index - 1], weights[index] = below, 1.0 - below
    else:
        inside = q / wanted
        if inside > 1:
            raise ValueError(f"no quantile {q:g} of these buckets reads {value:g}: the first one is too wide")
        weights[index], weights[index + 1] = inside, 1.0 - inside
    return weights


def sources_of(plan: Plan, plans: Mapping[str, Plan]) -> list[Source]:
    """All sources that a plan reads, through the expressions that it uses too."""
    found = list(plan.sources)
    for use in plan.uses:
        found += sources_of(plans[use], plans)
    return found


def known_labels(family: Family, target: Target) -> set[str]:
    """The labels of a family's series on a target."""
    return {*family.labels, *TARGET_LABELS, *dict(target.labels)}
