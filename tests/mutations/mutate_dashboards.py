"""Mistakes in the written dashboards, found in the parsed JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mutate_expressions import variants
from mutation import GONE, Mutation, edits

Path = tuple[str | int, ...]
_UNITS = {
    "s": ("ms", "short"),
    "percentunit": ("percent", "short"),
    "short": ("s", "percentunit"),
    "reqps": ("short", "s"),
    "cps": ("s", "bytes"),
    "hertz": ("s", "percentunit"),
    "mbytes": ("bytes", "s"),
    "bool": ("percentunit", "s"),
}
_FIXED = {"type": "prometheus", "uid": "P1809F7CD0C75ACF3"}


def dashboard_mutations(file: str, tree: Any) -> Iterator[Mutation]:
    """Every mutation of a dashboard."""
    yield from edits("dashboard editable", "", file, ("editable",), [("editable", True)])
    for key in ("uid", "title"):
        yield from edits(
            "dashboard nameless", "", file, (key,), [(f"{key} empty", ""), (f"{key} gone", GONE)]
        )
    for index, variable in enumerate(tree["templating"]["list"]):
        yield from _variable(file, ("templating", "list", index), variable)
    for index, panel in enumerate(tree["panels"]):
        if panel["type"] != "row":
            yield from _panel(file, ("panels", index), panel, f"panel/{tree['uid']}/{panel['title']}")


def _variable(file: str, at: Path, variable: dict[str, Any]) -> Iterator[Mutation]:
    name = variable["name"]
    yield from edits("variable deleted", "", file, at, [(name, GONE)])
    yield from edits("variable renamed", "", file, (*at, "name"), [(name, name + "s")])
    if variable["type"] != "query":
        yield from edits("variable of another kind", "", file, (*at, "query"), [(name, "loki")])
        return
    changes: dict[str, tuple[Any, ...]] = {
        "multi": (False,),
        "includeAll": (False,),
        "allValue": (GONE, ".*"),
        "label": ("",),
        "refresh": (0,),
        "datasource": (_FIXED,),
    }
    for key, values in changes.items():
        notes = [(f"{name}.{key} {'gone' if new is GONE else new}", new) for new in values]
        yield from edits(f"variable: {key}", "", file, (*at, key), notes)
    query = variable["query"]["query"]
    new = [
        ("label renamed", re.sub(r"(\w+)\)$", r"\1s)", query)),
        ("metric renamed", query.replace("num_requests_running", "requests_running")),
        ("bracket lost", query[:-1]),
        ("empty", ""),
        ("all series", f"label_values({name})"),
        ("another variable's label", re.sub(r"\w+\)$", "job)" if name != "job" else "instance)", query)),
    ]
    new += [(f"no {text}", query.replace(f", {text}", "")) for text in re.findall(r"\w+=~\"\$\w+\"", query)]
    texts = [(f"{name}: {note}", text) for note, text in new]
    yield from edits("variable query", "", file, (*at, "query", "query"), texts)


def _panel(file: str, at: Path, panel: dict[str, Any], item: str) -> Iterator[Mutation]:
    def edit(kind: str, path: Path, *values: tuple[str, Any]) -> Iterator[Mutation]:
        return edits(kind, item, file, (*at, *path), values)

    yield from edit("panel deleted", (), ("deleted", GONE))
    yield from edit("panel title", ("title",), ("removed", GONE), ("empty", ""), ("other", "Panel title"))
    yield from edit("panel description", ("description",), ("removed", GONE))
    yield from edit("panel type", ("type",), ("misspelt", panel["type"] + "s"))
    yield from edit("panel datasource", ("datasource",), ("fixed", _FIXED), ("by name", "Prometheus"))
    if panel["type"] == "heatmap":
        unit: Path = ("options", "yAxis", "unit")
    else:
        unit = ("fieldConfig", "defaults", "unit")
    holder: Any = panel
    for step in unit:
        holder = holder[step]
    yield from edit("panel unit", unit, *((f"to {new}", new) for new in _UNITS[holder]))
    yield from edit("panel unit", unit, ("removed", GONE), ("misspelt", holder + "x"))
    yield from _axis(file, at, panel, item)
    for index, target in enumerate(panel["targets"]):
        yield from _target(file, (*at, "targets", index), panel, target, item)


def _axis(file: str, at: Path, panel: dict[str, Any], item: str) -> Iterator[Mutation]:
    defaults = panel["fieldConfig"]["defaults"]
    steps = defaults.get("thresholds", {}).get("steps", [])
    base: Path = (*at, "fieldConfig", "defaults")
    for index, step in enumerate(steps[1:], 1):
        path = (*base, "thresholds", "steps", index)
        values = [(f"{step['value']:g} to {step['value'] * f:g}", step["value"] * f) for f in (2, 0.5, 100)]
        yield from edits("panel step", item, file, (*path, "value"), values)
        yield from edits("panel step", item, file, path, [(f"{step['value']:g} removed", GONE)])
    if "max" in defaults:
        yield from edits("panel axis", item, file, (*base, "max"), [("max of 100", 100)])
        yield from edits("panel axis", item, file, (*base, "min"), [("min above max", 1000)])


def _target(
    file: str, at: Path, panel: dict[str, Any], target: dict[str, Any], item: str
) -> Iterator[Mutation]:
    ref = target["refId"]
    for kind, note, text in variants(target["expr"]):
        yield Mutation(kind, item, f"{ref}: {note}", file, (*at, "expr"), text)

    def edit(kind: str, path: Path, *values: tuple[str, Any]) -> Iterator[Mutation]:
        return edits(kind, item, file, (*at, *path), [(f"{ref}: {note}", value) for note, value in values])

    yield from edit("query deleted", (), ("deleted", GONE))
    yield from edit("query empty", ("expr",), ("empty", ""))
    yield from edit("query datasource", ("datasource",), ("fixed", _FIXED))
    yield from edit("legend changed", ("legendFormat",), *_legends(target["legendFormat"]))
    yield from edit("refId changed", ("refId",), ("removed", GONE))
    if len(panel["targets"]) > 1:
        other = next(one["refId"] for one in panel["targets"] if one["refId"] != ref)
        yield from edit("refId changed", ("refId",), (f"to {other}", other))
    if target["format"] == "heatmap":
        yield from edit("query format", ("format",), ("to time_series", "time_series"))


def _legends(legend: str) -> Iterator[tuple[str, str]]:
    for match in re.finditer(r"\{\{(\w+)\}\}", legend):
        head, tail = legend[: match.start()], legend[match.end() :]
        yield f"{match[1]} renamed", f"{head}{{{{{match[1]}s}}}}{tail}"
        yield f"{match[1]} removed", f"{head}{tail}".strip()
        yield f"{match[1]}: brace broken", f"{head}{{{match[1]}}}}}{tail}"
    if re.match(r"p(50|90|99) ", legend):
        yield "another quantile", ("p90" if legend[:3] == "p50" else "p50") + legend[3:]
    elif not legend.startswith("{{") and "{{" in legend:
        yield "prefix removed", legend[legend.index("{{") :]
