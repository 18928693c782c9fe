"""The simulated world: targets that export families, driven by plain numbers.

A *drive* says what a family does on one target during one phase: how fast a counter grows, what a gauge
reads, where a histogram's observations fall. Courses are the samples that follow. Increments are rounded to
multiples of 2**-20, which binary floating point adds without error: promtool and Python see the same samples.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from monitorgen.build import Built, Plan
from monitorgen.build.plan import TARGET_LABELS, Source
from monitorgen.catalog import Family

# 13 s divides none of the usual windows: no window's edge falls on a sample, where Prometheus 2 (closed on
# the left) and Prometheus 3 (open) would count differently.
SAMPLE_INTERVAL = 13.0
GRAIN = 2.0**-20
Where: TypeAlias = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Counter:
    """A counter's growth a second over all series of a target; `share` of it falls on the series of `where`."""

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


@dataclass(slots=True)
class Course:
    """A series and its samples: one every SAMPLE_INTERVAL from time 0, None where there is none."""

    name: str
    labels: dict[str, str]
    values: list[float | None] = field(default_factory=list)


def targets(built: Built, engine: str) -> tuple[Target, Target]:
    """Two targets of an engine's job: the subject, and a bystander that nothing ever happens to."""
    jobs = [job for job in built.bundle.scrape_jobs if job.engine == engine]
    jobs = jobs or [job for job in built.bundle.scrape_jobs] or []
    job = jobs[0].job if jobs else engine
    extra = jobs[0].labels if jobs else ()
    return (
        Target((("job", job), ("instance", "10.0.0.1:8000"), *extra), "llama"),
        Target((("job", job), ("instance", "10.0.0.2:8000"), *extra), "qwen"),
    )


def label_sets(family: Family, target: Target, also: Iterable[Where] = ()) -> list[dict[str, str]]:
    """The label sets that a family has on a target. Values are those that were seen on real servers."""
    choices: list[list[str]] = []
    for label in family.labels:
        if label == "model_name":
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


def grain(value: float) -> float:
    """The nearest multiple of 2**-20."""
    return round(value / GRAIN) * GRAIN


def steps(seconds: float) -> int:
    """How many samples fall into so many seconds, at least."""
    return int(-(-seconds // SAMPLE_INTERVAL))


class Recorder:
    """Writes the courses of families on targets, phase after phase."""

    def __init__(self) -> None:
        self.courses: list[Course] = []
        self._index: dict[tuple[str, tuple[tuple[str, str], ...]], Course] = {}
        self._last: dict[int, float] = {}
        self.length = 0

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
            course.values += [None] * (self.length - len(course.values))

    def _course(self, name: str, labels: dict[str, str]) -> Course:
        key = (name, tuple(sorted(labels.items())))
        course = self._index.get(key)
        if course is None:
            course = Course(name, labels, [None] * self.length)
            self._index[key] = course
            self.courses.append(course)
        return course

    def _grow(self, name: str, labels: dict[str, str], increment: float, count: int) -> None:
        course = self._course(name, labels)
        value = self._last.get(id(course), 0.0)
        increment = grain(increment)
        for _ in range(count):
            value += increment
            course.values.append(value)
        self._last[id(course)] = value

    def _counter(self, family: Family, sets: list[dict[str, str]], drive: Counter, count: int) -> None:
        inside = [labels for labels in sets if matches(labels, drive.where)]
        outside = [labels for labels in sets if not matches(labels, drive.where)]
        total = drive.rate * SAMPLE_INTERVAL
        for group, share in ((inside, drive.share), (outside, 1.0 - drive.share)):
            for labels in group:
                self._grow(family.name, labels, total * share / len(group), count)

    def _gauge(self, family: Family, sets: list[dict[str, str]], drive: Gauge, count: int) -> None:
        for number, labels in enumerate(sets):
            course = self._course(family.name, labels)
            inside = matches(labels, drive.where)
            for step in range(count):
                # Of several series, the first carries the value: sum, max and single reads agree on it.
                on = number == 0 if not drive.where else inside
                if drive.toggle and (self.length + step) // 4 % 2:
                    on = not on
                course.values.append(drive.value if on else 0.0)

    def _histogram(self, family: Family, sets: list[dict[str, str]], drive: Histogram, count: int) -> None:
        total = drive.rate * SAMPLE_INTERVAL / len(sets)
        edges = family.edges
        weights = bucket_weights(edges, drive)
        for labels in sets:
            running = 0.0
            for edge, weight in zip([*map(_edge, edges), "+Inf"], weights, strict=True):
                running += grain(total * weight)
                self._grow(f"{family.name}_bucket", {**labels, "le": edge}, running, count)
            self._grow(f"{family.name}_count", labels, running, count)
            mean = drive.mean if drive.mean is not None else drive.value
            self._grow(f"{family.name}_sum", labels, running * mean, count)


def _edge(value: float) -> str:
    """A bucket edge as Python clients write it: 0.5, 1.0, 1e-05."""
    return repr(float(value))


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
