"""Thresholds that are never crossed, or always."""

from __future__ import annotations

from collections.abc import Iterator

from promql_parser import BinaryExpr

from monitorgen.checks import tree
from monitorgen.checks.bounds import Bounds, bounds
from monitorgen.checks.context import Context, RuleSubject
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check


@check("threshold-reachable")
def threshold_reachable(context: Context) -> Iterator[Finding]:
    """Every comparison with a number can be true and can be false, given units and bucket edges."""
    for subject in context.rules:
        for one in tree.comparisons(context.visits(subject.expr)):
            if problem := _problem(context, subject, one):
                yield subject.finding(*problem, span=one.visit.span)


def _problem(context: Context, subject: RuleSubject, one: tree.Comparison) -> tuple[str, str] | None:
    range_ = bounds(context, one.series)
    text = f"{one.op} {one.value:g}"
    if not _possible(range_, one.op, one.value):
        why = range_.reason or f"the values are at least {range_.low:g}"
        return f"{text} can never be true: {why}", "choose a threshold that can be reached"
    if isinstance(one.visit.node, BinaryExpr) and not tree.is_bool(one.visit.node):
        opposite = _OPPOSITES[one.op]
        if not _possible(range_, opposite, one.value):
            return (
                f"{text} is always true: {_span(range_)}",
                "choose a threshold within",
            )
    return None


_OPPOSITES = {">": "<=", ">=": "<", "<": ">=", "<=": ">", "==": "!=", "!=": "=="}


def _possible(range_: Bounds, op: str, value: float) -> bool:
    """Whether some value within the bounds compares like that."""
    low, high = range_.low, range_.high
    if op == ">":
        return high > value
    if op == ">=":
        return high >= value
    if op == "<":
        return low < value
    if op == "<=":
        return low <= value
    if op == "==":
        return low <= value <= high
    return not low == high == value


def _span(range_: Bounds) -> str:
    if range_.high == float("inf"):
        return f"the values are at least {range_.low:g}"
    return f"the values lie between {range_.low:g} and {range_.high:g}"
