"""Live proof: a bundle in a real Prometheus that scrapes real servers, each rule and panel asked.

The rules are loaded as written, durations included; only the scrape interval is shorter. What stays empty
because no server exports the family is told apart from what stays empty though it could have data.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from monitorgen import promql
from monitorgen.bundle import Pairs
from monitorgen.errors import InputError, MonitorgenError
from monitorgen.prove.exported import Exported, selectors_without_series
from monitorgen.prove.processes import poll_until
from monitorgen.prove.prometheus import Prometheus, PrometheusClient, PrometheusError, Series
from monitorgen.prove.questions import Question, Subject
from monitorgen.prove.sources import Source, scrape_config

__all__ = ["LiveReport", "LiveResult", "Source", "ask", "exported_by", "run_live", "scrape_config"]

Status: TypeAlias = Literal["proven", "unproven", "failed"]
STATUSES: tuple[Status, ...] = ("proven", "unproven", "failed")


@dataclass(frozen=True, slots=True)
class LiveResult:
    """What came back for one query of one item.

    `proven`: there are series with finite values. `unproven`: the watched servers do not export the family,
    and `reason` says what would. `failed`: it could have values, but has none. `series` counts the series
    with finite values; `value` is the last one of the first such series, at `time` (seconds since the
    epoch).
    """

    item: str
    ref: str
    status: Status
    query: str
    series: int = 0
    value: float = math.nan
    time: float = 0.0
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether the item was seen to hold."""
        return self.status == "proven"

    def __str__(self) -> str:
        value = f"{self.value:12.5g}" if self.ok else f"{'-':>12}"
        reason = f"\n{'':28}{self.reason}" if self.reason else ""
        return f"{self.status:8} {value} {self.series:4d}  {self.item} {self.ref}".rstrip() + reason


@dataclass(frozen=True, slots=True)
class LiveReport:
    """All results of one run, and what they were asked of.

    `alerts` holds each alert's name and state at the end, `errors` the rules that Prometheus could not
    evaluate.
    """

    results: tuple[LiveResult, ...]
    sources: tuple[Source, ...]
    prometheus: str
    seconds: float
    alerts: Pairs = ()
    errors: tuple[str, ...] = ()

    def of(self, status: Status) -> tuple[LiveResult, ...]:
        """The results with a status."""
        return tuple(result for result in self.results if result.status == status)

    @property
    def ok(self) -> bool:
        """Whether nothing failed; what is unproven has its reason."""
        return not self.errors and not self.of("failed")

    def table(self) -> str:
        """A line for each query: status, value, series, item, and the reason where there is no value."""
        broken = [f"{'broken':8} {'-':>12} {0:4d}  {error}" for error in self.errors]
        counts = ", ".join(f"{len(self.of(status))} {status}" for status in STATUSES)
        where = ", ".join(f"{source.job} at {source.target}" for source in self.sources)
        states = [f"{name} {state}" for name, state in self.alerts if state in ("pending", "firing")]
        return "\n".join(
            [
                f"{'status':8} {'last value':>12} {'n':>4}  item",
                *map(str, self.results),
                *broken,
                f"{counts}; Prometheus {self.prometheus}, {self.seconds:.0f} s of {where}",
                f"alerts at the end: {', '.join(states) or 'none pending or firing'}",
            ]
        )


