"""Divisions of rates."""

from __future__ import annotations

from collections.abc import Iterator

from promql_parser import BinaryExpr, Expr

from monitorgen.checks import tree
from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check
from monitorgen.promql import format_duration, selectors


@check("division-alike")
def division_alike(context: Context) -> Iterator[Finding]:
    """Both sides of a division are rated by the same function over the same window."""
    for subject in context.expressions:
        for visit in context.visits(subject.expr):
            node = visit.node
            if not isinstance(node, BinaryExpr) or tree.operator(node) != "/":
                continue
            (functions, windows), (others, other_windows) = _rated(node.lhs), _rated(node.rhs)
            if functions and others and functions != others:
                yield subject.finding(
                    f"{' and '.join(sorted(functions))} is divided by {' and '.join(sorted(others))}",
                    "use the same function on both sides",
                    span=visit.mark,
                )
            elif windows and other_windows and windows != other_windows:
                yield subject.finding(
                    f"a rate over {_listed(windows)} is divided by one over {_listed(other_windows)}",
                    "use the same window on both sides",
                    span=visit.mark,
                )


def _rated(node: Expr) -> tuple[set[str], set[float]]:
    """The rating functions of a side, and their windows."""
    rated = [selector for selector in selectors(node.prettify()) if selector.function in tree.RATES]
    return {selector.function for selector in rated}, {selector.range for selector in rated}


def _listed(windows: set[float]) -> str:
    return ", ".join(format_duration(window) for window in sorted(windows))
