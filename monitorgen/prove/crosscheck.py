"""Recorded values against an independent measure: what the clients of a load saw for themselves.

The same requests are measured twice, by vLLM (whose metrics the recording rules read) and by their clients;
`agreement` says how far the two may lie apart. Here the recorded values and the scrapes that they rest on are
fetched, and compared at every moment of the load that says something.

How late clients learn of things is measured, not assumed, by the load's pulse. The load must be the server's
only traffic, and its answers must have been read to their ends: nobody hangs up, and nothing is aborted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from monitorgen.bundle import RecordingRule
from monitorgen.errors import InputError
from monitorgen.prove.agreement import Measure, Moment, Span, allowed, measure_of
from monitorgen.prove.ledger import Proof
from monitorgen.prove.load import LoadReport
from monitorgen.prove.prometheus import PrometheusClient
from monitorgen.prove.pulse import lag_within

CLAIM = "agrees with the client's own measure"
HEARTBEAT = "vllm:num_requests_running"  # on every scrape of a vLLM, whatever it does
EDGE = 0.002  # seconds: a scrape this close to a window's start is in it or not, by Prometheus' version


@dataclass(frozen=True, slots=True)
class CrossCheck:
    """What clients measured against what was recorded, at the first moment that differs, else at the last.

    `tolerance` is the range in which the recorded value must lie; `client` is the clients' own value of what
    was possibly counted; `moments` is how many were compared.
    """

    item: str
    what: str
    client: float
    recorded: float
    tolerance: Span
    holds: bool
    why: str
    at: float = 0.0
    moments: int = 0

    def proof(self, *, source: str, when: str) -> Proof:
        """The check as evidence for the ledger."""
        low, high = self.tolerance
        return Proof(
            item=self.item,
            level="live",
            claim=CLAIM,
            holds=self.holds,
            source=source,
            asked=self.item.removeprefix("record/"),
            answer=f"{self.what}: {self.recorded:.4g} recorded, {self.client:.4g} seen by clients, "
            f"{low:.4g} to {high:.4g} allowed; {self.why}",
            when=when,
            kind="vllm",
            series=1,
            value=self.recorded,
        )

    def __str__(self) -> str:
        low, high = self.tolerance
        verdict = "agrees" if self.holds else "DIFFERS"
        seen = f"{verdict:8} {self.client:10.4g} {self.recorded:10.4g}   {low:10.4g} .. {high:<10.4g}"
        return f"{seen} {self.moments:3d}  {self.item}"


@dataclass(frozen=True, slots=True)
class CrossReport:
    """All checks of one load, the rules that could not be checked with the reason, and the clients' lag."""

    checks: tuple[CrossCheck, ...]
    skipped: Mapping[str, str]
    lag: float

    @property
    def ok(self) -> bool:
        """Whether something was checked, and all of it holds."""
        return bool(self.checks) and all(check.holds for check in self.checks)

    def table(self) -> str:
        """A line for each check."""
        head = f"{'verdict':8} {'clients':>10} {'recorded':>10}   {'allowed':^24} {'n':>3}  item"
        left = [f"{'skipped':8} {item}: {reason}" for item, reason in self.skipped.items()]
        lag = f"clients see an event at most {self.lag * 1000:.0f} ms after the server"
        return "\n".join([head, *map(str, self.checks), *left, lag])


def cross_check(
    client: PrometheusClient,
    rules: Iterable[RecordingRule],
    load: LoadReport,
    *,
    instance: str,
    interval: float,
    time_scale: float = 1.0,
    since: float = 0.0,
) -> CrossReport:
    """Compare what a Prometheus recorded during a load with what the load's clients measured.

    `instance` is the server's label, `interval` the seconds between two scrapes and evaluations, `time_scale`
    the factor by which the rules' windows are shorter than their names say. Before the load, the server must
    have been without traffic since `since` (seconds since the epoch; by default, since the load's start): a
    window that reaches further back is not compared.
    Raises `InputError` for a load that cannot be compared, and `PrometheusError`.
    """
    if not load.beats:
        raise InputError(
            "the load was run without a pulse: how late its clients learn of things is not known"
        )
    broken = sum(not outcome.complete for outcome in load.outcomes if not 400 <= outcome.status < 500)
    if broken or not load.outcomes:
        raise InputError(f"{broken} of {len(load.outcomes)} answers were not read to their end")
    began = min(outcome.sent for outcome in load.outcomes)
    measured = [(rule, measure) for rule in rules if (measure := measure_of(rule))]
    watch = _Watch(client, f'{{instance="{instance}"}}', began, began + load.seconds, interval)
    longest = max((measure.window / time_scale for _, measure in measured), default=0.0)
    scrapes = watch.scrapes((since or began) - longest)
    checks, skipped, lags = [], {}, [0.0]
    for rule, measure in measured:
        window = measure.window / time_scale
        moments = tuple(watch.moments(rule.record, window, scrapes, load, since or began))
        edges = watch.edges(measure) if measure.kind == "quantile" else ()
        found = _compare(rule.id, measure, moments, load, edges)
        lags += [moment.lag for moment in moments]
        if isinstance(found, CrossCheck):
            checks.append(found)
        else:
            skipped[rule.id] = found
    return CrossReport(tuple(checks), skipped, max(lags))


