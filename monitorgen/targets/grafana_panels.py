"""One builder a panel kind: from our `Panel` to grafanalib's object. What comes out still needs `mend`.

grafanalib takes long to import, so this module is imported where a dashboard is made, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grafanalib.core as G  # noqa: N812 (the library's own habit)

from monitorgen.bundle import Panel, Query
from monitorgen.errors import InputError
from monitorgen.targets.grafana_layout import Place

_LEGEND_CALCS = ["lastNotNull", "mean", "max"]
_LEGEND_TABLE_WIDTH = 8  # narrower panels have no room for a table
_HIDDEN_COLUMNS = ("Time", "__name__")


def panel_object(panel: Panel, place: Place) -> Any:
    """grafanalib's object for a panel that stands at `place`. InputError for a kind that we cannot write."""
    builder = _BUILDERS.get(panel.kind)
    if builder is None:
        known = ", ".join(sorted(_BUILDERS))
        raise InputError(
            f"panel {panel.title!r}: kind {panel.kind!r} cannot be written",
            origin=panel.origin,
            hint=f"use one of {known}",
        )
    return builder(panel, _common(panel, place))


def row_object(title: str, collapsed: bool, panels: list[Any], place: Place, panel_id: int) -> Any:
    """grafanalib's object for a row's header; a collapsed row holds its panels."""
    return G.RowPanel(
        title=title, collapsed=collapsed, panels=panels, gridPos=_grid(place), id=panel_id, maxDataPoints=None
    )


def _grid(place: Place) -> Any:
    return G.GridPos(h=place.height, w=place.width, x=place.x, y=place.y)


def _datasource(uid: str) -> dict[str, str]:
    return {"type": "prometheus", "uid": uid}


def _common(panel: Panel, place: Place) -> dict[str, Any]:
    """What every kind takes."""
    return {
        "title": panel.title,
        "description": panel.description,
        "gridPos": _grid(place),
        "id": panel.panel_id,
        "maxDataPoints": None,
        "dataSource": _datasource(panel.datasource),
        "targets": [_target(query) for query in panel.queries],
    }


def _target(query: Query) -> Any:
    return G.Target(
        expr=query.expr,
        legendFormat=query.legend or "__auto",
        refId=query.ref_id,
        format=query.format,
        instant=query.instant,
        hide=query.hidden,
        datasource=_datasource(query.datasource),
    )


def _defaults(panel: Panel) -> dict[str, Any]:
    """`fieldConfig.defaults` of kinds that show values; raw, for grafanalib takes whole numbers only."""
    defaults: dict[str, Any] = {
        "unit": panel.unit or None,
        "min": panel.minimum,
        "max": panel.maximum,
        "decimals": panel.decimals,
        "thresholds": {
            "mode": "absolute",
            "steps": [{"color": step.color, "value": step.value} for step in panel.steps],
        },
        "mappings": _mappings(panel),
    }
    return defaults


def _mappings(panel: Panel) -> list[dict[str, Any]]:
    if not panel.texts:
        return []
    options = {value: {"index": index, "text": text} for index, (value, text) in enumerate(panel.texts)}
    return [{"type": "value", "options": options}]


def _reduce(panel: Panel) -> dict[str, Any]:
    return {"calcs": [panel.calc], "fields": "", "values": False}


def _timeseries(panel: Panel, common: Mapping[str, Any]) -> Any:
    table = panel.width >= _LEGEND_TABLE_WIDTH
    crossed = any(step.value is not None for step in panel.steps)
    return G.TimeSeries(
        **common,
        fillOpacity=30 if panel.stacked else 10,
        stacking={"group": "A", "mode": "normal" if panel.stacked else "none"},
        showPoints="never",
        legendDisplayMode="table" if table else "list",
        legendCalcs=_LEGEND_CALCS if table else [],
        tooltipMode="multi",
        tooltipSort="desc",
        thresholdsStyleMode="dashed" if crossed else "off",
        extraJson={
            "fieldConfig": {"defaults": _defaults(panel)},
            "options": {"legend": {"showLegend": True}},
        },
    )


def _stat(panel: Panel, common: Mapping[str, Any]) -> Any:
    return G.Stat(
        **common,
        reduceCalc=panel.calc,
        noValue=None,
        graphMode="area",
        colorMode="value",
        color={"mode": "thresholds"},
        extraJson={"fieldConfig": {"defaults": _defaults(panel)}, "options": {"wideLayout": True}},
    )


def _gauge(panel: Panel, common: Mapping[str, Any]) -> Any:
    options = {
        "orientation": "auto",
        "reduceOptions": _reduce(panel),
        "showThresholdLabels": False,
        "showThresholdMarkers": True,
        "sizing": "auto",
    }
    defaults = {**_defaults(panel), "color": {"mode": "thresholds"}}
    return G.GaugePanel(**common, extraJson={"fieldConfig": {"defaults": defaults}, "options": options})


def _bargauge(panel: Panel, common: Mapping[str, Any]) -> Any:
    options = {
        "displayMode": "gradient",
        "orientation": "horizontal",
        "namePlacement": "auto",
        "reduceOptions": _reduce(panel),
        "showUnfilled": True,
        "sizing": "auto",
        "valueMode": "color",
    }
    defaults = {**_defaults(panel), "color": {"mode": "thresholds"}}
    field_config = {"defaults": defaults, "overrides": []}
    return G.BarGauge(**common, extraJson={"fieldConfig": field_config, "options": options})


def _table(panel: Panel, common: Mapping[str, Any]) -> Any:
    """Instant queries side by side: joined into one table, without the columns that say nothing."""
    organize = {
        "id": "organize",
        "options": {
            "excludeByName": dict.fromkeys(_HIDDEN_COLUMNS, True),
            "indexByName": {},
            "renameByName": {},
        },
    }
    return G.Table(
        **common,
        transformations=[{"id": "merge", "options": {}}, organize],
        extraJson={
            "fieldConfig": {"defaults": {**_defaults(panel), "color": {"mode": "thresholds"}}},
            "options": {"cellHeight": "sm"},
        },
    )


def _text(panel: Panel, common: Mapping[str, Any]) -> Any:
    return G.Text(**common, content=panel.content, mode="markdown")


def _heatmap(panel: Panel, common: Mapping[str, Any]) -> dict[str, Any]:
    """The modern heatmap over `le` buckets; grafanalib's Heatmap is the Angular one, so its base is used."""
    y_axis = {
        "axisPlacement": "left",
        "reverse": False,
        "unit": panel.unit or None,
        "min": panel.minimum,
        "max": panel.maximum,
        "decimals": panel.decimals,
    }
    options = {
        "calculate": False,
        "cellGap": 1,
        "cellValues": {"unit": "short"},
        "color": {
            "exponent": 0.5,
            "fill": "dark-orange",
            "mode": "scheme",
            "reverse": False,
            "scale": "exponential",
            "scheme": "Oranges",
            "steps": 64,
        },
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": True},
        "yAxis": y_axis,
    }
    hide = {"legend": False, "tooltip": False, "viz": False}
    field_config = {
        "defaults": {"custom": {"hideFrom": hide, "scaleDistribution": {"type": "linear"}}},
        "overrides": [],
    }
    json = G.Panel(**common).panel_json({"type": "heatmap", "options": options})
    json["fieldConfig"] = field_config
    return dict(json)


_BUILDERS: dict[str, Callable[[Panel, Mapping[str, Any]], Any]] = {
    "timeseries": _timeseries,
    "stat": _stat,
    "gauge": _gauge,
    "bargauge": _bargauge,
    "table": _table,
    "text": _text,
    "heatmap": _heatmap,
}
