"""The cross-check, on simulated loads: correct rules always agree, wrong ones are found.

A made-up server answers requests at known times; its clients are late on both ways, by a part of the lag.
A Prometheus is restated here from its documentation: scrapes at a jittered interval, rate() with
extrapolation, histogram_quantile() with interpolation.
"""

from __future__ import annotations

import math
import random
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

import pytest

from monitorgen.bundle import RecordingRule
from monitorgen.errors import InputError
from monitorgen.prove.agreement import Moment, measure_of
from monitorgen.prove.client import CUT, Outcome
from monitorgen.prove.crosscheck import cross_check
from monitorgen.prove.load import LoadReport
from monitorgen.prove.prometheus import Sample, Series
from monitorgen.prove.pulse import Beat, lag_within

EDGES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
LAG = 0.06
START = 1_800_000_000.0
SECONDS = 25.0
LABELS = {"instance": "127.0.0.1:8000", "job": "vllm", "model_name": "tiny"}
NAMES = {
    "ttft": "vllm:time_to_first_token_seconds",
    "e2e": "vllm:e2e_request_latency_seconds",
    "gaps": "vllm:inter_token_latency_seconds",
    "finished": "vllm:request_success_total",
    "prompt": "vllm:prompt_tokens_total",
    "generation": "vllm:generation_tokens_total",
}


class World:
    """What a server did: for each signal the (time, value) of its events. And what its clients saw."""

    def __init__(self, seed: int, lag: float = LAG, told: float = LAG) -> None:
        """Clients are late by up to `lag` seconds on either way, and a pulse says `told`."""
        dice = random.Random(seed)
        self.events: dict[str, list[tuple[float, float]]] = {name: [] for name in NAMES}
        self.outcomes: list[Outcome] = []
        self.counters: dict[tuple[str, float], tuple[list[float], list[float]]] = {}
        self.interval = dice.choice([0.5, 0.4])
        self.before = dice.choice([(0, 0), (0, 3), (200, 1), (40, 0)])  # observed before: quick and slow ones
        at = START
        while (at := at + dice.expovariate(2.0)) < START + SECONDS:
            self._answer(at, dice, lag)
        times = [START - 10 + 0.05 * number for number in range(round((SECONDS + 11) / 0.05))]
        self.beats = tuple(Beat(at, told) for at in times)
        self._scrapes(dice)

    def _answer(self, sent: float, dice: random.Random, lag: float) -> None:
        tokens = dice.choice([3, 4, 5, 60])
        prompt = dice.choice([20, 400])
        ttft = 0.0003 * prompt + dice.uniform(0.01, 0.03)
        arrival = sent + dice.uniform(0, lag)
        times = [arrival + ttft]
        self.events["ttft"].append((times[0], ttft))
        self.events["prompt"].append((times[0], prompt))
        for _ in range(tokens - 1):
            gap = dice.choice([0.012, 0.014, 0.016, 0.018, 0.2])
            times.append(times[-1] + gap)
            self.events["gaps"].append((times[-1], gap))
        made = [dice.randint(1, 4) for _ in times]
        self.events["generation"] += list(zip(times, map(float, made), strict=True))
        self.events["e2e"].append((times[-1], times[-1] - arrival))
        self.events["finished"].append((times[-1], 1.0))
        seen = self._arrivals(times, dice, lag)
        total = max(times[-1] + dice.uniform(0, lag), seen[-1]) - sent
        gaps = tuple(b - a for a, b in pairwise(seen))
        common = {"prompt_tokens": prompt, "generated_tokens": sum(made), "finish": "length", "sent": sent}
        self.outcomes.append(
            Outcome("completion", 200, seen[0] - sent, total, len(seen), gaps=gaps, **common)  # type: ignore[arg-type]
        )

    @staticmethod
    def _arrivals(times: Sequence[float], dice: random.Random, lag: float) -> list[float]:
        """When the chunks come: in order, late, and what is under way together comes as one."""
        seen: list[float] = []
        for at in times:
            late = max(at + dice.uniform(0, lag), seen[-1] if seen else 0.0)
            if seen and at < seen[-1] and dice.random() < 0.5:
                continue  # merged into the chunk that is still under way
            seen.append(min(late, at + lag))
        return seen

    def _scrapes(self, dice: random.Random) -> None:
        """Each scrape's time, and when within it the server read its counters."""
        self.scrapes: list[tuple[float, float]] = []
        at = START - 20 + dice.random() * self.interval
        while at < START + SECONDS:
            self.scrapes.append((round(at, 3), at + dice.uniform(0, 0.03)))
            at += self.interval + dice.uniform(-0.004, 0.004)

    def load(self) -> LoadReport:
        return LoadReport(tuple(self.outcomes), 0, SECONDS, self.beats)

    def rate(self, name: str, at: float, window: float, up_to: float = math.inf) -> float:
        """rate() at a time, of what was at most `up_to` (a bucket); Prometheus' extrapolation."""

        times, sums = self._counter(name, up_to)
        quick, slow = self.before
        before = float(quick * (up_to >= EDGES[1]) + slow * (up_to > EDGES[-2]))

        def counter(read: float) -> float:
            return before + sums[bisect_right(times, read)]

        stored = [one for one in self.scrapes if one[1] <= at]  # a rule is evaluated before later ones are
        inside = [one for one in stored if at - window < one[0] <= at]
        (first, first_read), (last, last_read) = inside[0], inside[-1]
        begins, grown = counter(first_read), counter(last_read) - counter(first_read)
        length = last - first
        average = length / (len(inside) - 1)
        to_start, to_end = first - (at - window), at - last
        if grown > 0:
            to_start = min(to_start, length * begins / grown)
        reach = sum(gap if gap < 1.1 * average else average / 2 for gap in (to_start, to_end))
        return grown * (length + reach) / length / window

    def _counter(self, name: str, up_to: float) -> tuple[list[float], list[float]]:
        """When a counter grew, and what it then had grown by; a histogram's counters count observations."""
        if (name, up_to) not in self.counters:
            events = self.events["e2e" if name == "sum" else name]
            kept = sorted((at, value) for at, value in events if value <= up_to)
            each = (1.0 if name in ("ttft", "e2e", "gaps") else value for _, value in kept)
            self.counters[name, up_to] = [at for at, _ in kept], list(accumulate(each, initial=0.0))
        return self.counters[name, up_to]

    def quantile(self, name: str, q: float, at: float, window: float) -> float:
        """histogram_quantile() of rates: linear within the bucket of the rank."""
        rates = [self.rate(name, at, window, edge) for edge in (*EDGES, 1e9)]
        rank = q * rates[-1]
        if not rates[-1]:
            return math.nan
        bucket = next(i for i, rate in enumerate(rates) if rate >= rank)
        if bucket == len(EDGES):
            return EDGES[-1]
        low, below = (EDGES[bucket - 1], rates[bucket - 1]) if bucket else (0.0, 0.0)
        return low + (EDGES[bucket] - low) * (rank - below) / (rates[bucket] - below)

    def mean(self, at: float, window: float) -> float:
        count = self.rate("e2e", at, window)
        return self.rate("sum", at, window) / count if count else math.nan


