"""Is this JSON what Grafana's own types allow? Dashboards, panels, options of the kinds that we write.

No Grafana server takes part: 'valid' means valid against JSON Schemas made once from Grafana's TypeScript
types, which are the contract between its frontend and stored dashboards, but not the frontend itself.

How the stored data (`data/grafana-VERSION.json.gz`) was made, and is made again for a newer Grafana:
install the npm packages `@grafana/schema` and `@grafana/data` of that version and
`ts-json-schema-generator`. Write a TypeScript file with one exported interface for each thing to check,
extending the generated types under `@grafana/schema/dist/types/raw` (Dashboard, Panel, RowPanel and
VariableModel of `dashboard/x`; Options, and FieldConfig where there is one, of
`composable/KIND/panelcfg/x`). Generate a schema for each (`expose: 'all'`, `topRef: false`, no type check),
merge the definitions, which must not clash, and keep only type, enum, const, properties,
additionalProperties, items, anyOf and $ref: `required` is dropped, for Grafana fills in what is missing.
Add the keys that Grafana writes and the types lack (the file's `provenance` names them), and the unit ids,
which are the `id` of every entry in `@grafana/data`'s `valueFormats/categories`. Store it with sorted keys,
gzipped without a time.
"""

from __future__ import annotations

import difflib
import gzip
import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias

GRAFANA_VERSION = "13.2.2"
_DATA = f"data/grafana-{GRAFANA_VERSION}.json.gz"

Errors: TypeAlias = list[tuple[str, str]]  # (path in the JSON, what is wrong there)
Check: TypeAlias = Callable[[Any, str, Errors], None]

# Prefixes of units that a person may make up, as @grafana/data reads them.
_OWN_UNITS = ("prefix:", "suffix:", "time:", "si:", "count:", "currency:", "bool:")


def schema_errors(panel: Mapping[str, Any]) -> Errors:
    """What Grafana's types do not allow in a panel (or a row with its panels), as (path, message)."""
    errors: Errors = []
    _panel(panel, "", errors)
    return errors


def dashboard_errors(dashboard: Mapping[str, Any]) -> Errors:
    """What Grafana's types do not allow in a dashboard, its panels included, as (path, message)."""
    errors: Errors = []
    panels = dashboard.get("panels")
    # Panels are checked by their kind, which tells more than 'neither a panel nor a row'.
    _check("Dashboard")({k: v for k, v in dashboard.items() if k != "panels"}, "", errors)
    if isinstance(panels, list):
        for index, panel in enumerate(panels):
            _panel(panel, f"panels[{index}]", errors)
    elif panels is not None:
        errors.append(("panels", f"is {_name_of(panels)}, an array is expected"))
    return errors


@cache
def unit_ids() -> frozenset[str]:
    """The ids of Grafana's units."""
    return frozenset(_data()["units"])


def is_unit(unit: str) -> bool:
    """Whether Grafana shows this unit: one of its own, or one made up as `suffix:tok` and the like."""
    return unit in unit_ids() or unit.startswith(_OWN_UNITS)


def document() -> dict[str, Any]:
    """The JSON Schema itself: everything is under `definitions`."""
    return {"definitions": _data()["definitions"]}


