"""What a signal means: its value computed from samples, by the plan and never by the PromQL made of it.

The definitions are Prometheus' documented ones: rates extrapolate to the window's edges, quantiles
interpolate linearly inside a bucket. Windows are open on the left, as in Prometheus 3; tests are asked only
where Prometheus 2 agrees (see `edge_clear`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import TypeAlias

from monitorgen.build import Plan
from monitorgen.build.plan import Part, Source
from monitorgen.promql import selectors
from monitorgen.prove.course import SAMPLE_INTERVAL, Course
from monitorgen.prove.reference import Series, Storage, evaluate
from monitorgen.prove.world import Labels, Where, matches

Vector: TypeAlias = dict[Labels, float]
Groups: TypeAlias = list[tuple[Labels, list[Course]]]
LOOKBACK = 300.0


class Samples:
    """Courses by metric name, and the values of signals over them, each computed once."""

    def __init__(self, courses: Iterable[Course], plans: Mapping[str, Plan]) -> None:
        self.plans = plans
        self.by_name: dict[str, list[Course]] = {}
        for course in courses:
            self.by_name.setdefault(course.name, []).append(course)
        self._cache: dict[tuple[str, float], Vector] = {}
        self._buckets: dict[tuple[str, float], dict[Labels, dict[float, float]]] = {}
        self._series: dict[str, list[Series]] = {}
        self._groups: dict[tuple[str, Where, tuple[str, ...]], Groups] = {}

    def value(self, plan: Plan, part: Part, t: float) -> Vector:
        """The series of a part at time `t` (seconds)."""
        key = (part.record, t)
        if key not in self._cache:
            self._cache[key] = self._value(plan, part, t)
        return self._cache[key]

    def _value(self, plan: Plan, part: Part, t: float) -> Vector:
        if plan.kind == "expr":
            return self._expression(plan, t)
        if plan.kind == "histogram":
            return self._histogram(plan, part, t)
        if plan.kind == "counter":
            assert plan.source is not None
            return self._rates(plan.source, "", plan.labels, plan.window, t)
        if plan.kind == "ratio":
            return self._ratio(plan, t)
        return self._gauge(plan, t)

    def _rates(self, source: Source, suffix: str, labels: tuple[str, ...], window: float, t: float) -> Vector:
        """Summed rates: for each label set, the newest family name that has one speaks."""
        return self._first(source, suffix, labels, lambda course: rate(course, t, window), math.fsum)

    def _first(
        self,
        source: Source,
        suffix: str,
        labels: tuple[str, ...],
        read: Callable[[Course], float | None],
        reduce: Callable[[list[float]], float],
    ) -> Vector:
        result: Vector = {}
        for family in source.families:
            for key, courses in self._grouped(family.name + suffix, source.where, labels):
                if key not in result:
                    values = [value for course in courses if (value := read(course)) is not None]
                    if values:
                        result[key] = reduce(values)
        return result

    def _grouped(self, name: str, where: Where, labels: tuple[str, ...]) -> Groups:
        """The courses of a name that meet matchers, by the label set that they are aggregated into."""
        groups = self._groups.get((name, where, labels))
        if groups is None:
            found: dict[Labels, list[Course]] = {}
            for course in self.by_name.get(name, ()):
                if matches(course.labels, where):
                    found.setdefault(_pick(course.labels, labels), []).append(course)
            groups = self._groups[name, where, labels] = list(found.items())
        return groups

    def _histogram(self, plan: Plan, part: Part, t: float) -> Vector:
        assert plan.source is not None
        if part.quantile is None:
            total = self._rates(plan.source, "_sum", plan.labels, plan.window, t)
            count = self._rates(plan.source, "_count", plan.labels, plan.window, t)
            return {key: total[key] / n for key, n in count.items() if n > 0 and key in total}
        key = (plan.name, t)
        if key not in self._buckets:
            found: dict[Labels, dict[float, float]] = {}
            by_edge = self._rates(plan.source, "_bucket", (*plan.labels, "le"), plan.window, t)
            for labels, value in by_edge.items():
                rest, edge = _without_edge(labels)
                found.setdefault(rest, {})[edge] = value
            self._buckets[key] = found
        return {labels: bucket_quantile(part.quantile, edges) for labels, edges in self._buckets[key].items()}

    def _ratio(self, plan: Plan, t: float) -> Vector:
        assert plan.of is not None
        of = self._rates(plan.of, "", plan.labels, plan.window, t)
        totals = [self._rates(source, "", plan.labels, plan.window, t) for source in plan.to]
        shared = set.intersection(*(set(total) for total in totals))
        sums = {key: math.fsum(total[key] for total in totals) for key in shared}
        return {key: of.get(key, 0.0) / total for key, total in sums.items() if total > 0}

    def _gauge(self, plan: Plan, t: float) -> Vector:
        assert plan.source is not None
        over = plan.spec.over

        def read(course: Course) -> float | None:
            if over is None:
                return latest(course, t)
            inside = [value for _, value in course.samples(*_bounds(t, plan.window))]
            return _OVER[over](inside) if inside else None

        result = self._first(plan.source, "", plan.labels, read, _REDUCE[plan.reduce])
        return {key: value / plan.divisor for key, value in result.items()}

    def _expression(self, plan: Plan, t: float) -> Vector:
        """A free expression, by the reference evaluator: signals as they mean, families as sampled."""
        return self.evaluate(plan.expr, plan.uses, t)

    def evaluate(self, expr: str, uses: Iterable[str], t: float) -> Vector:
        """An expression over families and the recorded series of the signals `uses`, at time `t`."""
        records = {part.record: (self.plans[use], part) for use in uses for part in self.plans[use].parts}
        series: list[Series] = []
        for name in {sel.name for sel in selectors(expr)}:
            if name in records:
                values = self.value(*records[name], t)
                series += [
                    Series({"__name__": name, **dict(key)}, [(t, value)]) for key, value in values.items()
                ]
            else:
                series += self._raw(name)
        found = evaluate(expr, Storage(series), t)
        return {_without_name(key): value for key, value in found.items()}

    def _raw(self, name: str) -> list[Series]:
        if name not in self._series:
            self._series[name] = [
                Series(
                    {"__name__": name, **course.labels},
                    [(index * SAMPLE_INTERVAL, value) for index, value in course.samples()],
                )
                for course in self.by_name.get(name, ())
            ]
        return self._series[name]


def _average(values: list[float]) -> float:
    return math.fsum(values) / len(values)


_OVER: dict[str, Callable[[list[float]], float]] = {
    "max": max,
    "min": min,
    "last": lambda values: values[-1],
    "avg": _average,
}
_REDUCE: dict[str, Callable[[list[float]], float]] = {
    "sum": math.fsum,
    "max": max,
    "min": min,
    "avg": _average,
}


def _pick(labels: Mapping[str, str], names: Iterable[str]) -> Labels:
    return tuple(sorted((name, labels[name]) for name in names if labels.get(name)))


@lru_cache(maxsize=4096)
def _without_edge(labels: Labels) -> tuple[Labels, float]:
    """A bucket's labels without `le`, and its upper edge."""
    return tuple(pair for pair in labels if pair[0] != "le"), float(dict(labels)["le"])