Rule = tuple[RecordingRule, Callable[[World, float, float], float]]


def rule(record: str, family: str, value: Callable[[World, float, float], float]) -> Rule:
    return RecordingRule(record, f"sum by (job) (rate({family}[5m]))"), value


def quantile_rule(name: str, q: float, said: str, level: str = "model") -> Rule:
    record = f"{level}:vllm_{name}_seconds:{said}_5m"
    return rule(record, f"{NAMES[name]}_bucket", lambda world, at, w: world.quantile(name, q, at, w))


def rate_rule(name: str, factor: float = 1.0, wider: float = 1.0) -> Rule:
    return rule(
        f"model:vllm_{name}:rate5m",
        NAMES[name],
        lambda world, at, w: factor * world.rate(name, at, w * wider),
    )


RIGHT: Sequence[Rule] = [
    *(quantile_rule(name, q, p) for name in ("ttft", "e2e", "gaps") for q, p in [(0.5, "p50"), (0.9, "p90")]),
    quantile_rule("e2e", 0.99, "p99"),
    rule("model:vllm_e2e_seconds:mean_5m", f"{NAMES['e2e']}_sum", World.mean),
    *(rate_rule(name) for name in ("finished", "prompt", "generation")),
]
WRONG: Mapping[str, Rule] = {
    "median recorded as p90": quantile_rule("e2e", 0.5, "p90"),
    "p90 recorded as median": quantile_rule("e2e", 0.9, "p50"),
    "median of the first token recorded as p90": quantile_rule("ttft", 0.5, "p90"),
    "a quantile in milliseconds": rule(
        "model:vllm_ttft_seconds:p90_5m",
        f"{NAMES['ttft']}_bucket",
        lambda world, at, w: 1000 * world.quantile("ttft", 0.9, at, w),
    ),
    "a sum for a mean": rule(
        "model:vllm_e2e_seconds:mean_5m",
        f"{NAMES['e2e']}_sum",
        lambda world, at, w: world.mean(at, w) * world.rate("e2e", at, w),
    ),
    "a rate per millisecond": rate_rule("finished", 1e-3),
    "an increase for a rate": rate_rule("prompt", 5.0),
    "another window": rate_rule("prompt", wider=2.0),
    "generated tokens doubled": rate_rule("generation", 2.0),
    "requests with streams counted twice": rate_rule("finished", 2.0),
    "nothing": rate_rule("prompt", 0.0),
}


