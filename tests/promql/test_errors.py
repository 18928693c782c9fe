"""Text that does not parse: the message names the place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitorgen.promql import PromQLError, grafana_substitute, parse, tree

# The expression with the wrong place between « and », and a word of the message.
WRONG = [
    ("«»", "empty"),
    ("«# nothing»", "empty"),
    ("«(»foo", "never closed"),
    ("foo«)»", "nothing opened it"),
    ("sum(foo«]»", "first"),
    ('foo«{»a="b"', "never closed"),
    ('foo{a=«"b}»', "never closed"),
    ("foo«[»5m", "never closed"),
    ("foo «bar»", "unexpected 'bar'"),
    ("foo «+»", "too early"),
    ("sum by (a) «by» (b) (foo)", "unexpected 'by'"),
    ("«é»", "unexpected character"),
    ("rate(foo[5m]) «$» 2", "unexpected character"),
    ("«nope»(foo)", "unknown function"),
    ("sum(«rate(foo)») / bar", "expected type matrix"),
    ("1 + sum(«rate(foo)»)", "expected type matrix"),
    ("foo + «bool» 2", "bool modifier"),
    ("foo «and» 1", "set operator"),
    ('foo{a=~«"("», b="c"}', "illegal regex"),
    ('foo{a=«"\\d"»}', "escape"),
    ('foo{a«==»"b"}', "expected string"),
    ("up > 0 and «1 == 2»", "comparisons between scalars"),
    ("foo{a=«5»}", "unexpected character"),
    ("(«1 == 2»)", "comparisons between scalars"),
]


@pytest.mark.parametrize(("marked", "word"), WRONG)
def test_the_place_is_found(marked: str, word: str) -> None:
    start, end = marked.index("«"), marked.index("»") - 1
    expr = marked.replace("«", "").replace("»", "")
    with pytest.raises(PromQLError) as caught:
        parse(expr)
    error = caught.value
    assert word in error.message
    assert error.expr == expr
    if marked == "up > 0 and «1 == 2»":  # the parser sees the set operator and its scalar together
        assert error.start <= start < error.end
    else:
        assert (error.start, error.end) == (start, end)


def test_underlined_shows_the_line_of_the_place() -> None:
    with pytest.raises(PromQLError) as caught:
        parse("sum(\n\tfoo bar\n)")
    assert caught.value.underlined() == "\tfoo bar\n\t    ^^^ unexpected 'bar'"


def test_places_are_those_of_the_written_text_with_variables() -> None:
    expr = 'rate(foo{job=~"$job"}[$__rate_interval]) oops'
    with pytest.raises(PromQLError) as caught:
        parse(expr)
    assert expr[caught.value.start : caught.value.end] == "oops"


@pytest.mark.parametrize(
    "expr", ["(" * 5000 + "1" + ")" * 5000, "1" + "+1" * 5000, "-" * 9000 + "foo", "2^" * 9000 + "2"]
)
def test_endless_nesting_is_refused_not_fatal(expr: str) -> None:
    with pytest.raises(PromQLError, match="split it"):
        parse(expr)


def test_deep_but_sane_nesting_parses() -> None:
    assert tree("(" * 100 + "1" + ")" * 100).placed
    assert tree("a" + " or a" * 250).placed


PIECES = st.sampled_from(
    [
        *(
            "foo",
            "bar{",
            "}",
            "(",
            ")",
            "[5m]",
            "[",
            "]",
            '"x"',
            '"',
            "'",
            "`",
            "a=",
            "=~",
            "+",
            "-",
            "==",
            "bool",
        ),
        *(
            "on(a)",
            "group_left",
            "offset",
            "5m",
            "1h:",
            "@",
            "1.5",
            ",",
            " ",
            "\n",
            "#",
            "$job",
            "${x:regex}",
            "é",
        ),
        *("by", "sum", "rate(", "\\", "and", "or"),
    ]
)


@given(st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=30))
def test_any_text_parses_or_is_placed(expr: str) -> None:
    parsed = error = None
    try:
        parsed = tree(expr)
    except PromQLError as caught:
        error = caught
    if parsed:
        assert parsed.placed, "tokens and nodes were not aligned"
        assert tree(grafana_substitute(expr)).root.expr.prettify() == parsed.root.expr.prettify()
    if error:
        assert 0 <= error.start <= error.end <= len(expr)
        assert error.message in error.underlined()