def _without_name(key: Iterable[tuple[str, str]]) -> Labels:
    return tuple(sorted(pair for pair in key if pair[0] != "__name__"))


def _bounds(t: float, window: float) -> tuple[int, int]:
    """Indices of the first and last sample in (t - window, t]."""
    first = math.floor((t - window) / SAMPLE_INTERVAL + 1e-9) + 1
    return max(first, 0), math.floor(t / SAMPLE_INTERVAL + 1e-9)


def latest(course: Course, t: float) -> float | None:
    """The newest sample that an instant selector sees, not older than Prometheus' lookback of 5 minutes."""
    return course.latest(*_bounds(t, LOOKBACK))


def rate(course: Course, t: float, window: float) -> float | None:
    """A counter's growth a second over (t - window, t]; None with fewer than two samples.

    The growth between the first and last sample (resets added) is extrapolated to the window's edges, but
    not further than half a sample interval where samples end earlier, and not to before the counter was 0.
    """
    seen = course.growth(*_bounds(t, window))
    if seen is None:
        return None
    start, end = seen.start * SAMPLE_INTERVAL, seen.end * SAMPLE_INTERVAL
    covered = end - start
    spacing = covered / (seen.count - 1)
    before, after = start - (t - window), t - end
    if seen.growth > 0 and seen.first >= 0:
        before = min(before, covered * seen.first / seen.growth)
    limit = spacing * 1.1
    before = before if before < limit else spacing / 2
    after = after if after < limit else spacing / 2
    return seen.growth * (covered + before + after) / covered / window


def bucket_quantile(q: float, edges: Mapping[float, float]) -> float:
    """The quantile of cumulative buckets (edge -> count), interpolated; NaN without observations."""
    ordered = sorted(edges.items())
    total = ordered[-1][1]
    if not total > 0 or ordered[-1][0] != math.inf or len(ordered) < 2:
        return math.nan
    rank = q * total
    low, below = 0.0, 0.0
    for edge, count in ordered[:-1]:
        if count >= rank:
            if edge <= 0:
                return edge
            return low + (edge - low) * ((rank - below) / (count - below))
        low, below = edge, count
    return ordered[-2][0]


def edge_clear(t: float, windows: Iterable[float]) -> bool:
    """Whether no window that ends at `t` begins exactly at a sample, where Prometheus 2 and 3 differ."""
    return all(
        abs((t - w) / SAMPLE_INTERVAL - round((t - w) / SAMPLE_INTERVAL)) > 1e-6 for w in (*windows, LOOKBACK)
    )
