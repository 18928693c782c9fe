"""Courses: what promtool reads of them, and what rates and quantiles make of them."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitorgen.prove.course import EXACT, SAMPLE_INTERVAL, Course
from monitorgen.prove.meaning import bucket_quantile, edge_clear, latest, rate
from monitorgen.prove.reference import Series, Storage, evaluate
from monitorgen.prove.unittests import notation
from monitorgen.prove.world import Histogram, bucket_weights


def expanded(text: str) -> list[float | None]:
    """Promtool's notation, read as its manual says: `_`, `_x3`, `5`, `5x2` (3 samples), `1+2x3` (4)."""
    values: list[float | None] = []
    for word in text.split():
        number = r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
        if match := re.fullmatch(r"_(?:x(\d+))?", word):
            values += [None] * int(match[1] or 1)
            continue
        match = re.fullmatch(rf"({number})(?:([-+])({number}))?(?:x(\d+))?", word)
        assert match, word
        value, step = float(match[1]), float(match[3] or 0) * (-1 if match[2] == "-" else 1)
        for _ in range(int(match[4] or 0) + 1):
            values.append(value)
            value += step
    return values


def values_of(course: Course) -> list[float | None]:
    return [course.at(index) for index in range(course.length)]


PHASE = st.one_of(
    st.tuples(st.just("grow"), st.integers(0, 64).map(lambda n: n / 16), st.integers(1, 9)),
    st.tuples(st.just("hold"), st.floats(0, 1e6, allow_nan=False), st.integers(1, 5)),
    st.tuples(st.just("gap"), st.just(0.0), st.integers(1, 4)),
    st.tuples(st.just("restart"), st.just(0.0), st.just(1)),
)


@st.composite
def courses(draw: st.DrawFn, *, gauges: bool = True) -> Course:
    course = Course("x", {"job": "a"})
    for kind, number, count in draw(st.lists(PHASE, min_size=1, max_size=12)):
        if kind == "grow":
            course.grow(number, count)
        elif kind == "hold" and gauges:
            course.hold(number, count)
        elif kind == "gap":
            course.gap(count)
        elif kind == "restart":
            course.restart()
    return course


@given(courses())
def test_promtool_reads_the_samples_that_a_course_has(course: Course) -> None:
    assert expanded(notation(course)) == values_of(course)


@given(st.lists(st.one_of(st.none(), st.integers(0, 5).map(float), st.floats(-1e3, 1e3)), max_size=40))
def test_any_samples_come_back_from_the_notation(values: list[float | None]) -> None:
    course = Course("x", {}, values)
    assert values_of(course) == values
    assert expanded(notation(course)) == values


def test_long_runs_are_folded() -> None:
    course = Course("x", {})
    course.grow(13, 20)
    course.gap(3)
    course.hold(5, 8)
    assert notation(course) == "13+13x19 _x3 5+0x7"


def test_growth_beyond_exact_sums_still_adds_as_promtool_does() -> None:
    course = Course("x", {})
    course.grow(EXACT / 3 + 0.1, 7)
    assert expanded(notation(course)) == values_of(course)
    assert course.at(6) == pytest.approx(7 * (EXACT / 3 + 0.1), rel=1e-9)


@given(courses(gauges=False), st.integers(30, 600), st.sampled_from([60.0, 120.0, 300.0]))
def test_rates_equal_those_of_the_reference_evaluator(course: Course, t: int, window: float) -> None:
    samples = [(index * SAMPLE_INTERVAL, value) for index, value in course.samples()]
    storage = Storage([Series({"__name__": "x"}, samples)] if samples else [])
    # `zero_first`: the meaning asks for a counter's zero before it asks whether samples are missing.
    expected = list(evaluate(f"rate(x[{window:.0f}s])", storage, t, zero_first=True).values())
    found = rate(course, t, window)
    assert ([] if found is None else [found]) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(courses(), st.integers(0, 900))
def test_the_latest_sample_is_the_one_an_instant_selector_sees(course: Course, t: int) -> None:
    samples = [(index * SAMPLE_INTERVAL, value) for index, value in course.samples()]
    storage = Storage([Series({"__name__": "x"}, samples)] if samples else [])
    found = latest(course, t)
    assert ([] if found is None else [found]) == list(evaluate("x", storage, t).values())


def test_a_restart_is_growth_and_not_a_fall() -> None:
    course = Course("x", {})
    course.grow(10, 6)
    course.restart()
    course.grow(10, 6)
    seen = course.growth(0, 11)
    assert seen is not None
    # 10, 20 .. 60, then 10, 20 .. 60: five steps up, a new start worth 10, five steps up.
    assert seen.growth == 5 * 10 + 10 + 5 * 10
    assert (seen.first, seen.count, seen.start, seen.end) == (10, 12, 0, 11)


EDGES = st.lists(st.floats(0.001, 1000), min_size=3, max_size=12, unique=True).map(sorted)


@given(EDGES, st.sampled_from([0.5, 0.9, 0.99]), st.floats(0.001, 0.999))
def test_buckets_are_filled_so_that_the_quantile_reads_what_is_wanted(
    edges: list[float], q: float, share: float
) -> None:
    value = edges[0] + (edges[-1] - edges[0]) * share
    weights = bucket_weights(edges, Histogram(1.0, q, value))
    assert all(weight >= 0 for weight in weights)
    assert math.fsum(weights) == pytest.approx(1.0)
    below = [math.fsum(weights[: number + 1]) for number in range(len(weights))]
    read = bucket_quantile(q, dict(zip([*edges, math.inf], below, strict=True)))
    assert read == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 10.0, 11.0])
def test_no_buckets_read_a_quantile_at_or_beyond_their_edges(value: float) -> None:
    with pytest.raises(ValueError, match="they end at 10"):
        bucket_weights([1.0, 10.0], Histogram(1.0, 0.5, value))


@pytest.mark.parametrize(
    ("t", "windows", "clear"),
    [
        (301, [60.0], True),
        (300, [300.0], False),  # begins at time 0, where the first sample lies
        (360, [100.0], False),  # begins at 260 = 20 samples
        (560, [60.0], False),  # the lookback begins at 260
        (361, [100.0], True),
    ],
)
def test_moments_are_told_at_which_prometheus_2_and_3_differ(
    t: float, windows: list[float], clear: bool
) -> None:
    assert edge_clear(t, windows) is clear
