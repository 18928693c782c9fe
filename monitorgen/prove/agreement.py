"""How far a recorded value and the clients' own measure of the same requests may lie apart.

The same requests are measured twice, by vLLM (whose metrics the recording rules read) and by their clients.
The two must agree within what is known of how they differ, and of that only:

- *Which requests.* A recorded value at time t rests on the first and the last scrape, f and l, in its
  window. A scrape takes up to d seconds, and clients learn of an event up to `lag` seconds after the server.
  So what clients saw within (f + d + lag, l] was surely counted, and what they saw outside of
  (f, l + d + lag] surely not. Between these both is possible, and both is allowed. The newest scrape may not
  have been stored yet when the rule was evaluated; then l is the one before.
- *How many.* rate() extrapolates from f and l to the window's ends: by the distance to an end or, where that
  is over 1.1 scrape intervals, by half an interval; at the start by less if a counter would fall below zero.
  So its factor lies between 1 + b/(l - f) and 1 + (a + b)/(l - f), a and b being its reach at start and end.
- *How long.* A client's seconds are the server's plus at most `lag` on the way there and on the way back.
  Between two tokens they may be less by one `lag`; how much more is not known, as vLLM sends the tokens of
  several steps at once to clients that lag. A quantile is known to the bucket of its order statistic, so it
  must lie in a bucket that holds one of the values which all of the above allows. Every bucket's rate has a
  factor of its own, so one bucket's count may weigh more than the next one's: by up to u = a/(l - f + b). The
  rank of a quantile q of n is known to lie between qn/(1 + u) and qn(1 + u), no better; a mean likewise.

Nothing here is tuned: a value that differs by more is wrong, or one of these sentences is.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from monitorgen import promql
from monitorgen.bundle import RecordingRule
from monitorgen.prove.client import Outcome

Span: TypeAlias = tuple[float, float]
Kind: TypeAlias = Literal["quantile", "mean", "rate"]
KINDS: dict[Kind, str] = {"quantile": "_bucket", "mean": "_sum", "rate": ""}
FAMILIES = {
    "vllm:time_to_first_token_seconds": "time to first token",
    "vllm:e2e_request_latency_seconds": "end-to-end latency",
    "vllm:inter_token_latency_seconds": "inter-token latency",
    "vllm:request_success_total": "finished requests",
    "vllm:prompt_tokens_total": "prompt tokens",
    "vllm:generation_tokens_total": "generated tokens",
}
"""What clients can measure as well as the server, and what it is called."""
LEAST_EVENTS = 4  # in a window, for its quantile or mean to say something
_OPERATION = re.compile(r":(?:p(?P<quantile>\d+)_|(?P<mean>mean_)|(?P<rate>rate))(?P<window>\d[\dsmhdwy]+)$")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a client saw at `at` (seconds since the epoch), with its value."""

    at: float
    value: float


@dataclass(frozen=True, slots=True)
class Moment:
    """A recorded value at a time, and the times of the scrapes that it rests on (seconds since the epoch).

    A scrape took up to `scraping` seconds, and clients learned of things up to `lag` seconds late.
    """

    at: float
    value: float
    window: float
    scrapes: tuple[float, ...]
    scraping: float
    lag: float

    @property
    def blur(self) -> float:
        """How long after a scrape's time a client may still see what that scrape counted."""
        return self.scraping + self.lag

    @property
    def sure(self) -> Span:
        """When clients saw what was surely counted."""
        return self.scrapes[0] + self.blur, self.scrapes[-1]

    @property
    def possible(self) -> Span:
        """When clients saw what may have been counted."""
        return self.scrapes[0], self.scrapes[-1] + self.blur

    @property
    def factor(self) -> Span:
        """The least and the greatest factor by which rate() times the window exceeds what was counted."""
        first, last = self.scrapes[0], self.scrapes[-1]
        interval = (last - first) / (len(self.scrapes) - 1)
        gaps = first - (self.at - self.window), self.at - last
        start, end = (gap if gap < 1.1 * interval else interval / 2 for gap in gaps)
        return 1 + end / (last - first), 1 + (start + end) / (last - first)

    @property
    def uneven(self) -> float:
        """By how much more than another series of the same scrapes one may be extrapolated."""
        least, most = self.factor
        return most / least - 1