def parts(panel: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """What of a panel is checked against which definition: (definition, path, value)."""
    kind = panel.get("type")
    if kind == "row":
        return [("RowPanel", "", {k: v for k, v in panel.items() if k != "panels"})]
    found: list[tuple[str, str, Any]] = [("Panel", "", panel)]
    known = _data()["definitions"]
    if f"{kind}_options" in known and "options" in panel:
        found.append((f"{kind}_options", "options", panel["options"]))
    custom = _at(_at(_at(panel, "fieldConfig"), "defaults"), "custom")
    if f"{kind}_custom" in known and custom is not None:
        found.append((f"{kind}_custom", "fieldConfig.defaults.custom", custom))
    targets = panel.get("targets")
    for index, target in enumerate(targets if isinstance(targets, list) else []):
        plugin = _at(_at(target, "datasource"), "type") or _at(_at(panel, "datasource"), "type")
        if plugin in (None, "prometheus"):
            found.append(("prometheus_target", f"targets[{index}]", target))
    return found


def _panel(panel: Any, path: str, errors: Errors) -> None:
    if not isinstance(panel, Mapping):
        errors.append((path, f"is {_name_of(panel)}, an object is expected"))
        return
    for definition, inner, value in parts(panel):
        _check(definition)(value, _join(path, inner), errors)
    if panel.get("type") == "row":
        inside = panel.get("panels", [])
        if not isinstance(inside, list):
            errors.append((_join(path, "panels"), f"is {_name_of(inside)}, an array is expected"))
            return
        for index, inner_panel in enumerate(inside):
            _panel(inner_panel, _join(path, f"panels[{index}]"), errors)


def _at(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path and key else path or key


@cache
def _data() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(gzip.decompress(files(__package__).joinpath(_DATA).read_bytes()))
    return data


@cache
def _check(definition: str) -> Check:
    """The check of a definition; made once."""
    return make_check(_data()["definitions"][definition], _check)


# --- A validator for the part of JSON Schema that the data uses; jsonschema would be much slower. ---


def make_check(schema: Any, resolve: Callable[[str], Check]) -> Check:
    """A function that checks a value against a schema. `resolve` gives the check of a definition by its name.

    Knows $ref, type, enum, const, properties, additionalProperties, items, anyOf, oneOf and allOf.
    """
    if schema is True or schema == {}:
        return _anything
    if schema is False:
        return _nothing
    checks: list[Check] = []
    if "$ref" in schema:
        checks.append(_reference(schema["$ref"].rsplit("/", 1)[-1], resolve))
    if "const" in schema or "enum" in schema:
        checks.append(_one_of([schema["const"]] if "const" in schema else schema["enum"]))
    if "type" in schema:
        checks.append(_typed(schema["type"]))
    if "properties" in schema or "additionalProperties" in schema:
        checks.append(_object(schema, resolve))
    if "items" in schema:
        checks.append(_items(make_check(schema["items"], resolve)))
    for word in ("anyOf", "oneOf"):
        if word in schema:
            checks.append(_alternatives([make_check(s, resolve) for s in schema[word]], only=word == "oneOf"))
    checks += [make_check(s, resolve) for s in schema.get("allOf", ())]
    if len(checks) == 1:
        return checks[0]
    return _all(checks)


def _anything(value: Any, path: str, errors: Errors) -> None:
    """Any value will do."""


def _nothing(value: Any, path: str, errors: Errors) -> None:
    errors.append((path, "is not expected here"))


def _all(checks: list[Check]) -> Check:
    def check(value: Any, path: str, errors: Errors) -> None:
        before = len(errors)
        for inner in checks:
            inner(value, path, errors)
            if len(errors) > before:
                return  # one message a place: a wrong type makes the rest of them noise

    return check


def _reference(name: str, resolve: Callable[[str], Check]) -> Check:
    def check(value: Any, path: str, errors: Errors) -> None:
        resolve(name)(value, path, errors)

    return check


_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, Mapping),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: (
        isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    ),
}


def _name_of(value: Any) -> str:
    """What a value is, in JSON's words."""
    name = next(name for name, holds in _TYPES.items() if holds(value))
    return name if name == "null" else f"{'an' if name[0] in 'aeio' else 'a'} {name}"


def _typed(types: str | list[str]) -> Check:
    names = [types] if isinstance(types, str) else types
    tests = [_TYPES[name] for name in names]
    wanted = " or ".join(names)

    def check(value: Any, path: str, errors: Errors) -> None:
        if not any(test(value) for test in tests):
            errors.append((path, f"is {_name_of(value)}, {wanted} is expected"))

    return check


def _one_of(options: list[Any]) -> Check:
    shown = ", ".join(json.dumps(option) for option in options)

    def check(value: Any, path: str, errors: Errors) -> None:
        # true is no 1 in JSON, though it is in Python
        if not any(value == o and isinstance(value, bool) == isinstance(o, bool) for o in options):
            errors.append((path, f"is {json.dumps(value)[:60]}, one of {shown} is expected"))

    return check


def _object(schema: Mapping[str, Any], resolve: Callable[[str], Check]) -> Check:
    known = {key: make_check(inner, resolve) for key, inner in schema.get("properties", {}).items()}
    rest = schema.get("additionalProperties", True)
    others = None if rest is False else make_check(rest, resolve)

    def check(value: Any, path: str, errors: Errors) -> None:
        if not isinstance(value, Mapping):
            return
        for key, item in value.items():
            inner = known.get(key, others)
            if inner is None:
                near = difflib.get_close_matches(key, known, n=1)
                errors.append((_join(path, key), "is no key here" + (f"; {near[0]!r} is" if near else "")))
            else:
                inner(item, _join(path, key), errors)

    return check


def _items(inner: Check) -> Check:
    def check(value: Any, path: str, errors: Errors) -> None:
        if isinstance(value, list):
            for index, item in enumerate(value):
                inner(item, f"{path}[{index}]", errors)

    return check


def _alternatives(checks: list[Check], *, only: bool) -> Check:
    """anyOf and oneOf (`only`); where none holds, the messages of the alternative that came nearest."""

    def check(value: Any, path: str, errors: Errors) -> None:
        held, nearest = 0, None
        for inner in checks:
            found: Errors = []
            inner(value, path, found)
            if not found:
                held += 1
                if not only:
                    return
            elif nearest is None or len(found) < len(nearest):
                nearest = found
        if not held:
            errors.extend(nearest or [(path, "matches nothing that is allowed here")])
        elif held > 1:
            errors.append((path, "matches more than one thing that is allowed here"))

    return check
