"""Expressions that older servers refuse."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen import promql
from monitorgen.checks.context import Context, QuerySubject
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check


@check("portable-promql")
def portable_promql(context: Context) -> Iterator[Finding]:
    """Expressions use only what Prometheus 2.42 and 3.5 both know, and rules use no Grafana variables."""
    for subject in context.expressions:
        for problem in promql.portable(subject.expr, grafana=isinstance(subject, QuerySubject)):
            yield subject.finding(problem.message, span=(problem.start, problem.end))
