"""Grafana dashboards to our data: today's model, the old `rows`, exports with `__inputs`, API answers.

Only queries to Prometheus are read; the JSON itself stays in `raw` for the checks against Grafana's schema.
Where a field that a check needs not has a strange type it is taken as missing: the schema check says so
better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from monitorgen.bundle import Dashboard, Panel, Query, Row, Variable
from monitorgen.errors import InputError
from monitorgen.readers.json_tree import JsonTree
from monitorgen.readers.panels import datasource_uid, integer, panel_of, text
from monitorgen.readers.source import read_source

_MARKS = ("panels", "rows", "templating")
_KINDS = frozenset(["datasource", "query", "custom", "interval", "textbox", "constant", "adhoc"])
_UNITS_OF_SPAN = 2  # the old layout had 12 columns, the grid has 24


@dataclass(frozen=True, slots=True)
class _Reading:
    """What panels need to know of the file around them."""

    tree: JsonTree
    plugins: Mapping[str, str]  # name of an input or a datasource variable -> plugin (prometheus, loki)


def read_dashboard(path: Path, *, name: str | None = None) -> Dashboard:
    """The dashboard in a file; its `file` says `name`, or the path. InputError where there is none."""
    return dashboard_of(JsonTree(read_source(path)), name=name or str(path))


def holds_dashboard(root: Any) -> bool:
    """Whether this JSON looks like a dashboard, perhaps wrapped by Grafana's API."""
    inner = _unwrapped(root)
    return isinstance(inner, dict) and any(key in inner for key in _MARKS)