def run_live(
    subject: Subject,
    sources: Sequence[Source],
    *,
    workdir: Path,
    seconds: float,
    interval: float = 2.0,
    load: Callable[[], object] | None = None,
    settle: float = 20.0,
    binary: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> LiveReport:
    """Load the rules into a Prometheus that scrapes the sources, and ask every question.

    With `load`, that is called once the sources are up (it is to return after about `seconds`), and what
    then has no values gets `settle` seconds more. Without it, the answers are awaited for up to `seconds`,
    and families that nobody exports for `settle`.
    Raises `MonitorgenError` if a source cannot be scraped or a rule file is refused.
    """
    if not sources:
        raise InputError("a live proof needs a server to scrape")
    config = scrape_config(sources, interval, tuple(subject.rule_files))
    began = time.time()
    with Prometheus(config, workdir=workdir, files=subject.rule_files, binary=binary) as server:
        _await_targets(server, sources, interval)
        progress(f"Prometheus {server.version()} scrapes {', '.join(s.target for s in sources)}")
        if load is not None:
            load()
            server.child.check()
        waits = (settle, 0.0) if load else (seconds, settle)
        results = _await_answers(server, subject, began, interval, waits, progress)
        rules = server.rules()
        return LiveReport(
            results=results,
            sources=tuple(sources),
            prometheus=server.version(),
            seconds=time.time() - began,
            alerts=tuple((rule.name, rule.state) for rule in rules if rule.kind == "alerting"),
            errors=tuple(f"{rule.name}: {rule.error}" for rule in rules if rule.health == "err"),
        )


def ask(
    client: PrometheusClient, subject: Subject, *, since: float, interval: float
) -> tuple[LiveResult, ...]:
    """The answers of a running Prometheus to all questions, looking back to `since` (epoch seconds)."""
    exported = exported_by(client, subject)
    return tuple(_answer(client, question, exported, since, interval) for question in subject.questions)


def exported_by(client: PrometheusClient, subject: Subject) -> Exported:
    """What the targets of a Prometheus export; what its rules record is left out."""
    return Exported(client.names() - set(subject.recorded), client.families(), subject.recorded)


def _await_targets(server: Prometheus, sources: Sequence[Source], interval: float) -> None:
    """Wait until every source was scraped once; raise with the first one's error otherwise."""

    def all_up() -> bool:
        states = server.targets()
        return len(states) == len(sources) and all(state.health == "up" for state in states)

    try:
        server.child.wait_until(all_up, timeout=20 + 3 * interval, what="scraping every source")
    except MonitorgenError as error:
        down = next((state for state in server.targets() if state.health != "up"), None)
        if down is None:
            raise
        raise PrometheusError(f"{down.url} cannot be scraped: {down.error or down.health}") from error


def _await_answers(
    server: Prometheus,
    subject: Subject,
    since: float,
    interval: float,
    waits: tuple[float, float],
    progress: Callable[[str], None],
) -> tuple[LiveResult, ...]:
    """Ask until nothing fails any more; what was proven is not asked again.

    `waits` are the seconds after which a failure stands, and until which a missing family may still come.
    """
    missing_stands = time.monotonic() + waits[1]
    proven: dict[Question, LiveResult] = {}
    latest: dict[Question, LiveResult] = {}

    def complete() -> bool:
        server.child.check()
        exported = exported_by(server, subject)
        for question in subject.questions:
            if question not in proven:
                latest[question] = _answer(server, question, exported, since, interval)
        proven.update({question: result for question, result in latest.items() if result.ok})
        progress(f"{len(proven)} of {len(subject.questions)} queries have values")
        if any(result.status == "failed" for result in latest.values()):
            return False
        return len(proven) == len(subject.questions) or time.monotonic() >= missing_stands

    poll_until(complete, timeout=waits[0], pause=threading.Event().wait, first=interval, longest=2 * interval)
    return tuple(latest[question] for question in subject.questions)


def _answer(
    client: PrometheusClient, question: Question, exported: Exported, since: float, interval: float
) -> LiveResult:
    query = question.query(interval)
    result = LiveResult(question.item, question.ref, "failed", query)
    try:
        series = _series(client, question, query, since, interval)
        finite = [one for one in series if one.finite]
        if finite:
            at, value = min(finite, key=lambda one: sorted(one.labels.items())).finite[-1]
            return replace(result, status="proven", series=len(finite), value=value, time=at)
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
    return client.query_range(query, since, now, max(interval, (now - since) / 5000))


def _why_empty(client: PrometheusClient, expr: str) -> str:
    """Which selectors of an expression find nothing; else that it filters everything away."""

    def count(selector: str) -> int:
        return int(sum(sample.value for sample in client.query(f"count({selector})")))

    empty = selectors_without_series(expr, count)
    return (
        f"no series matches {', '.join(empty)}" if empty else "every selector has series, the result has none"
    )
