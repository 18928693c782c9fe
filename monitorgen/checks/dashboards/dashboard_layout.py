"""Where panels stand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import Any, TypeAlias

from monitorgen.bundle import Dashboard
from monitorgen.checks.context import Context, dashboard_subject
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

_COLUMNS = 24
Place: TypeAlias = tuple[str, float, float, float, float]  # title, x, y, width, height


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
        places = _places(dashboard)
        yield from _beyond_the_edge(dashboard, places)
        yield from _overlaps(dashboard, places)


def _beyond_the_edge(dashboard: Dashboard, places: Iterable[Place]) -> Iterator[Finding]:
    for title, x, _, w, _ in places:
        if x < 0 or x + w > _COLUMNS:
            yield dashboard_subject(dashboard).finding(
                f"{title!r} spans the columns {x:g} to {x + w:g}, and the grid has {_COLUMNS}",
                "move it to the left, or make it narrower",
            )


def _overlaps(dashboard: Dashboard, places: Iterable[Place]) -> Iterator[Finding]:
    for (one, x, y, w, h), (other, x2, y2, w2, h2) in combinations(places, 2):
        if x < x2 + w2 and x2 < x + w and y < y2 + h2 and y2 < y + h:
            yield dashboard_subject(dashboard).finding(f"{one!r} and {other!r} overlap", "move one of them")


def _places(dashboard: Dashboard) -> list[Place]:
    """The places of all panels that say where they stand, those in closed rows left out."""
    panels = (dashboard.raw or {}).get("panels")
    written = panels if isinstance(panels, list) else []
    found = [_place(panel) for panel in written if isinstance(panel, Mapping)]
    return [place for place in found if place is not None]


def _place(panel: Mapping[str, Any]) -> Place | None:
    """Title, x, y, width and height of a panel's JSON; None where it does not say."""
    grid = panel.get("gridPos")
    if not isinstance(grid, Mapping):
        return None
    values = [grid.get(key) for key in ("x", "y", "w", "h")]
    if not all(isinstance(value, int | float) for value in values):
        return None
    x, y, w, h = (float(str(value)) for value in values)
    return str(panel.get("title", "")), x, y, w, h
