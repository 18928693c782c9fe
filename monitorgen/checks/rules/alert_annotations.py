"""Annotations that every alert has."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

WANTED = ("summary", "description", "runbook_url")


@check("alert-annotations")
def alert_annotations(context: Context) -> Iterator[Finding]:
    """Every alert has a summary, a description and a runbook_url."""
    for subject in context.alerts:
        annotations = dict(subject.rule.annotations)
        for name in WANTED:
            if not annotations.get(name, "").strip():
                yield subject.finding(f"no {name}", f"add the annotation {name}")
