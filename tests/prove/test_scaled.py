"""A bundle in quick motion: what is divided by the time scale, and what stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitorgen.bundle import AlertRule, RecordingRule, RuleGroup
from monitorgen.errors import InputError
from monitorgen.prove.scaled import FEWEST, QUICKEST, lookback, scale_groups, scrape_every

GROUP = RuleGroup(
    "g",
    (
        RecordingRule("a:b", "rate(x_total[5m]) > 300 unless x offset 1h"),
        AlertRule("A", "max_over_time(x[10m:30s]) > 5", hold=600.0, keep_firing_for=120.0),
        AlertRule("B", "x > 1"),
    ),
    interval=15.0,
)


def test_durations_are_divided_and_numbers_are_not() -> None:
    (group,) = scale_groups([GROUP], 60)
    recorded, first, second = group.rules
    assert recorded.expr == "rate(x_total[5s]) > 300 unless x offset 1m"
    assert first.expr == "max_over_time(x[10s:500ms]) > 5"
    assert (first.hold, first.keep_firing_for) == (10.0, 2.0)
    assert second == GROUP.rules[2]
    assert group.interval == 0.0


@pytest.mark.parametrize(
    ("expr", "factor", "seconds"),
    [
        ("rate(x[5m])", 60, 1.0),
        ("rate(x[5m])", 90, 0.667),
        ("rate(x[5m])", 300, 0.25),
        ("rate(x[1h]) + rate(x[1m])", 10, 1.2),
        ("x", 1, 15.0),
        ("x", 100, 0.6),
    ],
)
def test_how_often_is_scraped(expr: str, factor: float, seconds: float) -> None:
    groups = [RuleGroup("g", (RecordingRule("a:b", expr),))]
    assert scrape_every(groups, factor) == pytest.approx(seconds, abs=1e-3)


def test_a_scale_that_leaves_a_window_no_samples_is_refused_with_the_largest_that_does() -> None:
    groups = [RuleGroup("g", (RecordingRule("a:b", "rate(x[1m])"),))]
    with pytest.raises(InputError, match="the window 1m too short") as refused:
        scrape_every(groups, 61)
    assert "at most 60" in str(refused.value)
    assert scrape_every(groups, 60) == QUICKEST


@given(st.floats(1.0, 300.0))
def test_the_shortest_window_always_holds_enough_scrapes(factor: float) -> None:
    interval = scrape_every([GROUP], factor)
    assert 300.0 / factor / interval >= FEWEST - 0.01
    assert lookback(factor, interval) >= 2.9 * interval
