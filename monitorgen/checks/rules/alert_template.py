"""Templates in annotations and labels."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen import gotemplate
from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check


@check("alert-template")
def alert_template(context: Context) -> Iterator[Finding]:
    """Templates in annotations and labels are valid: braces, blocks, functions and variables."""
    for subject in context.alerts:
        for name, text in (*subject.rule.annotations, *subject.rule.labels):
            for problem in gotemplate.read(text).problems:
                yield subject.finding(
                    f"{name}: {problem}", "write {{ $labels.x }} and {{ $value | humanize }}"
                )