@dataclass(frozen=True, slots=True)
class Measure:
    """What a rule says that it records: a quantile, mean or rate of a family over `window` seconds."""

    kind: Kind
    family: str
    window: float
    quantile: float = 0.0

    @property
    def merged(self) -> bool:
        """Whether a client may see one event for several of the server's: steps that are sent at once."""
        return self.family == "vllm:inter_token_latency_seconds"

    def __str__(self) -> str:
        of = FAMILIES[self.family]
        forms = {
            "quantile": f"p{self.quantile * 100:g} of {of}",
            "mean": f"mean {of}",
            "rate": f"{of} a second",
        }
        return forms[self.kind]


def measure_of(rule: RecordingRule) -> Measure | None:
    """What a rule says that it records; None if that is nothing that clients can measure.

    The operation is taken from the name (`p90_5m`): a rule that computes another one than it says differs.
    """
    said = _OPERATION.search(rule.record)
    read = promql.selectors(rule.expr)
    if not said or not read or read[0].matchers or "finished_reason" in rule.expr:
        return None
    kind = next(kind for kind in KINDS if said[kind])
    family = read[0].name.removesuffix(KINDS[kind])
    if family not in FAMILIES or read[0].name != family + KINDS[kind]:
        return None
    quantile = float(f"0.{said['quantile']:0>2}") if said["quantile"] else 0.0
    return Measure(kind, family, promql.parse_duration(said["window"]), quantile)


def allowed(
    measure: Measure, moment: Moment, outcomes: Sequence[Outcome], edges: Sequence[float]
) -> tuple[float, Span] | None:
    """The clients' own value at a moment, and the range in which the recorded one must lie.

    `edges` are the finite upper edges of the family's buckets. None where too little happened in the window.
    """
    found = _allowed(measure, moment, outcomes, edges)
    unstored = replace(moment, scrapes=moment.scrapes[:-1])
    other = _allowed(measure, unstored, outcomes, edges)
    if found is None or other is None:
        return None
    own, (low, high) = found
    return own, (min(low, other[1][0]), max(high, other[1][1]))


def _allowed(
    measure: Measure, moment: Moment, outcomes: Sequence[Outcome], edges: Sequence[float]
) -> tuple[float, Span] | None:
    """The same, if all scrapes of the moment had been stored when the rule was evaluated."""
    if measure.kind == "rate":
        least, most = _counted(measure, moment, outcomes)
        low, high = moment.factor
        return most / moment.window, (least * low / moment.window, most * high / moment.window)
    sure, maybe = _within(moment, [event for one in outcomes for event in _events(measure, one)])
    if len(sure) < LEAST_EVENTS:
        return None
    down, up = (math.inf, moment.lag) if measure.merged else (2 * moment.lag, 0.0)
    if measure.kind == "mean":
        low, high = _mean_span(sure, maybe)
        weight = 1 + moment.uneven
        return sum(sure + maybe) / len(sure + maybe), (max(0.0, low - down) / weight, (high + up) * weight)
    low, high = _quantile_span(measure.quantile, sure, maybe, moment.uneven)
    own = sorted(sure + maybe)[_rank(measure.quantile * len(sure + maybe)) - 1]
    return own, (_edge_below(edges, low - down), _edge_above(edges, high + up))


def _events(measure: Measure, outcome: Outcome) -> Iterator[Event]:
    """What a client saw of what a histogram observes: one event for each observation."""
    if measure.family == "vllm:time_to_first_token_seconds" and outcome.ttft is not None:
        yield Event(outcome.sent + outcome.ttft, outcome.ttft)
    if measure.family == "vllm:e2e_request_latency_seconds" and outcome.complete:
        yield Event(outcome.tokens_at[-1], outcome.tokens_at[-1] - outcome.sent)
    if measure.family == "vllm:inter_token_latency_seconds":
        yield from map(Event, outcome.tokens_at[1:], outcome.gaps)


