"""Quantiles are shares."""

from __future__ import annotations

from collections.abc import Iterator

from promql_parser import AggregateExpr, Call

from monitorgen.checks import tree
from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check


@check("quantile-range")
def quantile_range(context: Context) -> Iterator[Finding]:
    """Quantiles lie between 0 and 1."""
    for subject in context.expressions:
        for visit in context.visits(subject.expr):
            node, value = visit.node, None
            if isinstance(node, Call) and node.func.name in ("histogram_quantile", "quantile_over_time"):
                value = tree.number(node.args[0])
            elif isinstance(node, AggregateExpr) and tree.operator(node) == "quantile":
                value = tree.number(node.param) if node.param else None
            if value is not None and not 0 <= value <= 1:
                hint = f"write {value / 100:g}" if 1 < value <= 100 else "use 0 to 1"
                yield subject.finding(f"{value:g} is no quantile", hint, span=visit.mark)
