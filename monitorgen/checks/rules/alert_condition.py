"""Alerts whose expression asks nothing."""

from __future__ import annotations

from collections.abc import Iterator

from promql_parser import AggregateExpr, BinaryExpr, Call, Expr

from monitorgen.checks import tree
from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check


@check("alert-condition")
def alert_condition(context: Context) -> Iterator[Finding]:
    """An alert's expression has a condition: it yields nothing while all is well."""
    for subject in context.alerts:
        root = context.tree(subject.expr)
        if root is not None and not _conditional(root):
            yield subject.finding(
                "the expression has no condition: it fires for every series that there is",
                "compare it with a threshold",
            )


def _conditional(node: Expr) -> bool:
    """Whether the node may yield nothing although its series are there."""
    node = tree.bare(node)
    if isinstance(node, BinaryExpr):
        op = tree.operator(node)
        if op == "unless":
            return True
        if op == "or":
            return _conditional(node.lhs) and _conditional(node.rhs)
        if op in tree.COMPARISONS and not tree.is_bool(node):
            return True
        return _conditional(node.lhs) or _conditional(node.rhs)
    if isinstance(node, Call):
        if node.func.name in ("absent", "absent_over_time"):
            return True
        return any(_conditional(argument) for argument in node.args)
    return isinstance(node, AggregateExpr) and _conditional(node.expr)
