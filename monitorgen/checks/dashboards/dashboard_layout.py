"""Where panels stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from monitorgen.bundle import Dashboard
from monitorgen.checks.context import Context, dashboard_subject
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

_COLUMNS = 24


@check("dashboard-layout")
def dashboard_layout(context: Context) -> Iterator[Finding]:
    """Panels fit into the 24 columns of the grid and do not overlap."""
    for subject in context.panels:
        if not 1 <= subject.panel.width <= _COLUMNS or subject.panel.height < 1:
            yield subject.finding(
                f"it is {subject.panel.width} by {subject.panel.height} units",
                f"use 1 to {_COLUMNS} columns, and a row or more",
            )
    for dashboard in context.bundle.dashboards:
        yield from _overlaps(dashboard)


def _overlaps(dashboard: Dashboard) -> Iterator[Finding]:
    panels = (dashboard.raw or {}).get("panels")
    places = (
        [_place(panel) for panel in panels if isinstance(panel, Mapping)] if isinstance(panels, list) else []
    )
    for (one, x, y, w, h), (other, x2, y2, w2, h2) in combinations(filter(None, places), 2):
        if x < x2 + w2 and x2 < x + w and y < y2 + h2 and y2 < y + h:
            yield dashboard_subject(dashboard).finding(f"{one!r} and {other!r} overlap", "move one of them")


def _place(panel: Mapping[str, Any]) -> tuple[str, float, float, float, float] | None:
    """Title, x, y, width and height of a panel's JSON; None where it does not say."""
    grid = panel.get("gridPos")
    if not isinstance(grid, Mapping):
        return None
    values = [grid.get(key) for key in ("x", "y", "w", "h")]
    if not all(isinstance(value, int | float) for value in values):
        return None
    x, y, w, h = (float(str(value)) for value in values)
    return str(panel.get("title", "")), x, y, w, h
