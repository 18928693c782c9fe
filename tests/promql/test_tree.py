"""Nodes know their place in the written text."""

from __future__ import annotations

import pytest

from monitorgen.promql import Node, tree

# Expression, and the text and the mark of each node, depth first.
PLACED = [
    ("foo", [("foo", "foo")]),
    (" ( foo ) ", [("( foo )", "( foo )"), ("foo", "foo")]),
    ("- foo ^ 2", [("- foo ^ 2", "- foo ^ 2"), ("foo ^ 2", "^"), ("foo", "foo"), ("2", "2")]),
    ("+foo * -1", [("+foo * -1", "*"), ("foo", "foo"), ("-1", "-1")]),
    ("sum by (a) (foo)", [("sum by (a) (foo)", "sum by (a)"), ("foo", "foo")]),
    ("sum(foo) by (a)", [("sum(foo) by (a)", "by (a)"), ("foo", "foo")]),
    ("topk(2, foo)", [("topk(2, foo)", "topk"), ("2", "2"), ("foo", "foo")]),
    (
        'rate(foo{a="b"}[5m] offset 1m) # c',
        [('rate(foo{a="b"}[5m] offset 1m)', "rate"), ('foo{a="b"}[5m] offset 1m',) * 2],
    ),
    (
        "a / on (x) group_left (y) (b)",
        [
            ("a / on (x) group_left (y) (b)", "/ on (x) group_left (y)"),
            ("a", "a"),
            ("(b)", "(b)"),
            ("b", "b"),
        ],
    ),
    (
        "max_over_time(a[1h:5m] @ end() offset -5m)",
        [
            ("max_over_time(a[1h:5m] @ end() offset -5m)", "max_over_time"),
            ("a[1h:5m] @ end() offset -5m",) * 2,
            ("a", "a"),
        ],
    ),
    ("a > bool b", [("a > bool b", "> bool"), ("a", "a"), ("b", "b")]),
    ("time()", [("time()", "time")]),
    ("f{x=`\\d`} + f", [("f{x=`\\d`} + f", "+"), ("f{x=`\\d`}",) * 2, ("f", "f")]),
]


def _flat(node: Node) -> list[Node]:
    return [node, *(inner for child in node.children for inner in _flat(child))]


@pytest.mark.parametrize(("expr", "places"), PLACED)
def test_nodes_know_their_place(expr: str, places: list[tuple[str, str]]) -> None:
    parsed = tree(expr)
    assert parsed.placed
    found = [(expr[n.start : n.end], expr[n.mark[0] : n.mark[1]]) for n in _flat(parsed.root)]
    assert found == places


def test_places_with_variables_are_those_of_the_written_text() -> None:
    expr = 'sum(rate(foo{job=~"${job:regex}"}[$__rate_interval])) + bar'
    last = _flat(tree(expr).root)[-1]
    assert expr[last.start : last.end] == "bar"
