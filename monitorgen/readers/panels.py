"""One panel of a Grafana dashboard to our `Panel`; its queries are read by `dashboards`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monitorgen.bundle import Origin, Pairs, Panel, Query, ThresholdStep


def text(value: Any) -> str:
    """A string as it is; anything else as missing."""
    return value if isinstance(value, str) else ""


def integer(value: Any, default: int) -> int:
    """A whole number (true is 1, as old dashboards have it); anything else as missing."""
    return int(value) if isinstance(value, int | float) and value == value and abs(value) < 2**53 else default


def datasource_uid(source: Any) -> str:
    """The uid (or, in old dashboards, the name) of a data source; empty for the default one."""
    return text(source.get("uid")) if isinstance(source, dict) else text(source)


def panel_of(item: dict[str, Any], queries: tuple[Query, ...], origin: Origin) -> Panel:
    """The panel with everything that our data has a place for."""
    kind = text(item.get("type"))
    options, defaults = _mapping(item, "options"), _mapping(_mapping(item, "fieldConfig"), "defaults")
    values = _mapping(options, "yAxis") if kind == "heatmap" else defaults
    grid = _mapping(item, "gridPos")
    return Panel(
        title=text(item.get("title")),
        queries=queries,
        kind=kind,
        description=text(item.get("description")),
        unit=_unit(item, values, defaults),
        steps=_steps(defaults),
        minimum=_number(values.get("min")),
        maximum=_number(values.get("max")),
        width=integer(grid.get("w"), 8),
        height=integer(grid.get("h"), 8),
        stacked=_stacked(item, defaults),
        datasource=datasource_uid(item.get("datasource")) if kind != "text" else "${datasource}",
        panel_id=integer(item.get("id"), 0),
        content=_content(item, options) if kind == "text" else "",
        decimals=integer(values["decimals"], 0) if _number(values.get("decimals")) is not None else None,
        calc=_calc(options),
        texts=_texts(defaults),
        raw=item,
        origin=origin,
    )


def _mapping(holder: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = holder.get(key)
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _unit(item: Mapping[str, Any], values: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """The unit where today's model has it, or the old graph's left axis, or the old singlestat's format."""
    found = text(values.get("unit")) or text(defaults.get("unit"))
    axes = item.get("yaxes")
    if not found and isinstance(axes, list) and axes and isinstance(axes[0], dict):
        found = text(axes[0].get("format"))
    return found or text(item.get("format"))


def _steps(defaults: Mapping[str, Any]) -> tuple[ThresholdStep, ...]:
    steps = _mapping(defaults, "thresholds").get("steps")
    found = [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []
    return tuple(ThresholdStep(_number(step.get("value")), text(step.get("color"))) for step in found)


def _stacked(item: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    mode = _mapping(_mapping(defaults, "custom"), "stacking").get("mode")
    return mode in ("normal", "percent") or item.get("stack") is True


def _content(item: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    return text(options.get("content")) or text(item.get("content"))


def _calc(options: Mapping[str, Any]) -> str:
    calcs = _mapping(options, "reduceOptions").get("calcs")
    return text(calcs[0]) if isinstance(calcs, list) and calcs else "lastNotNull"


def _texts(defaults: Mapping[str, Any]) -> Pairs:
    """Value -> text of the value mappings, in the order in which Grafana shows them."""
    mappings = defaults.get("mappings")
    found: list[tuple[int, str, str]] = []
    for mapping in mappings if isinstance(mappings, list) else []:
        if isinstance(mapping, dict) and mapping.get("type") == "value":
            for value, result in _mapping(mapping, "options").items():
                if isinstance(result, dict):
                    found.append((integer(result.get("index"), 0), value, text(result.get("text"))))
    return tuple((value, shown) for _, value, shown in sorted(found))
