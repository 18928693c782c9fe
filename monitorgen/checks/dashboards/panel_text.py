"""Titles and descriptions of panels."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.checks.context import Context
from monitorgen.checks.dashboards.panel_target import needs_targets
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check


@check("panel-text")
def panel_text(context: Context) -> Iterator[Finding]:
    """Every panel has a title and a description."""
    for subject in context.panels:
        if not subject.panel.title.strip() and needs_targets(subject.panel):
            yield subject.finding("no title", "name what it shows")
        if not subject.panel.description.strip() and needs_targets(subject.panel):
            yield subject.finding("no description", "say what is good and what is bad")