class Recorded:
    """Answers as a Prometheus would that has scraped a world and recorded rules every scrape interval."""

    def __init__(self, world: World, rules: Sequence[Rule], scale: float = 60.0) -> None:
        self.world = world
        self.window = 300.0 / scale
        self.values = {rule.record: value for rule, value in rules}

    def query(self, expr: str, time: float | None = None) -> tuple[Sample, ...]:
        assert expr.startswith("group by (le)")
        return tuple(Sample({"le": str(edge)}, 0.0, 1.0) for edge in (*EDGES, math.inf))

    def query_range(self, expr: str, start: float, end: float, step: float) -> tuple[Series, ...]:
        stamped = expr.startswith("timestamp(")
        name = re.split(r"[{(]", expr.removeprefix("timestamp("))[0]
        assert '{instance="127.0.0.1:8000"}' in expr
        points = []
        asked = start
        while asked <= end:
            points += self._point(name, asked, stamped)
            asked += step
        return (Series(LABELS, tuple(points)),) if points else ()

    def _point(self, name: str, asked: float, stamped: bool) -> list[tuple[float, float]]:
        world = self.world
        if name in ("scrape_duration_seconds", "vllm:num_requests_running"):
            earlier = [at for at, _ in world.scrapes if at <= asked]
            return [(asked, earlier[-1] if stamped else 0.03)] if earlier else []
        if name not in self.values or asked < START - 10:
            return []
        number = math.floor((asked - START) / world.interval)
        at = round(START + number * world.interval, 3)
        return [(asked, at if stamped else self.values[name](world, at, self.window))]


def check(world: World, rules: Sequence[Rule], load: LoadReport | None = None, scale: float = 60.0):  # type: ignore[no-untyped-def]
    return cross_check(
        Recorded(world, rules, scale),  # type: ignore[arg-type]
        [one for one, _ in rules],
        load or world.load(),
        instance=LABELS["instance"],
        interval=world.interval,
        time_scale=scale,
    )


@pytest.mark.parametrize("seed", range(8))
def test_what_is_recorded_correctly_agrees(seed: int) -> None:
    report = check(World(seed), RIGHT)
    assert report.skipped == {}
    assert len(report.checks) == len(RIGHT)
    assert report.ok, report.table()
    assert all(one.moments > 20 for one in report.checks)
    assert LAG <= report.lag < LAG + 0.051


@pytest.mark.parametrize("fault", WRONG)
@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_recorded_wrongly_differs(fault: str, seed: int) -> None:
    report = check(World(seed), [WRONG[fault]])
    (found,) = report.checks
    assert not found.holds, report.table()
    assert not report.ok
    low, high = found.tolerance
    assert not low <= found.recorded <= high
    proof = found.proof(source="vllm at x", when="now")
    assert (proof.level, proof.kind, proof.holds) == ("live", "vllm", False)
    assert proof.claim == "agrees with the client's own measure"
    assert proof.item == WRONG[fault][0].id
    assert "DIFFERS" in report.table()


def test_clients_that_lag_more_than_the_pulse_says_are_noticed() -> None:
    """The tolerance rests on the lag: one that is not true is too narrow, and one that is true is enough."""
    assert not any(check(World(seed, lag=1.0), RIGHT).ok for seed in range(3))
    assert all(check(World(seed, lag=1.0, told=1.0), RIGHT).ok for seed in range(3))


def test_a_window_that_reaches_back_before_the_load_is_not_compared() -> None:
    world = World(5)
    report = check(world, [RIGHT[0]], scale=1.0)
    assert report.checks == ()
    assert "nothing was recorded over a whole window" in report.skipped[RIGHT[0][0].id]
    assert not report.ok


def test_a_rule_that_is_not_recorded_is_said() -> None:
    world = World(6)
    missing = RecordingRule("model:vllm_gone_seconds:p90_5m", f"rate({NAMES['ttft']}_bucket[5m])")
    report = cross_check(
        Recorded(world, RIGHT),  # type: ignore[arg-type]
        [missing],
        world.load(),
        instance=LABELS["instance"],
        interval=world.interval,
        time_scale=60,
    )
    assert list(report.skipped) == [missing.id]


