"""What an expression reads, under which functions, and where that is written."""

from __future__ import annotations

import pytest

from monitorgen.promql import Matcher, selectors

EXPR = (
    'histogram_quantile(0.9, sum by (le) (rate(x_bucket{job="a", le!~"1|2"}[5m] offset 1m)))'
    " > scalar(limit) * y{} or {__name__=\"z\",a=''} offset -1h"
)


def test_selectors_in_the_order_written() -> None:
    assert [(s.name, s.range, s.offset, s.function) for s in selectors(EXPR)] == [
        ("x_bucket", 300.0, 60.0, "rate"),
        ("limit", 0.0, 0.0, "scalar"),
        ("y", 0.0, 0.0, ""),
        ("z", 0.0, -3600.0, ""),
    ]


def test_enclosing_functions_outermost_first() -> None:
    assert selectors(EXPR)[0].functions == ("histogram_quantile", "sum", "rate")


def test_matchers_leave_the_name_out() -> None:
    first, *_, last = selectors(EXPR)
    assert first.matchers == (Matcher("job", "=", "a"), Matcher("le", "!~", "1|2"))
    assert last.matchers == (Matcher("a", "=", ""),)


def test_places() -> None:
    assert [EXPR[s.start : s.end] for s in selectors(EXPR)] == [
        'x_bucket{job="a", le!~"1|2"}[5m] offset 1m',
        "limit",
        "y{}",
        "{__name__=\"z\",a=''} offset -1h",
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('foo{a="b",c=~"d"}[300s]', "foo{ c=~'d' , a=`b`, } [5m]"),
        ('{__name__="foo"}', "foo{}"),
        ('foo{a="\\x41\\n"}', 'foo{a="A\\n"}'),
        ("foo offset 60m", "foo offset 1h"),
    ],
)
def test_equal_selectors_have_equal_texts(one: str, other: str) -> None:
    assert selectors(one)[0].text == selectors(other)[0].text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("foo", "bar"),
        ('foo{a="b"}', 'foo{a!="b"}'),
        ("foo[5m]", "foo[6m]"),
        ("foo", "foo offset 1m"),
        ('{a="b"}', "a"),
    ],
)
def test_different_selectors_have_different_texts(one: str, other: str) -> None:
    assert selectors(one)[0].text != selectors(other)[0].text


def test_two_names_by_regex_have_no_fixed_name() -> None:
    assert selectors('{__name__=~"a|b"}')[0].name == ""