def _counted(measure: Measure, moment: Moment, outcomes: Iterable[Outcome]) -> Span:
    """How much of what a counter counts was surely and possibly counted by the scrapes of a moment."""
    least = most = 0.0
    for outcome in outcomes:
        if not outcome.complete:
            continue
        if measure.family == "vllm:generation_tokens_total":
            low, high = _tokens(moment, outcome)
        else:
            prompt = measure.family == "vllm:prompt_tokens_total"
            at = outcome.tokens_at[0 if prompt else -1]
            weight = float(outcome.prompt_tokens or 0) if prompt else 1.0
            low, high = weight * _inside(at, moment.sure), weight * _inside(at, moment.possible)
        least, most = least + low, most + high
    return least, most


def _tokens(moment: Moment, outcome: Outcome) -> Span:
    """The generated tokens of one request; a chunk holds at least one, and all chunks hold all."""
    times, total = outcome.tokens_at, float(outcome.generated_tokens or 0)
    sure = sum(_inside(at, moment.sure) for at in times)
    outside = len(times) - sum(_inside(at, moment.possible) for at in times)
    least = total if sure == len(times) else min(total, sure)
    return least, 0.0 if outside == len(times) else max(0.0, total - outside)


def _within(moment: Moment, events: Iterable[Event]) -> tuple[list[float], list[float]]:
    """The values of the events that were surely counted, and of those that may have been."""
    possible = [event for event in events if _inside(event.at, moment.possible)]
    sure = [event.value for event in possible if _inside(event.at, moment.sure)]
    return sure, [event.value for event in possible if not _inside(event.at, moment.sure)]


def _inside(at: float, span: Span) -> bool:
    return span[0] < at <= span[1]


def _mean_span(sure: Sequence[float], maybe: Sequence[float]) -> Span:
    """The least and the greatest mean of what is sure and any part of what may be."""
    spans = [list(sure) + part for part in _parts(maybe)]
    means = [sum(values) / len(values) for values in spans]
    return min(means), max(means)


def _quantile_span(quantile: float, sure: Sequence[float], maybe: Sequence[float], uneven: float) -> Span:
    """The least and the greatest order statistic of a quantile, of what is sure and any part of what may be.

    The greatest is infinite where the greatest rank lies beyond the last event: a bucket that is extrapolated
    more than those below then looks as if something was in it.
    """
    low, high = math.inf, -math.inf
    for part in _parts(maybe):
        values = sorted([*sure, *part])
        rank = quantile * len(values)
        most = math.floor(rank * (1 + uneven) + 1e-9) + 1
        low = min(low, values[min(_rank(rank / (1 + uneven)), len(values)) - 1])
        high = max(high, values[most - 1] if most <= len(values) else math.inf)
    return low, high


def _parts(maybe: Sequence[float]) -> Iterator[list[float]]:
    """The parts of what may be counted that give the extremes: the k smallest, and the k greatest."""
    ordered = sorted(maybe)
    for count in range(len(ordered) + 1):
        yield ordered[:count]
        yield ordered[len(ordered) - count :]


def _rank(exact: float) -> int:
    """The rank of an order statistic, from 1; where it is just between two, the lower one."""
    return max(math.ceil(exact - 1e-9), 1)


def _edge_below(edges: Sequence[float], value: float) -> float:
    """The lower edge of the bucket that holds a value; 0 for the first."""
    position = bisect_left(edges, value)
    return edges[position - 1] if position else 0.0


def _edge_above(edges: Sequence[float], value: float) -> float:
    """The upper edge of the bucket that holds a value; above the last finite one, Prometheus answers that."""
    return edges[min(bisect_left(edges, value), len(edges) - 1)]
