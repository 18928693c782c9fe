"""The severity label of alerts."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

SEVERITIES = ("critical", "warning", "info")


@check("alert-severity")
def alert_severity(context: Context) -> Iterator[Finding]:
    """Every alert has a severity: critical, warning or info."""
    for subject in context.alerts:
        severity = dict(subject.rule.labels).get("severity", "")
        if severity not in SEVERITIES:
            said = f"the severity is {severity!r}" if severity else "no severity"
            yield subject.finding(said, f"label it {', '.join(SEVERITIES[:-1])} or {SEVERITIES[-1]}")
