"""The reference evaluator on values worked out by hand; test_reference_promtool.py asks Prometheus."""

from __future__ import annotations

import math

import pytest

from monitorgen.promql import PromQLError
from monitorgen.prove.reference import (
    QueryError,
    Series,
    Storage,
    Unsupported,
    differs,
    evaluate,
    window_edge_hits,
)


def series(name: str, samples: list[tuple[float, float | None]], **labels: str) -> Series:
    return Series({"__name__": name, **labels}, samples)


def steps(values: list[float], step: float = 15.0) -> list[tuple[float, float | None]]:
    return [(index * step, value) for index, value in enumerate(values)]


def buckets(counts: dict[str, float], **labels: str) -> list[Series]:
    return [series("h_bucket", [(0.0, count)], le=edge, **labels) for edge, count in counts.items()]


STORAGE = Storage(
    [
        series("c", steps([0, 30, 60, 90, 120, 150, 180]), job="a"),
        series("reset", steps([100, 110, 5, 15]), job="a"),
        series("far", [(100.0, 50.0), (110.0, 60.0)], job="a"),
        series("low", [(100.0, 1.0), (110.0, 11.0)], job="a"),
        series("g", [(0.0, 1.0)], job="a", x="1"),
        series("g", [(0.0, 3.0)], job="a", x="2"),
        series("g", [(0.0, 8.0)], job="b", x="1"),
        series("stale", [(0.0, 1.0), (15.0, None)], job="a"),
        series("team", [(0.0, 1.0)], job="a", team="red"),
    ]
)


def only(expr: str, t: float, **options: bool) -> float:
    (value,) = evaluate(expr, STORAGE, t, **options).values()
    return value


VALUES = [
    # 2 a second all along: (0, 90] holds 30..180, with 15 s to the left edge and none to the right.
    ("rate(c[90s])", 90, 2.0),
    ("increase(c[90s])", 90, 180.0),
    # Two samples 10 s apart, 150 s after the left edge: 5 s on each side are guessed.
    ("increase(far[4m])", 190, 20.0),
    # The counter was zero 1 s before its first sample, so only 1 s is guessed there, and 5 s on the right.
    ("increase(low[4m])", 190, 16.0),
    # 100 -> 110, a reset, 5 -> 15 grow by 10 + 5 + 10; the samples cover the window.
    ("increase(reset[45s])", 45, 15 * 45 / 30),
    ("delta(reset[45s])", 45, (15 - 110) * 45 / 30),
    ("irate(reset[1m])", 30, 5 / 15),
    ("idelta(reset[1m])", 30, -105.0),
    ("resets(reset[1m])", 45, 1.0),
    ("changes(reset[1m])", 45, 3.0),
    ("avg_over_time(c[31s])", 90, 150.0),
    ("quantile_over_time(0.25, c[31s])", 90, 135.0),
    ("count_over_time(stale[1m])", 15, 1.0),
    ("sum(g)", 0, 12.0),
    ("avg(g)", 0, 4.0),
    ("quantile(0.25, g)", 0, 2.0),
    ("stddev(g)", 0, math.sqrt((9 + 1 + 16) / 3)),
    ("sum(g) / count(g)", 0, 4.0),
    ("c offset 15s", 45, 60.0),
    ("max_over_time(c[45s:15s])", 60, 120.0),
    ("time() - timestamp(g{x='2'})", 100, 100.0),
    ("scalar(sum(g)) ^ 2", 0, 144.0),
    ("-7 % 4", 0, -3.0),
    ("round(2.5 * sum(g) / 12)", 0, 3.0),
    ("clamp(sum(g), 0, 5)", 0, 5.0),
    ("1 / 0", 0, math.inf),
    ("0 ^ -1", 0, math.inf),
]


@pytest.mark.parametrize(("expr", "t", "value"), VALUES)
def test_values_worked_out_by_hand(expr: str, t: float, value: float) -> None:
    assert only(expr, t) == pytest.approx(value, rel=1e-12)


def test_labels_of_joins_and_aggregations() -> None:
    assert evaluate("sum by (job) (g)", STORAGE, 0) == {(("job", "a"),): 4.0, (("job", "b"),): 8.0}
    assert evaluate("g * on(job) group_left(team) team", STORAGE, 0) == {
        (("job", "a"), ("team", "red"), ("x", "1")): 1.0,
        (("job", "a"), ("team", "red"), ("x", "2")): 3.0,
    }
    assert evaluate("g > 5", STORAGE, 0) == {(("__name__", "g"), ("job", "b"), ("x", "1")): 8.0}
    assert evaluate("3", STORAGE, 0) == {(): 3.0}
    assert evaluate('absent(nope{job="a"})', STORAGE, 0) == {(("job", "a"),): 1.0}
    assert evaluate("absent(g)", STORAGE, 0) == {}


