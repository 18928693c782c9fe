"""Histograms: buckets in, quantiles out."""

from __future__ import annotations

from collections.abc import Iterator

from promql_parser import AggregateExpr, Call, VectorSelector

from monitorgen.checks import tree
from monitorgen.checks.context import Context, QuerySubject, RuleSubject
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

_READERS = frozenset({"histogram_quantile", "histogram_fraction"})


@check("histogram-buckets")
def histogram_buckets(context: Context) -> Iterator[Finding]:
    """histogram_quantile reads sums of buckets, and nothing adds buckets up over `le`."""
    for subject in context.expressions:
        for visit in context.visits(subject.expr):
            if isinstance(visit.node, Call) and visit.node.func.name == "histogram_quantile":
                yield from _quantile(context, subject, visit, visit.node)
            elif isinstance(visit.node, AggregateExpr) and tree.operator(visit.node) != "count":
                yield from _summed(context, subject, visit, visit.node)


def _quantile(
    context: Context, subject: RuleSubject | QuerySubject, visit: tree.Visit, call: Call
) -> Iterator[Finding]:
    for node in tree.walk(call.args[1]):
        if isinstance(node, AggregateExpr) and tree.operator(node) != "sum":
            yield subject.finding(
                f"histogram_quantile over {tree.operator(node)} of buckets: only their sum is a histogram",
                "use sum by (le, ...)",
                span=visit.mark,
            )
        name = node.name if isinstance(node, VectorSelector) else None
        family = context.family(name or "")
        if name and family and family.type != "unknown" and name != f"{family.name}_bucket":
            yield subject.finding(
                f"histogram_quantile reads {name}, which is no bucket",
                "read the _bucket series",
                span=visit.mark,
            )


def _summed(
    context: Context, subject: RuleSubject | QuerySubject, visit: tree.Visit, node: AggregateExpr
) -> Iterator[Finding]:
    """Buckets are cumulative: adding them up over `le` counts each observation many times."""
    if _READERS & set(visit.calls):
        return
    if tree.operator(node) in ("max", "min", "avg"):
        for name, _ in _bucket_names(context, node):
            yield subject.finding(
                f"{tree.operator(node)} of {name}: only the sum of buckets is a histogram",
                "use sum by (le, ...)",
                span=visit.mark,
            )
        return
    kind, labels = tree.grouping(node)
    kept = ("le" in labels) == (kind == "by")
    for name, pinned in _bucket_names(context, node):
        if not kept and not pinned:
            yield subject.finding(
                f"{name} is aggregated over le, which counts each observation in many buckets",
                'pick a bucket with le="...", or read the _count series',
                span=visit.mark,
            )


def _bucket_names(context: Context, node: AggregateExpr) -> Iterator[tuple[str, bool]]:
    """The buckets that an aggregation reads, and whether each is pinned to one `le`."""
    for below in tree.walk(node.expr):
        if isinstance(below, Call) and below.func.name in _READERS:
            return
        if isinstance(below, VectorSelector) and below.name:
            family = context.family(below.name)
            if family and family.type == "histogram" and below.name.endswith("_bucket"):
                yield below.name, any(m.name == "le" for m in below.matchers.matchers)
