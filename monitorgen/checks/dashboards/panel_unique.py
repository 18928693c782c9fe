"""Panels that cannot be told apart."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check


@check("panel-unique")
def panel_unique(context: Context) -> Iterator[Finding]:
    """No two panels of a dashboard have the same title or the same number."""
    for dashboard in context.bundle.dashboards:
        titles: set[str] = set()
        numbers: set[int] = set()
        for subject in (one for one in context.panels if one.dashboard is dashboard):
            title, number = subject.panel.title.strip(), subject.panel.panel_id
            if title and title in titles:
                yield subject.finding("another panel has this title", "say what differs")
            if number and number in numbers:
                yield subject.finding(f"another panel has the number {number}", "number them anew")
            titles.add(title)
            numbers.add(number)
