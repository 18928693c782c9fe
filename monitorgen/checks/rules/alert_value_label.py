"""Values in labels."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen import gotemplate
from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check


@check("alert-value-label")
def alert_value_label(context: Context) -> Iterator[Finding]:
    """No label holds the alert's value: each change of it would make a new alert."""
    for subject in context.alerts:
        for name, text in subject.rule.labels:
            if gotemplate.read(text).values:
                yield subject.finding(
                    f"the label {name} holds $value, so the alert's identity flaps",
                    "put the value into an annotation",
                )
