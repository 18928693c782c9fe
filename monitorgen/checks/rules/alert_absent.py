"""Alerts about what is gone."""

from __future__ import annotations

from collections.abc import Iterator

from promql_parser import Call, MatchOp, VectorSelector

from monitorgen.checks import tree
from monitorgen.checks.context import AlertSubject, Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check
from monitorgen.promql import format_duration


@check("alert-absent")
def alert_absent(context: Context) -> Iterator[Finding]:
    """absent() keeps an identity through `=` matchers, and waits longer than one missed scrape."""
    for subject in context.alerts:
        for visit in context.visits(subject.expr):
            node = visit.node
            if isinstance(node, Call) and node.func.name in ("absent", "absent_over_time"):
                yield from _problems(context, subject, node, visit.mark)


def _problems(
    context: Context, subject: AlertSubject, node: Call, span: tuple[int, int]
) -> Iterator[Finding]:
    selectors = [one for one in tree.walk(node) if isinstance(one, VectorSelector)]
    pinned = any(m.op == MatchOp.Equal and m.value for s in selectors for m in s.matchers.matchers)
    if not pinned:
        yield subject.finding(
            f"{node.func.name}() without an equality matcher yields no labels: nobody learns what is gone",
            'select job="..." with `=`, or use `up unless on (job, instance) ...`',
            severity="warning",
            span=span,
        )
    for selector in selectors:
        interval = context.scrape_interval(selector.name or "")
        if node.func.name == "absent" and 0 < subject.rule.hold < 2 * interval:
            yield subject.finding(
                f"absent() with `for` of {format_duration(subject.rule.hold)} fires after one missed scrape"
                f" of {format_duration(interval)}",
                f"wait for at least {format_duration(2 * interval)}",
                span=span,
            )