HISTOGRAMS = [
    ({"1": 5, "2": 10, "+Inf": 10}, 0.5, 1.0),
    ({"1": 5, "2": 10, "+Inf": 10}, 0.75, 1.5),
    ({"1": 5, "2": 10, "+Inf": 10}, 0.25, 0.5),  # the first bucket starts at zero
    ({"1": 0, "2": 0, "+Inf": 10}, 0.5, 2.0),  # all beyond: the highest finite edge
    ({"-1": 5, "1": 10, "+Inf": 10}, 0.25, -1.0),  # a first bucket below zero has no start
    ({"1": 5, "2": 3, "4": 10, "+Inf": 10}, 0.75, 3.0),  # a count that falls counts as the one before
    ({"1": 0, "2": 0, "+Inf": 0}, 0.5, math.nan),
    ({"1": 5, "2": 10}, 0.5, math.nan),  # no +Inf
    ({"+Inf": 10}, 0.5, math.nan),
    ({"1": 5, "+Inf": 10}, 1.5, math.inf),
    ({"1": 5, "+Inf": 10}, -0.5, -math.inf),
]


@pytest.mark.parametrize(("counts", "q", "value"), HISTOGRAMS)
def test_histogram_quantile(counts: dict[str, float], q: float, value: float) -> None:
    (found,) = evaluate(f"histogram_quantile({q}, h_bucket)", Storage(buckets(counts)), 0).values()
    assert found == pytest.approx(value, nan_ok=True)


def test_lookback_and_stale_markers_end_a_series() -> None:
    assert only("g{x='2'}", 299) == 3.0
    assert evaluate("g{x='2'}", STORAGE, 300) == {}
    assert only("g{x='2'}", 300, left_open=False) == 3.0
    assert evaluate("g{x='2'}", STORAGE, 301, left_open=False) == {}
    assert only("stale", 14) == 1.0
    assert evaluate("stale", STORAGE, 15) == {}


def test_window_edges_hold_a_sample_in_prometheus_2_only() -> None:
    assert only("count_over_time(c[30s])", 60) == 2.0
    assert only("count_over_time(c[30s])", 60, left_open=False) == 3.0


@pytest.mark.parametrize(
    ("expr", "t", "hit"),
    [
        ("rate(c[30s])", 60, True),
        ("rate(c[30s])", 61, False),
        ("rate(c[30s] offset 1s)", 61, True),
        ("sum(rate(c[30s])) > 0", 60, True),
        ("g", 300, True),
        ("g", 299, False),
        ("c", 300, False),  # there are younger samples
        ("rate(nope[1m])", 60, False),
        ("max_over_time(c[30s:15s])", 60, True),
        ("max_over_time(c[40s:15s])", 60, False),
    ],
)
def test_window_edge_hits(expr: str, t: float, hit: bool) -> None:
    assert window_edge_hits(expr, STORAGE, t) is hit


def test_extrapolation_to_zero_depends_on_the_version() -> None:
    # Zero is 8 s before the first sample: more than half an interval, and less than the threshold of 11 s.
    storage = Storage([series("c", [(100.0, 8.0), (110.0, 18.0)])])
    assert evaluate("increase(c[4m])", storage, 190) == {(): 20.0}
    assert evaluate("increase(c[4m])", storage, 190, zero_first=True) == {(): 23.0}
    assert differs("increase(c[4m])", storage, 190)
    assert not window_edge_hits("increase(c[4m])", storage, 190)


def test_differs_sees_edges_and_ranks_before_empty_buckets() -> None:
    assert differs("count_over_time(c[30s])", STORAGE, 60)
    assert not differs("count_over_time(c[31s])", STORAGE, 60)
    storage = Storage(buckets({"1": 5, "2": 5, "4": 10, "+Inf": 10}))
    assert differs("histogram_quantile(0.5, h_bucket)", storage, 1)
    assert not differs("histogram_quantile(0.6, h_bucket)", storage, 1)


@pytest.mark.parametrize(
    "expr",
    [
        "g / on(job) g",
        "g * on() team * on() g",
        "team * on(job) g",
        'rate({__name__=~"c|low"}[5m])',
        'label_replace(g, "x", "same", "x", ".*")',
    ],
)
def test_refuses_what_prometheus_refuses(expr: str) -> None:
    with pytest.raises(QueryError):
        evaluate(expr, STORAGE, 120)


@pytest.mark.parametrize(
    "expr",
    [
        "deriv(g[5m])",
        'count_values("x", g)',
        "topk(1, g * 0)",
        "g[5m]",
        '"text"',
        "max_over_time(g[5m:])",
        'g{job=~"[[:alpha:]]"}',
        'g{job=~"(?i)a(?s)b"}',
        'g{job="$job"}',
        "g atan2 g",
        "info(g)",
    ],
)
def test_never_guesses(expr: str) -> None:
    with pytest.raises(Unsupported):
        evaluate(expr, STORAGE, 0)


def test_text_that_does_not_parse_is_an_error() -> None:
    with pytest.raises(PromQLError):
        evaluate("sum(", STORAGE, 0)


def test_samples_must_be_in_order() -> None:
    with pytest.raises(ValueError, match="order of time"):
        series("c", [(15.0, 1.0), (0.0, 2.0)])
