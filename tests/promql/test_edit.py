"""Rewriting: only the pieces in question change, and the result parses to what is meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitorgen.promql import add_matchers, parse, rename, scale_durations, selectors

SCALED = [
    ("rate(foo[5m])", 60, "rate(foo[5s])"),
    ("foo offset 1h", 60, "foo offset 1m"),
    ("foo offset -1h", 60, "foo offset -1m"),
    (
        "max_over_time(rate(foo[5m])[1h:30s] offset 1d)",
        60,
        "max_over_time(rate(foo[5s])[1m:500ms] offset 24m)",
    ),
    ('foo{a="5m"} > 5', 60, 'foo{a="5m"} > 5'),
    ("rate( foo [ 5m ] ) # 5m", 300, "rate( foo [ 1s ] ) # 5m"),
    ("rate(foo[1s])", 1e6, "rate(foo[1ms])"),
    ("rate(foo[1m])", 0.5, "rate(foo[2m])"),
    ("rate(foo[$__rate_interval])", 2, "rate(foo[30s])"),
    ("foo @ 300", 60, "foo @ 300"),
    ("time() - foo > 300", 60, "time() - foo > 300"),
]


@pytest.mark.parametrize(("expr", "factor", "scaled"), SCALED)
def test_scales_durations(expr: str, factor: float, scaled: str) -> None:
    assert scale_durations(expr, factor) == scaled
    parse(scaled)


@pytest.mark.parametrize("factor", [0, -1, float("nan"), float("inf")])
def test_refuses_other_factors(factor: float) -> None:
    with pytest.raises(ValueError, match="factor"):
        scale_durations("foo", factor)


@given(st.integers(1, 10**9), st.floats(1e-3, 1e9))
def test_scaled_ranges_are_right_to_the_millisecond(milliseconds: int, factor: float) -> None:
    scaled = selectors(scale_durations(f"rate(foo[{milliseconds}ms])", factor))[0]
    assert scaled.range * 1000 == pytest.approx(max(1, milliseconds / factor), abs=0.51)


RENAMED = [
    ("foo + foo_total", "bar + foo_total"),
    (
        'foo{foo="foo"} / on(foo) sum by (foo) (rate(foo[5m]))',
        'bar{foo="foo"} / on(foo) sum by (foo) (rate(bar[5m]))',
    ),
    ('{__name__="foo",a="foo"}', '{__name__="bar",a="foo"}'),
    ('label_replace(foo, "foo", "foo", "foo", "foo")', 'label_replace(bar, "foo", "foo", "foo", "foo")'),
    ('foo{job=~"$job"}[$__range]', 'bar{job=~"$job"}[$__range]'),
    ("vllm:foo + foo:sum", "vllm:foo + foo:sum"),
]


@pytest.mark.parametrize(("expr", "renamed"), RENAMED)
def test_renames_metrics_only(expr: str, renamed: str) -> None:
    assert rename(expr, {"foo": "bar"}) == renamed


ADDED = [
    ("foo", 'foo{job="x"}'),
    ("foo{}", 'foo{job="x"}'),
    ('foo{a="}"}[5m]', 'foo{a="}",job="x"}[5m]'),
    ('foo{a="b",}', 'foo{a="b",job="x"}'),
    ('{__name__=~"a.*"} / foo offset 5m', '{__name__=~"a.*",job="x"} / foo{job="x"} offset 5m'),
    ("sum by (foo) (rate(bar[$__rate_interval]))", 'sum by (foo) (rate(bar{job="x"}[$__rate_interval]))'),
    ("1", "1"),
]


@pytest.mark.parametrize(("expr", "added"), ADDED)
def test_adds_matchers_to_every_selector(expr: str, added: str) -> None:
    assert add_matchers(expr, [("job", "=", "x")]) == added


@given(st.text(st.characters(codec="utf-8")))
def test_added_values_cannot_break_out(value: str) -> None:
    (found,) = selectors(add_matchers("foo", [("job", "!=", value)]))
    assert found.matchers[0].value == value or "$" in value or "[[" in value
    assert found.name == "foo"
