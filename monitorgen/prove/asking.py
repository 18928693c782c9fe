"""Asking a Prometheus whether a rule or a panel has what it should: series, labels, sane numbers."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from monitorgen import promql
from monitorgen.catalog.units import UNITS
from monitorgen.prove.exported import Exported, selectors_without_series, vectors
from monitorgen.prove.ledger import KINDS, Kind
from monitorgen.prove.prometheus import PrometheusClient, PrometheusError, Series
from monitorgen.prove.questions import Question, Subject

Status: TypeAlias = Literal["proven", "unproven", "failed"]
STATUSES: tuple[Status, ...] = ("proven", "unproven", "failed")
POINTS = 40  # of a plot: more cannot be told apart at its size
STEPS = 5000  # of a range query; Prometheus refuses above 11,000
SLACK = 1e-6  # beyond a unit's range: what adding floating point numbers may cost
_LEGEND = re.compile(r"\{\{\s*([a-zA-Z_]\w*)\s*\}\}")
_ANYTHING = ("", "none", "short", "locale", "sci")  # Grafana's units that promise nothing about a value


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the series of one kind of source had: how many with finite values, the last of one, its points."""

    kind: Kind
    series: int
    value: float
    time: float
    points: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class LiveResult:
    """What came back for one query of one item.

    `proven`: there are series with finite values that make sense. `unproven`: the watched servers do not
    export the family, and `reason` says what would. `failed`: it could have values, but has none, or has
    labels or values that cannot be. `series` counts the series with finite values; `value` is the last one of
    the first such series, at `time` (seconds since the epoch). `evidence` splits them by kind of source.
    """

    item: str
    ref: str
    status: Status
    query: str
    series: int = 0
    value: float = math.nan
    time: float = 0.0
    reason: str = ""
    evidence: tuple[Evidence, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the item was seen to hold."""
        return self.status == "proven"

    def __str__(self) -> str:
        value = f"{self.value:12.5g}" if self.ok else f"{'-':>12}"
        reason = f"\n{'':28}{self.reason}" if self.reason else ""
        return f"{self.status:8} {value} {self.series:4d}  {self.item} {self.ref}".rstrip() + reason


class Kinds:
    """Which kind of source a series came from, by its `instance`, else by its `job`."""

    def __init__(self, by_instance: Mapping[str, Kind], by_job: Mapping[str, Kind]) -> None:
        self._instance, self._job = by_instance, by_job

    def of(self, labels: Mapping[str, str]) -> Kind:
        """The kind; empty where the labels do not tell."""
        kind = self._instance.get(labels.get("instance", ""))
        return kind or self._job.get(labels.get("job", ""), "")


NO_KINDS = Kinds({}, {})


def ask(
    client: PrometheusClient,
    subject: Subject,
    *,
    since: float,
    interval: float,
    kinds: Kinds = NO_KINDS,
    questions: Iterable[Question] | None = None,
) -> tuple[LiveResult, ...]:
    """The answers of a running Prometheus to all questions, looking back to `since` (epoch seconds)."""
    exported = exported_by(client, subject)
    wanted = subject.questions if questions is None else questions
    return tuple(answer(client, question, exported, since, interval, kinds) for question in wanted)


def exported_by(client: PrometheusClient, subject: Subject) -> Exported:
    """What the targets of a Prometheus export; what its rules record is left out."""
    return Exported(client.names() - set(subject.recorded), client.families(), subject.recorded)


def answer(
    client: PrometheusClient,
    question: Question,
    exported: Exported,
    since: float,
    interval: float,
    kinds: Kinds = NO_KINDS,
) -> LiveResult:
    """What a Prometheus says to one question."""
    query = question.query(interval)
    result = LiveResult(question.item, question.ref, "failed", query)
    try:
        series = _series(client, question, query, since, interval)
        finite = sorted((one for one in series if one.finite), key=lambda one: sorted(one.labels.items()))
        if finite:
            at, value = finite[0].finite[-1]
            wrong = _wrong_labels(question, finite) or _wrong_values(question, finite)
            return replace(
                result,
                status="failed" if wrong else "proven",
                series=len(finite),
                value=value,
                time=at,
                reason=wrong,
                evidence=_evidence(
                    finite, lambda labels: kinds.of(labels) or _kind_behind(client, query, kinds)
                ),
            )
        behind = question.rule or query
        missing = exported.lacking(behind)
        if missing:
            return replace(result, status="unproven", reason=exported.reason(missing))
        if series:
            return replace(result, reason=f"{len(series)} series, but every value is NaN or infinite")
        return replace(result, reason=_why_empty(client, behind))
    except (PrometheusError, promql.PromQLError) as error:
        return replace(result, reason=str(error))


def _series(
    client: PrometheusClient, question: Question, query: str, since: float, interval: float
) -> tuple[Series, ...]:
    now = time.time()
    if question.instant:
        return tuple(Series(one.labels, ((one.time, one.value),)) for one in client.query(query, now))
    return client.query_range(query, since, now, max(interval, (now - since) / STEPS))


def _wrong_labels(question: Question, series: Sequence[Series]) -> str:
    """Which labels of the legend are missing, where they are; empty if none."""
    for label in _LEGEND.findall(question.legend):
        lacking = sum(not one.labels.get(label) for one in series)
        if lacking:
            return f"the legend shows {{{{{label}}}}}, which {lacking} of {len(series)} series do not have"
    return ""


def _wrong_values(question: Question, series: Sequence[Series]) -> str:
    """A value that the unit cannot have; empty if there is none."""
    low, high = sane_range(question.unit)
    for one in series:
        for at, value in one.finite:
            if not low - SLACK <= value <= high + SLACK:
                names = ", ".join(f"{k}={v}" for k, v in sorted(one.labels.items()) if k != "__name__")
                span = f"{low:g} to {high:g}" if math.isfinite(high) else f"{low:g} or more"
                return f"{value:g} at {at:.0f} is no {question.unit} ({span}): {names}"
    return ""


def sane_range(unit: str) -> tuple[float, float]:
    """The lowest and the highest value that a unit (ours, or Grafana's id) can have."""
    if unit in _ANYTHING:
        return -math.inf, math.inf
    known = [UNITS[unit]] if unit in UNITS else [one for one in UNITS.values() if unit in one.grafana]
    if not known:
        return -math.inf, math.inf
    return min(one.low for one in known), max(one.high for one in known)


def _kind_behind(client: PrometheusClient, query: str, kinds: Kinds) -> Kind:
    """The most telling kind of the sources that a query reads, where its result does not tell."""
    found = {
        kinds.of(sample.labels)
        for selector in vectors(query)
        for sample in client.query(f"count by (job, instance) ({selector})")
    }
    return next((kind for kind in KINDS if kind and kind in found), "")


def _evidence(series: Sequence[Series], kind_of: Callable[[Mapping[str, str]], Kind]) -> tuple[Evidence, ...]:
    by_kind: dict[Kind, list[Series]] = {}
    for one in series:
        by_kind.setdefault(kind_of(one.labels), []).append(one)
    found = []
    for kind, some in sorted(by_kind.items()):
        longest = max(some, key=lambda one: len(one.finite))
        at, value = longest.finite[-1]
        found.append(Evidence(kind, len(some), value, at, thinned(longest.finite)))
    return tuple(found)


def thinned(points: Sequence[tuple[float, float]], most: int = POINTS) -> tuple[tuple[float, float], ...]:
    """At most so many of the points, evenly picked, the first and the last among them."""
    if len(points) <= most:
        return tuple(points)
    return tuple(points[round(n * (len(points) - 1) / (most - 1))] for n in range(most))


def _why_empty(client: PrometheusClient, expr: str) -> str:
    """Which selectors of an expression find nothing; else that it filters everything away."""

    def count(selector: str) -> int:
        return int(sum(sample.value for sample in client.query(f"count({selector})")))

    empty = selectors_without_series(expr, count)
    return (
        f"no series matches {', '.join(empty)}" if empty else "every selector has series, the result has none"
    )