def dashboard_of(tree: JsonTree, *, name: str) -> Dashboard:
    """The dashboard in a parsed file."""
    root = _unwrapped(tree.root)
    if isinstance(root, dict) and "elements" in root and "layout" in root:
        raise InputError(
            "is a dashboard of Grafana's schema v2, which is not read here",
            origin=tree.place(tree.root),
            hint="export it as a classic dashboard",
        )
    if not isinstance(root, dict) or not holds_dashboard(tree.root):
        raise InputError(
            "is not a Grafana dashboard", origin=tree.place(tree.root), hint="it has neither panels nor rows"
        )
    variables = tuple(_variables(root, tree))
    reading = _Reading(
        tree, {**_inputs(root), **{v.name: v.query for v in variables if v.kind == "datasource"}}
    )
    time = root.get("time")
    tags = root.get("tags")
    return Dashboard(
        uid=text(root.get("uid")),
        title=text(root.get("title")),
        rows=tuple(_rows(root, reading)),
        description=text(root.get("description")),
        tags=tuple(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else (),
        variables=variables,
        refresh=text(root.get("refresh")),
        time_from=text(time.get("from")) if isinstance(time, dict) else "",
        editable=root.get("editable") is not False,
        file=name,
        raw=root,
        origin=tree.place(root),
    )


def _unwrapped(root: Any) -> Any:
    """The dashboard inside an API answer (`dashboard`) or a Kubernetes-style resource (`spec`)."""
    for key in ("dashboard", "spec"):
        if isinstance(root, dict) and isinstance(root.get(key), dict) and "panels" not in root:
            return root[key]
    return root


def _inputs(root: Mapping[str, Any]) -> dict[str, str]:
    """The inputs of an exported dashboard: name -> plugin."""
    inputs = root.get("__inputs")
    found = [item for item in inputs if isinstance(item, dict)] if isinstance(inputs, list) else []
    return {text(item.get("name")): text(item.get("pluginId")) for item in found}


def _listed(
    holder: Mapping[str, Any], key: str, tree: JsonTree, path: str
) -> Iterator[tuple[dict[str, Any], str]]:
    """The objects of a list with their paths; InputError where it is no list of objects."""
    value = holder.get(key)
    if value is None:
        return
    if not isinstance(value, list):
        raise InputError(
            f"{path}{key} is not a list", origin=tree.place(holder), hint="export the dashboard again"
        )
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            raise InputError(f"{path}{key}[{index}] is not an object", origin=tree.place(holder))
        yield item, f"{path}{key}[{index}]"


def _rows(root: Mapping[str, Any], reading: _Reading) -> Iterator[Row]:
    """Rows from headers among the panels (with panels inside, or after them), then the old model's rows."""
    title, collapsed, started = "", False, False
    panels: list[Panel] = []
    for item, path in _listed(root, "panels", reading.tree, ""):
        if item.get("type") != "row":
            panels.append(_panel(item, path, reading))
            continue
        if started or panels:
            yield Row(title, tuple(panels), collapsed)
        title, collapsed, started = text(item.get("title")), item.get("collapsed") is True, True
        panels = [_panel(*inner, reading) for inner in _listed(item, "panels", reading.tree, f"{path}.")]
    if started or panels:
        yield Row(title, tuple(panels), collapsed)
    for item, path in _listed(root, "rows", reading.tree, ""):
        inner = tuple(_panel(*found, reading) for found in _listed(item, "panels", reading.tree, f"{path}."))
        yield Row(text(item.get("title")), inner, item.get("collapse") is True)


def _panel(item: dict[str, Any], path: str, reading: _Reading) -> Panel:
    """A panel with its queries; the old model's `span` becomes grid units."""
    panel = panel_of(item, _queries(item, path, reading), reading.tree.place(item, path))
    if "gridPos" not in item and isinstance(item.get("span"), int | float):
        return replace(panel, width=int(item["span"] * _UNITS_OF_SPAN))
    return panel


def _queries(item: dict[str, Any], path: str, reading: _Reading) -> tuple[Query, ...]:
    found = []
    for target, _ in _listed(item, "targets", reading.tree, f"{path}."):
        expr = target.get("expr")
        if not isinstance(expr, str) or not expr.strip():
            continue
        source = target.get("datasource") or item.get("datasource")
        if not _is_prometheus(source, reading.plugins):
            continue
        wanted = text(target.get("format"))
        legend = text(target.get("legendFormat"))
        found.append(
            Query(
                expr=expr,
                legend="" if legend == "__auto" else legend,
                ref_id=text(target.get("refId")),
                instant=target.get("instant") is True,
                format=cast(
                    'Literal["time_series", "table", "heatmap"]',
                    wanted if wanted in ("table", "heatmap") else "time_series",
                ),
                datasource=datasource_uid(source),
                hidden=target.get("hide") is True,
            )
        )
    return tuple(found)


def _is_prometheus(source: Any, plugins: Mapping[str, str]) -> bool:
    """Whether a query's data source speaks PromQL; where the file does not say, it is taken to."""
    plugin = text(source.get("type")) if isinstance(source, dict) else ""
    if not plugin:
        plugin = plugins.get(datasource_uid(source).strip("${}"), "")
    return not plugin or any(
        word in plugin for word in ("prometheus", "victoriametrics", "mimir", "datasource")
    )


def _variables(root: Mapping[str, Any], tree: JsonTree) -> Iterator[Variable]:
    templating = root.get("templating")
    if not isinstance(templating, dict):
        return
    for item, _ in _listed(templating, "list", tree, "templating."):
        kind = text(item.get("type"))
        query = item.get("query")
        if isinstance(query, dict):
            query = query.get("query")
        yield Variable(
            name=text(item.get("name")),
            # Kinds that hold values of their own (system, groupby, switch) read like a list of values.
            kind=cast(Any, kind if kind in _KINDS else "custom"),
            label=text(item.get("label")),
            query=text(query),
            multi=item.get("multi") is True,
            include_all=item.get("includeAll") is True,
            all_value=text(item.get("allValue")),
            refresh=integer(item.get("refresh"), 0),
            datasource=datasource_uid(item.get("datasource")),
            regex=text(item.get("regex")),
        )
