"""Averages of ratios."""

from __future__ import annotations

from collections.abc import Iterator

from promql_parser import AggregateExpr, BinaryExpr

from monitorgen.checks import tree
from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check


@check("aggregated-division")
def aggregated_division(context: Context) -> Iterator[Finding]:
    """sum and avg stand inside a division, not around it: a sum of ratios is no ratio of sums."""
    for subject in context.expressions:
        for visit in context.visits(subject.expr):
            node = visit.node
            if not isinstance(node, AggregateExpr) or tree.operator(node) not in ("sum", "avg"):
                continue
            inner = tree.bare(node.expr)
            while isinstance(inner, BinaryExpr) and tree.operator(inner) in ("and", "unless"):
                inner = tree.bare(inner.lhs)
            if not isinstance(inner, BinaryExpr) or tree.operator(inner) != "/":
                continue
            if tree.is_vector(inner.lhs) and tree.is_vector(inner.rhs):
                yield subject.finding(
                    f"{tree.operator(node)} of a ratio weighs idle and busy series alike",
                    "aggregate both sides, then divide",
                    span=visit.mark,
                )
