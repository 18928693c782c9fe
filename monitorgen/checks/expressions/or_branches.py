"""Alternatives: `new or old`."""

from __future__ import annotations

from collections.abc import Iterator

from promql_parser import BinaryExpr, Call, Expr

from monitorgen.checks import tree
from monitorgen.checks.context import AlertSubject, Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

_DEFAULTS = frozenset({"vector", "absent", "absent_over_time"})


@check("or-branches")
def or_branches(context: Context) -> Iterator[Finding]:
    """Alternatives of an `or` yield the same labels, and are computed alike if they differ in names only."""
    for subject in context.expressions:
        for visit in context.visits(subject.expr):
            node = visit.node
            if not isinstance(node, BinaryExpr) or tree.operator(node) != "or":
                continue
            if isinstance(subject, AlertSubject) or _default(node.lhs) or _default(node.rhs):
                continue
            if problem := _labels(context, node) or _computed(node):
                yield subject.finding(*problem, span=visit.mark)


def _default(node: Expr) -> bool:
    node = tree.bare(node)
    return isinstance(node, Call) and node.func.name in _DEFAULTS


def _labels(context: Context, node: BinaryExpr) -> tuple[str, str] | None:
    """`or` adds the series whose labels the left side has not: where labels differ, all of them."""
    left, right = context.yields(node.lhs.prettify()), context.yields(node.rhs.prettify())
    if left.open or right.open:
        return None
    odd = {
        label
        for one, other in ((left, right), (right, left))
        for label in one.always
        if not other.possible(label)
    }
    if not odd:
        return None
    return (
        f"only one side of `or` has the label {', '.join(sorted(odd))}, so both sides are kept",
        "group both sides by the same labels",
    )


def _computed(node: BinaryExpr) -> tuple[str, str] | None:
    """Branches of the same shape that call different functions."""
    left, right = _words(node.lhs), _words(node.rhs)
    differing = [(a, b) for a, b in zip(left, right, strict=False) if a != b]
    if len(left) != len(right) or not differing:
        return None
    return f"one side of `or` has {differing[0][0]}, the other {differing[0][1]}", "compute both sides alike"


def _words(node: Expr) -> list[str]:
    """The functions, aggregations, operators and constants of a node, outermost first."""
    return [
        word for one in tree.walk(node) if (word := tree.called(one) or tree.operator(one) or _constant(one))
    ]


def _constant(node: Expr) -> str:
    value = tree.number(node)
    return "" if value is None else f"{value:g}"