@pytest.mark.parametrize(
    ("outcomes", "beats", "message"),
    [
        (1, 0, "without a pulse"),
        (0, 2, "0 of 0 answers"),
        (-1, 2, r"1 of \d+ answers were not read to their end"),
    ],
)
def test_a_load_that_tells_nothing_is_refused(outcomes: int, beats: int, message: str) -> None:
    world = World(7)
    kept = world.outcomes if outcomes else []
    if outcomes < 0:
        kept = [replace(kept[0], generated_tokens=None, error=CUT), *kept[1:]]
    with pytest.raises(InputError, match=message):
        check(world, RIGHT, LoadReport(tuple(kept), 0, SECONDS, world.beats[:beats]))


def test_what_the_server_refused_is_no_traffic() -> None:
    world = World(9)
    world.outcomes += [Outcome("bad_request", 400, None, 0.01, 0, sent=START + 3)] * 50
    assert check(world, RIGHT).ok


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (10.0, 12.9, 0.3),  # 0.1 s to answer, 0.2 s in which nothing was asked
        (13.2, 13.3, 2.2),  # the slow one is under way
        (15.4, 16.0, 0.3),
        (9.0, 11.0, None),  # before the first
        (15.0, 99.0, None),
    ],
)
def test_the_lag_is_the_slowest_answer_and_the_longest_silence(
    start: float, end: float, expected: float | None
) -> None:
    quick = [Beat(10 + 0.3 * number, 0.1) for number in range(10)]
    beats = (*quick, Beat(13.0, 2.0), *(Beat(15.2 + 0.3 * number, 0.1) for number in range(10)))
    lag = lag_within(beats, start, end)
    assert lag == (expected if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("record", "expr", "expected"),
    [
        ("m:x:p90_5m", "histogram_quantile(0.9, rate(vllm:time_to_first_token_seconds_bucket[5m]))", "p90"),
        (
            "m:x:p999_5m",
            "histogram_quantile(0.9, rate(vllm:time_to_first_token_seconds_bucket[5m]))",
            "p99.9",
        ),
        ("m:x:mean_10s", "rate(vllm:e2e_request_latency_seconds_sum[10s])", "mean"),
        ("m:x:rate5m", "sum(rate(vllm:request_success_total[5m]))", "finished requests"),
        ("m:x:rate5m", 'sum(rate(vllm:request_success_total{finished_reason="abort"}[5m]))', None),
        ("m:x:rate5m", "sum by (finished_reason) (rate(vllm:request_success_total[5m]))", None),
        ("m:x:ratio_rate5m", "sum(rate(vllm:request_success_total[5m]))", None),
        ("m:x:p90_5m", "rate(vllm:request_queue_time_seconds_bucket[5m])", None),
        ("m:x:p90_5m", "rate(vllm:e2e_request_latency_seconds_sum[5m])", None),
        ("m:x:max_5m", "max_over_time(vllm:kv_cache_usage_perc[5m])", None),
    ],
)
def test_what_clients_can_measure_is_told_by_family_and_name(
    record: str, expr: str, expected: str | None
) -> None:
    measure = measure_of(RecordingRule(record, expr))
    assert (measure is None) if expected is None else str(measure).startswith(expected)


def test_the_factor_of_rate_is_bounded_by_the_windows_ends() -> None:
    """10 s window, scrapes from 1 to 9: a second each to extrapolate; at the start maybe less."""
    moment = Moment(110.0, 0.0, 10.0, tuple(float(at) for at in range(101, 110)), 0.06, 0.04)
    assert moment.factor == pytest.approx((1 + 1 / 8, 1 + 2 / 8))
    assert moment.sure == (101.1, 109.0)
    assert moment.possible == pytest.approx((101.0, 109.1))
    late = replace(moment, scrapes=(105.0, 106.0, 107.0, 108.0))  # far from both ends: half an interval each
    assert late.factor == pytest.approx((1 + 0.5 / 3, 1 + 1 / 3))


def test_a_value_above_the_last_edge_is_recorded_as_that_edge() -> None:
    assert bisect_left(EDGES, 99.0) == len(EDGES)
    world = World(8)
    world.events["e2e"] = [(at, value + 6) for at, value in world.events["e2e"]]
    world.outcomes = [
        replace(o, sent=o.sent - 6, ttft=(o.ttft or 0) + 6, total=o.total + 6)
        for o in world.outcomes
        if o.status == 200
    ]
    load = replace(world.load(), seconds=SECONDS + 6)
    report = check(world, [quantile_rule("e2e", 0.5, "p50")], load)
    assert report.ok, report.table()
    assert report.checks[0].recorded == EDGES[-1]
