"""Labels on their way through an expression."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check


@check("label-flow")
def label_flow(context: Context) -> Iterator[Finding]:
    """Joins have labels to match on, groupings have labels to group by, and no branch is impossible."""
    for subject in context.expressions:
        for problem in context.flow(subject.expr).problems:
            yield subject.finding(problem.message, span=(problem.start, problem.end))
