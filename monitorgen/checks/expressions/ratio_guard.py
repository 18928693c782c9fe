"""Divisions by what may be zero."""

from __future__ import annotations

from collections.abc import Iterator

from promql_parser import AggregateExpr, BinaryExpr, Call, Expr, SubqueryExpr, UnaryExpr, VectorSelector

from monitorgen.checks import tree
from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

_NEVER_ZERO = frozenset({"count", "group", "time", "count_over_time", "present_over_time", "count_values"})


@check("ratio-guard")
def ratio_guard(context: Context) -> Iterator[Finding]:
    """Rules divide only by what cannot be zero: an idle service must not yield NaN or infinity."""
    for subject in context.rules:
        for visit in context.visits(subject.expr):
            node = visit.node
            if tree.operator(node) != "/" or not isinstance(node, BinaryExpr):
                continue
            if not _guarded(context, node.rhs, frozenset()):
                yield subject.finding(
                    "the divisor is 0 when nothing happens", "divide by (... > 0)", span=visit.mark
                )


def _guarded(context: Context, node: Expr, seen: frozenset[str]) -> bool:
    """Whether the node yields no zeros, as far as can be told; gauges that no catalog knows are trusted."""
    node = tree.bare(node)
    value = tree.number(node)
    if value is not None:
        return value != 0
    if isinstance(node, BinaryExpr):
        return _guarded_operator(context, node, seen)
    if isinstance(node, VectorSelector):
        return _guarded_metric(context, node.name or "", seen)
    if isinstance(node, AggregateExpr):
        return tree.operator(node) in _NEVER_ZERO or _guarded(context, node.expr, seen)
    if isinstance(node, Call):
        name = node.func.name
        if name == "clamp_min":
            return (tree.number(node.args[1]) or 0) > 0
        if name in _NEVER_ZERO:
            return True
        if name in tree.RATES or not node.args:
            return False
        return _guarded(context, node.args[-1 if name.startswith(("histogram", "quantile")) else 0], seen)
    if isinstance(node, UnaryExpr | SubqueryExpr):
        return _guarded(context, node.expr, seen)
    return _guarded(context, node.vector_selector, seen) if hasattr(node, "vector_selector") else False


def _guarded_operator(context: Context, node: BinaryExpr, seen: frozenset[str]) -> bool:
    op = tree.operator(node)
    if op in tree.COMPARISONS:
        limit = tree.number(node.rhs)
        if limit is None or tree.is_bool(node):
            return False
        excludes = {">": limit >= 0, ">=": limit > 0, "!=": limit == 0, "<": limit <= 0, "<=": limit < 0}
        return excludes.get(op, limit != 0) or _guarded(context, node.lhs, seen)
    left = _guarded(context, node.lhs, seen)
    if op in ("and", "unless", "/", "^"):
        return left
    right = _guarded(context, node.rhs, seen)
    return (left or right) if op == "+" else (left and right)


def _guarded_metric(context: Context, name: str, seen: frozenset[str]) -> bool:
    if name in context.recorded and name not in seen:
        roots = [context.tree(rule.expr) for rule in context.recorded[name]]
        return all(root is None or _guarded(context, root, seen | {name}) for root in roots)
    return context.family(name) is None
