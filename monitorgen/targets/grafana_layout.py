"""The shape that a dashboard takes in its file: grid positions, panel ids, defaults filled in.

`as_written` gives the dashboard as its JSON says it, so that reading the JSON back gives an equal dashboard.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from monitorgen.bundle import Dashboard, Panel, Query, Row, ThresholdStep, Variable

GRID_WIDTH = 24
BASE_STEP = ThresholdStep(None, "green")
REDUCING = ("stat", "gauge", "bargauge")  # kinds that show one value of each series
_ID_SPACE = 1_000_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a panel or a row's header stands, in grid units."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class PlacedRow:
    """A row with its header's place (None: the row has no header) and the place of each panel."""

    row: Row
    header: Place | None
    panels: tuple[tuple[Panel, Place], ...]


def placed(dashboard: Dashboard) -> Iterator[PlacedRow]:
    """The rows from top to bottom; panels flow from left to right and wrap at 24 columns."""
    y = 0
    for index, row in enumerate(dashboard.rows):
        header = None
        if row.title or row.collapsed or index:
            header = Place(0, y, GRID_WIDTH, 1)
            y += 1
        panels: list[tuple[Panel, Place]] = []
        x = line = 0
        for panel in row.panels:
            if x + panel.width > GRID_WIDTH:
                x, y, line = 0, y + line, 0
            panels.append((panel, Place(x, y, panel.width, panel.height)))
            x += panel.width
            line = max(line, panel.height)
        if not row.collapsed:
            y += line
        elif header:
            y = header.y + 1
        yield PlacedRow(row, header, tuple(panels))


def row_id(dashboard: Dashboard, index: int) -> int:
    """The id of a row's header. Rows take ids above those of panels, so a new row renumbers no panel."""
    return _ID_SPACE + 1 + index


def as_written(dashboard: Dashboard) -> Dashboard:
    """The dashboard with everything that its file says: ids, query letters, labels, base colours."""
    taken = {panel.panel_id for panel in dashboard.panels if panel.panel_id}
    rows = tuple(
        replace(row, panels=tuple(_panel(panel, _panel_id(panel, row, taken)) for panel in row.panels))
        for row in dashboard.rows
    )
    return replace(
        dashboard,
        rows=rows,
        variables=tuple(_variable(variable) for variable in dashboard.variables),
        file=dashboard.file or f"dashboards/{dashboard.uid}.json",
        raw=None,
    )


def _panel_id(panel: Panel, row: Row, taken: set[int]) -> int:
    """A panel's id from its title, so that links to a panel survive when others are added or moved."""
    if panel.panel_id:
        return panel.panel_id
    number = zlib.crc32(panel.title.encode("utf-8", "surrogatepass")) % _ID_SPACE + 1
    while number in taken:
        number = number % _ID_SPACE + 1
    taken.add(number)
    return number


def _panel(panel: Panel, panel_id: int) -> Panel:
    """A panel as its JSON says it: what its kind has no place for is left out."""
    written = replace(
        panel,
        panel_id=panel_id,
        width=min(max(panel.width, 1), GRID_WIDTH),
        height=max(panel.height, 1),
        raw=None,
        queries=_queries(panel),
        steps=panel.steps if panel.steps and panel.steps[0].value is None else (BASE_STEP, *panel.steps),
        calc=panel.calc if panel.kind in REDUCING else "lastNotNull",
        stacked=panel.stacked and panel.kind == "timeseries",
        content=panel.content if panel.kind == "text" else "",
    )
    if panel.kind == "heatmap":
        return replace(written, steps=(), texts=())
    if panel.kind == "text":
        return replace(written, steps=(), texts=(), unit="", minimum=None, maximum=None, decimals=None)
    return written


def _queries(panel: Panel) -> tuple[Query, ...]:
    """The queries with letters of their own; a heatmap's ask for buckets."""
    if panel.kind == "text":
        return ()
    taken = [query.ref_id for query in panel.queries]
    unique = len(set(taken)) == len(taken) and all(taken)
    return tuple(
        replace(
            query,
            ref_id=query.ref_id if unique else _letters(index),
            format="heatmap" if panel.kind == "heatmap" else query.format,
            legend=_legend(query, panel),
        )
        for index, query in enumerate(panel.queries)
    )


def _legend(query: Query, panel: Panel) -> str:
    if panel.kind == "heatmap":
        return query.legend or "{{le}}"
    return "" if query.legend == "__auto" else query.legend


def _letters(index: int) -> str:
    """A, B .. Z, AA, AB .. as Grafana names queries."""
    text = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        text = chr(ord("A") + rest) + text
    return text


def _variable(variable: Variable) -> Variable:
    """A variable with a label that a person reads; only a query has a data source, only 'All' has a value."""
    label = variable.label or variable.name.replace("_", " ").capitalize()
    if variable.kind == "datasource":
        label = variable.label or "Data source"
    return replace(
        variable,
        label=label,
        datasource=variable.datasource if variable.kind in ("query", "adhoc") else "",
        all_value=variable.all_value if variable.include_all else "",
    )
