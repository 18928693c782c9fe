"""Series with the same legend."""

from __future__ import annotations

from collections.abc import Iterator

from promql_parser import MatchOp, VectorSelector

from monitorgen.checks.context import Context, QuerySubject
from monitorgen.checks.dashboards.legend_labels import LEGEND_LABEL
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check


@check("legend-distinct")
def legend_distinct(context: Context) -> Iterator[Finding]:
    """No two series of a panel have the same legend: it shows each label that may tell them apart."""
    seen: dict[tuple[int, str], str] = {}
    for subject in context.queries:
        query, legend = subject.query, subject.query.legend
        if not legend or legend == "__auto" or query.format == "table" or query.hidden:
            continue
        first = seen.setdefault((id(subject.panel), legend), query.ref_id)
        if first != query.ref_id:
            yield subject.finding(
                f"queries {first} and {query.ref_id} have the same legend", "tell them apart"
            )
        if context.tree(subject.expr) is not None:
            yield from _hidden(context, subject)


def _hidden(context: Context, subject: QuerySubject) -> Iterator[Finding]:
    yields = context.yields(subject.expr)
    if yields.open:
        return
    shown = set(LEGEND_LABEL.findall(subject.query.legend))
    some = {label for label in yields.maybe if _is_own(context, subject.expr, label)}
    omitted = (yields.always | some) - shown - _pinned(context, subject.expr)
    if "instance" in shown:
        # An instance has one job and one set of target labels.
        omitted = frozenset(label for label in omitted if _is_own(context, subject.expr, label))
    if omitted:
        yield subject.finding(
            f"series that differ in {', '.join(sorted(omitted))} have the same legend",
            f"add {{{{{min(omitted)}}}}} to the legend, or aggregate",
        )


def _is_own(context: Context, expr: str, label: str) -> bool:
    """Whether the label comes from an engine, not from the scrape."""
    return any(
        label in family.labels
        for source in context.source_exprs(expr)
        for selector in context.selectors(source)
        for _, family in context.families(selector.name)
    )


def _pinned(context: Context, expr: str) -> set[str]:
    """The labels that every selector fixes to one value."""
    fixed = [
        {
            m.name
            for m in visit.node.matchers.matchers
            if m.op == MatchOp.Equal and not m.value.startswith("$")
        }
        for visit in context.visits(expr)
        if isinstance(visit.node, VectorSelector)
    ]
    return set.intersection(*fixed) if fixed else set()
