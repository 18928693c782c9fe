"""Alerts that compare with `bool`."""

from __future__ import annotations

from collections.abc import Iterator

from promql_parser import BinaryExpr

from monitorgen.checks import tree
from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check


@check("alert-bool")
def alert_bool(context: Context) -> Iterator[Finding]:
    """An alert's condition does not compare with `bool`, which filters nothing and so always fires."""
    for subject in context.alerts:
        root = context.tree(subject.expr)
        if root is None:
            continue
        top = tree.condition(root)
        branches = [top]
        while branches:
            node = tree.bare(branches.pop())
            if isinstance(node, BinaryExpr) and tree.operator(node) == "or":
                branches += [tree.condition(node.lhs), tree.condition(node.rhs)]
            elif tree.is_bool(node):
                yield subject.finding("`bool` yields 0 and 1, so the alert always fires", "drop `bool`")
