"""Aggregations that do not fit what they aggregate."""

from __future__ import annotations

from collections.abc import Iterator

from promql_parser import AggregateExpr, Call, Expr, MatrixSelector, VectorSelector

from monitorgen.checks import tree
from monitorgen.checks.context import SCRAPE_LABELS, Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

_SHARES = frozenset({"ratio", "percent"})


@check("aggregation-fits")
def aggregation_fits(context: Context) -> Iterator[Finding]:
    """Within a target, rates of counters are summed; shares are not summed, nor are gauges over time."""
    for subject in context.expressions:
        for visit in context.visits(subject.expr):
            problem = None
            if isinstance(visit.node, AggregateExpr):
                problem = _of_rates(context, visit.node) or _of_shares(context, visit.node)
            elif isinstance(visit.node, Call) and visit.node.func.name == "sum_over_time":
                problem = _over_time(context, visit.node.args[0])
            if problem:
                yield subject.finding(*problem, span=visit.mark)


def _of_rates(context: Context, node: AggregateExpr) -> tuple[str, str] | None:
    """The series of one target are parts of a whole (one per engine, reason, ...): their rates add up."""
    inner = tree.bare(node.expr)
    if tree.operator(node) not in ("max", "min", "avg") or not isinstance(inner, Call):
        return None
    if inner.func.name not in tree.RATES or not isinstance(inner.args[0], MatrixSelector):
        return None
    name = inner.args[0].vector_selector.name or ""
    family = context.family(name)
    kind, labels = tree.grouping(node)
    if family is None or not context.counts(name) or kind != "by" or not set(SCRAPE_LABELS) <= set(labels):
        return None
    lost = sorted(set(family.labels) - set(labels))
    if not lost:
        return None
    return (
        f"{tree.operator(node)} of rates over {', '.join(lost)}: within a target they are parts of a whole",
        "use sum",
    )


def _of_shares(context: Context, node: AggregateExpr) -> tuple[str, str] | None:
    inner = tree.bare(node.expr)
    if tree.operator(node) != "sum" or not _stored(inner):
        return None
    unit = context.unit(inner.prettify())
    rated = isinstance(inner, Call) and inner.func.name in tree.RATES
    if unit not in _SHARES or rated:
        return None
    return f"a sum of values in {unit} is none itself", "use max or avg"


def _stored(node: Expr) -> bool:
    """Whether the node is a metric, or a metric over time: divisions are another check's affair."""
    return isinstance(node, VectorSelector) or (
        isinstance(node, Call) and bool(node.args) and isinstance(node.args[0], MatrixSelector)
    )


def _over_time(context: Context, argument: Expr) -> tuple[str, str] | None:
    name = argument.vector_selector.name if isinstance(argument, MatrixSelector) else None
    family = context.family(name or "")
    if family is None or family.type != "gauge" or family.unit in ("bool", "events"):
        return None
    return f"the sum of {name} over time depends on how often it is scraped", "use avg_over_time"
