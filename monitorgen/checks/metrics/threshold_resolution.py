"""Thresholds that buckets cannot resolve."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.checks import tree
from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check


@check("threshold-resolution")
def threshold_resolution(context: Context) -> Iterator[Finding]:
    """No alert's threshold on a quantile lies below the lowest bucket edge, where nothing is measured."""
    for subject in context.alerts:
        for one in tree.comparisons(context.visits(subject.expr)):
            edges = _lowest(context, one.series.prettify())
            if edges and 0 < one.value < min(edges):
                yield subject.finding(
                    f"{one.value:g} lies below {min(edges):g}, the lowest bucket edge: too fine to measure",
                    "use a threshold above the lowest edge",
                    span=one.visit.span,
                )


def _lowest(context: Context, expr: str, seen: frozenset[str] = frozenset()) -> list[float]:
    """The lowest edges of the histograms whose quantile the expression is; nothing for others."""
    root = context.tree(expr)
    if root is None:
        return []
    node = tree.bare(root)
    name = str(getattr(node, "name", ""))
    if name in context.recorded:
        rules = context.recorded[name] if name not in seen else ()
        return [edge for rule in rules for edge in _lowest(context, rule.expr, seen | {name})]
    if tree.called(node) != "histogram_quantile":
        return []
    families = [context.family(name) for name in tree.names(node)]
    return [family.edges[0] for family in families if family and family.edges]
