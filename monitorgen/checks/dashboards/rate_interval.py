"""Windows of queries on dashboards."""

from __future__ import annotations

from collections.abc import Iterator

from promql_parser import MatrixSelector

from monitorgen.checks import tree
from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

_VARIABLES = ("$__rate_interval", "${__rate_interval}")


@check("rate-interval")
def rate_interval(context: Context) -> Iterator[Finding]:
    """Panels rate counters over $__rate_interval, and use it for nothing else."""
    for subject in context.queries:
        ranges = [visit for visit in context.visits(subject.expr) if isinstance(visit.node, MatrixSelector)]
        used = 0
        for visit in ranges:
            start, end = visit.span
            text = subject.expr[start:end]
            rated = bool(visit.calls) and visit.calls[-1] in tree.RATES
            varies = any(variable in text for variable in _VARIABLES)
            used += varies
            if rated and not varies:
                yield subject.finding(
                    f"{visit.calls[-1]}() over a fixed window skips data when the graph is zoomed out",
                    "use [$__rate_interval]",
                    span=visit.span,
                )
            elif varies and not rated:
                yield subject.finding(
                    "$__rate_interval is meant for rate, irate and increase only",
                    "use [$__interval], or a fixed window",
                    span=visit.span,
                )
        if not used and any(variable in subject.expr for variable in _VARIABLES):
            yield subject.finding(
                "$__rate_interval is no window here", "use it in rate(...[$__rate_interval])"
            )
