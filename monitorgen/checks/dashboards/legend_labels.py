"""Legends."""

from __future__ import annotations

import re
from collections.abc import Iterator

from monitorgen.checks.context import Context, QuerySubject
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

LEGEND_LABEL = re.compile(r"\{\{\s*([a-zA-Z_]\w*)\s*\}\}")


@check("legend-labels")
def legend_labels(context: Context) -> Iterator[Finding]:
    """Legends are valid templates, and name labels that the query yields."""
    for subject in context.queries:
        legend = subject.query.legend
        rest = LEGEND_LABEL.sub("", legend)
        if "{" in rest or "}" in rest or "[[" in rest:
            yield subject.finding(f"the legend {legend!r} is no template", "write {{label}}")
        elif context.tree(subject.expr) is not None:
            yield from _missing(context, subject, legend)


def _missing(context: Context, subject: QuerySubject, legend: str) -> Iterator[Finding]:
    yields = context.yields(subject.expr)
    for label in LEGEND_LABEL.findall(legend):
        if label != "__name__" and not yields.possible(label):
            listed = ", ".join(sorted(yields.always | yields.maybe)) or "none"
            yield subject.finding(
                f"the legend shows {label}, which the query does not yield", f"it yields: {listed}"
            )
