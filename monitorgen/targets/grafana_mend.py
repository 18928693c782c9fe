"""One function that turns grafanalib's output into what today's Grafana stores itself.

grafanalib 0.7 writes the dashboard model of schema version 12: nulls everywhere, keys of Angular panels,
field options where Grafana 7 had them, and the string "null" for the first threshold. Grafana would migrate
most of that on load, each time, and get the thresholds wrong.
"""

from __future__ import annotations

from typing import Any

SCHEMA_VERSION = 41

_STALE = {
    part: frozenset(keys.split())
    for part, keys in {
        "dashboard": "__inputs gnetId hideControls id rows sharedCrosshair style timepicker version",
        "panel": """cacheTimeout color columns editable error fontSize height hideTimeOverride interval links
            mappings minSpan span timeFrom timeShift transparent""",
        "row": "datasource description fieldConfig targets transformations",
        "text": "datasource fieldConfig targets transformations",
        "defaults": "calcs limit links override title values",
        "target": "interval intervalFactor metric query step target",
        "variable": "tagValuesQuery tagsQuery useTags",
        "custom": "displayMode",
        "options": "fieldOptions",
        "step": "index line op yaxis",
    }.items()
}


def mend(tree: Any) -> dict[str, Any]:
    """grafanalib's dashboard (objects, dicts and lists) as the JSON that Grafana stores."""
    dashboard = _without(_plain(tree), "dashboard")
    dashboard["schemaVersion"] = SCHEMA_VERSION
    dashboard["panels"] = [_panel(panel) for panel in dashboard["panels"]]
    dashboard["templating"] = {"list": [_variable(v) for v in dashboard["templating"]["list"]]}
    return dashboard


def _plain(value: Any) -> Any:
    """Plain data: grafanalib's objects resolved, nulls left out, whole floats as integers.

    A threshold's first value stays null: it stands for minus infinity.
    """
    if hasattr(value, "to_json_data"):
        value = value.to_json_data()
    if isinstance(value, dict):
        step = "color" in value and "value" in value
        return {k: _plain(v) for k, v in value.items() if v is not None or (step and k == "value")}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def _without(tree: dict[str, Any], part: str) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if key not in _STALE[part]}


def _panel(panel: dict[str, Any]) -> dict[str, Any]:
    panel = _without(panel, "panel")
    if panel["type"] == "row":
        panel = _without(panel, "row")
        panel["panels"] = [_panel(inner) for inner in panel["panels"]]
        return panel
    if panel["type"] == "text":
        return _without(panel, "text")
    panel["targets"] = [_target(target) for target in panel["targets"]]
    if not panel.get("transformations"):
        panel.pop("transformations", None)
    panel["fieldConfig"] = _field_config(panel["fieldConfig"], panel["type"])
    if panel["type"] != "heatmap":
        panel["options"] = _options(panel)
    return panel


def _field_config(config: dict[str, Any], kind: str) -> dict[str, Any]:
    defaults = _without(config["defaults"], "defaults")
    if "thresholds" in defaults:
        steps = [_step(step, first=not index) for index, step in enumerate(defaults["thresholds"]["steps"])]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    if kind == "table":
        defaults["custom"] = {**_without(defaults["custom"], "custom"), "cellOptions": {"type": "auto"}}
    elif "custom" in defaults:
        defaults["custom"].get("scaleDistribution", {}).pop("log", None)
    return {"defaults": defaults, "overrides": config.get("overrides", [])}


def _step(step: dict[str, Any], *, first: bool) -> dict[str, Any]:
    step = _without(step, "step")
    if step.get("value") == "null":
        step["value"] = None
    return {**step, "value": None} if first else step


def _options(panel: dict[str, Any]) -> dict[str, Any]:
    options = _without(panel["options"], "options")
    if panel["type"] == "bargauge":
        options.pop("showThresholdLabels", None)
        options.pop("showThresholdMarkers", None)
    return options


def _target(target: dict[str, Any]) -> dict[str, Any]:
    target = _without(target, "target")
    if not target.get("hide"):
        target.pop("hide", None)
    target["editorMode"] = "code"
    target["range"] = not target["instant"]
    return target


def _variable(variable: dict[str, Any]) -> dict[str, Any]:
    """A variable without the keys of other kinds; Grafana's settings page shows a query's `definition`."""
    variable = _without(variable, "variable")
    if variable["type"] != "interval":
        for key in ("auto", "auto_min", "auto_count"):
            variable.pop(key, None)
    if variable["type"] == "query":
        text = variable["query"]
        variable["definition"] = text
        variable["query"] = {"query": text, "refId": f"{variable['name']}-query"}
    return variable
