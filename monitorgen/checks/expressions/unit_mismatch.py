"""Units that do not go together."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check


@check("unit-mismatch")
def unit_mismatch(context: Context) -> Iterator[Finding]:
    """What is added, subtracted, compared or alternated has the same unit."""
    for subject in context.expressions:
        for problem in context.units(subject.expr).problems:
            yield subject.finding(problem.message, "convert one of them", span=(problem.start, problem.end))
