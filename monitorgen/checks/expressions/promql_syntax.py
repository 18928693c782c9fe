"""Expressions that do not parse."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check
from monitorgen.promql import PromQLError


@check("promql-syntax")
def promql_syntax(context: Context) -> Iterator[Finding]:
    """Every expression parses."""
    for subject in (*context.rules, *context.queries):
        error = context.parsed(subject.expr)
        if isinstance(error, PromQLError):
            yield subject.finding(error.message, "see the place underlined", span=(error.start, error.end))