def _compare(
    item: str,
    measure: Measure,
    moments: Sequence[Moment],
    load: LoadReport,
    edges: Sequence[float],
) -> CrossCheck | str:
    """The check of one rule at all of its moments, or the reason why there is none."""
    if not moments:
        return f"nothing was recorded over a whole window ({measure}) while the load ran"
    told: list[CrossCheck] = []
    for moment in moments:
        answer = allowed(measure, moment, load.outcomes, edges)
        if answer is None:
            continue
        own, (low, high) = answer
        slack = 1e-6 * abs(high)  # seconds since the epoch are exact to 0.2 microseconds, not better
        holds = math.isfinite(moment.value) and low - slack <= moment.value <= high + slack
        why = f"over the {moment.window:g} s before"
        told.append(CrossCheck(item, str(measure), own, moment.value, (low, high), holds, why, moment.at))
    if not told:
        return f"too little happened in any window ({measure})"
    wrong = [check for check in told if not check.holds]
    shown = wrong[0] if wrong else told[-1]
    why = f"{len(told) - len(wrong)} of {len(told)} moments agree, {shown.why} each"
    return replace(shown, why=why, moments=len(told))


@dataclass(frozen=True, slots=True)
class _Watch:
    """What a Prometheus saw of one server from `start` to `end` (seconds since the epoch)."""

    client: PrometheusClient
    labels: str
    start: float
    end: float
    interval: float

    def scrapes(self, since: float) -> dict[float, float]:
        """When each scrape that got the server's metrics began, and how many seconds it took."""
        took = dict(self._samples("scrape_duration_seconds", since))
        return {at: took.get(at, self.interval) for at, _ in self._samples(HEARTBEAT, since)}

    def edges(self, measure: Measure) -> tuple[float, ...]:
        """The finite upper edges of the family's buckets."""
        found = self.client.query(f"group by (le) ({measure.family}_bucket{self.labels})", self.end)
        edges = sorted(float(sample.labels["le"]) for sample in found)
        return tuple(edge for edge in edges if math.isfinite(edge))

    def moments(
        self, record: str, window: float, scrapes: Mapping[float, float], load: LoadReport, since: float
    ) -> Iterator[Moment]:
        """The recorded values whose windows say something of this load alone."""
        for at, value in self._samples(record, self.start):
            begin = at - window
            inside = tuple(time for time in scrapes if begin < time <= at)
            if len(inside) < 4 or inside[0] < since or any(abs(time - begin) < EDGE for time in scrapes):
                continue
            # what a window counts may have been sent long before it: look back as far as that
            oldest = min((one.sent for one in load.outcomes if one.sent + one.total > begin), default=at)
            lag = lag_within(load.beats, max(min(begin, oldest), self.start), inside[-1])
            if lag is not None:
                scraping = max(scrapes[time] for time in inside)
                yield Moment(at, value, window, inside, scraping, lag)

    def _samples(self, name: str, since: float) -> list[tuple[float, float]]:
        """The samples of the server's one series of a name, ascending; empty if it has several.

        They are asked for twice an interval, so that none is missed, with the times that they really have.
        """
        asked = (f"{name}{self.labels}", f"timestamp({name}{self.labels})")
        told, at = (self.client.query_range(one, since, self.end, self.interval / 2) for one in asked)
        if len(told) != 1 or len(at) != 1:
            return []
        stamps = dict(at[0].points)
        return sorted({stamps[step]: value for step, value in told[0].points if step in stamps}.items())
