"""Dashboards as Grafana's JSON: built with grafanalib, finished by `grafana_mend.mend`, the same every time.

No Grafana server takes part in this project's tests. Where a dashboard is called valid, that means: valid
against the JSON Schemas made from Grafana's own types (see `monitorgen.checks.grafana_schema`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from monitorgen.aside import Aside
from monitorgen.bundle import Dashboard, Variable
from monitorgen.targets.grafana_layout import as_written, placed, row_id

__all__ = ["Drawing", "as_written", "dashboard_json", "dashboard_text", "dashboard_texts", "drawing"]

_SHARED_CROSSHAIR = 1

# Takes dashboards, gives the text of each one.
Drawing: TypeAlias = Aside[[Sequence[Dashboard]], list[str]]


def drawing() -> Drawing:
    """`dashboard_texts` aside: grafanalib takes as long to import as a profile to build."""
    return Aside(dashboard_texts, ready=_import_grafanalib)


def dashboard_texts(dashboards: Sequence[Dashboard]) -> list[str]:
    """The file of each dashboard. InputError for a panel kind that we cannot write."""
    return [dashboard_text(dashboard) for dashboard in dashboards]


def _import_grafanalib() -> None:
    from monitorgen.targets import grafana_mend, grafana_panels  # noqa: F401


def dashboard_json(dashboard: Dashboard) -> dict[str, Any]:
    """The dashboard in Grafana's classic JSON model. InputError for a panel kind that we cannot write."""
    # grafanalib costs 90 ms to import: only those who write a dashboard pay for it.
    import grafanalib.core as G  # noqa: N812

    from monitorgen.targets.grafana_mend import mend

    dashboard = as_written(dashboard)
    built = G.Dashboard(
        uid=dashboard.uid,
        title=dashboard.title,
        description=dashboard.description,
        tags=list(dashboard.tags),
        editable=dashboard.editable,
        refresh=dashboard.refresh,
        time=G.Time(dashboard.time_from, "now"),
        timezone="browser",
        graphTooltip=_SHARED_CROSSHAIR,
        templating=G.Templating(list=[_template(variable) for variable in dashboard.variables]),
        panels=_panels(dashboard),
    )
    return mend(built)


def dashboard_text(dashboard: Dashboard) -> str:
    """The dashboard's file: sorted keys, two spaces, a newline at the end."""
    return json_text(dashboard_json(dashboard))


def json_text(tree: Mapping[str, object]) -> str:
    """JSON as all our files have it. ValueError for NaN and infinities, which JSON does not know."""
    return json.dumps(tree, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _panels(dashboard: Dashboard) -> list[Any]:
    """grafanalib's objects from top to bottom: a row's header, then its panels (or in it, if collapsed)."""
    from monitorgen.targets.grafana_panels import panel_object, row_object

    objects: list[Any] = []
    for index, line in enumerate(placed(dashboard)):
        panels = [panel_object(panel, place) for panel, place in line.panels]
        if line.header is None:
            objects += panels
            continue
        collapsed = line.row.collapsed
        inner = panels if collapsed else []
        objects.append(row_object(line.row.title, collapsed, inner, line.header, row_id(dashboard, index)))
        objects += [] if collapsed else panels
    return objects


def _template(variable: Variable) -> Any:
    """grafanalib's template variable; 'All' is chosen at first where there is one."""
    import grafanalib.core as G  # noqa: N812

    template = G.Template(
        name=variable.name,
        query=variable.query,
        type=variable.kind,
        label=variable.label,
        dataSource={"type": "prometheus", "uid": variable.datasource} if variable.datasource else None,
        multi=variable.multi,
        includeAll=variable.include_all,
        allValue=variable.all_value or None,
        refresh=variable.refresh,
        regex=variable.regex,
        sort=1,
    )
    return {**template.to_json_data(), "current": _current(variable)}


def _current(variable: Variable) -> dict[str, Any]:
    """What is chosen when the dashboard is opened first; empty lets Grafana choose."""
    if variable.include_all:
        return (
            {"text": ["All"], "value": ["$__all"]} if variable.multi else {"text": "All", "value": "$__all"}
        )
    if variable.kind in ("custom", "interval"):
        first = variable.query.split(",")[0].strip()
        return {"text": first, "value": first}
    if variable.kind in ("constant", "textbox"):
        return {"text": variable.query, "value": variable.query}
    return {}
