"""Our small validator says what jsonschema says: on our dashboards, on others', and on broken ones."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitorgen.bundle import Dashboard, Panel, Query, Row, ThresholdStep, Variable
from monitorgen.catalog.units import UNITS
from monitorgen.checks import grafana_schema as schema
from monitorgen.targets.grafana import dashboard_json

PEERS = Path(__file__).resolve().parents[3] / "shared" / "data" / "peers"
KINDS = ("timeseries", "stat", "gauge", "bargauge", "heatmap", "table", "text")


def our_dashboard(count: int = 1):
    panels = tuple(
        Panel(
            f"{kind} {i}",
            (Query("up", "{{job}}"), Query("x", instant=True)),
            kind=kind,
            unit="s",
            steps=(ThresholdStep(None, "green"), ThresholdStep(0.5, "red")),
            texts=(("0", "off"),),
        )
        for i in range(count)
        for kind in KINDS
    )
    variables = (
        Variable("datasource", "datasource", query="prometheus"),
        Variable("job", query="q", multi=True),
    )
    return dashboard_json(
        Dashboard("u", "T", (Row("R", panels), Row("S", panels[:2], True)), variables=variables)
    )


OURS = our_dashboard()
PANELS = {p["type"]: p for p in OURS["panels"] if p["type"] != "row"}


def validator(definition: str):
    whole = {"$ref": f"#/definitions/{definition}", **schema.document()}
    return jsonschema.Draft7Validator(whole)


VALIDATORS = {name: validator(name) for name in schema.document()["definitions"]}


def agrees(panel) -> bool:
    """Whether jsonschema finds each part of the panel valid exactly where we do."""
    theirs = [(name, VALIDATORS[name].is_valid(value)) for name, _, value in schema.parts(panel)]
    ours = []
    for name, _, value in schema.parts(panel):
        errors = []
        schema.make_check(schema.document()["definitions"][name], schema._check)(value, "", errors)
        ours.append((name, not errors))
    return theirs == ours


def all_panels(tree):
    return [p for outer in tree.get("panels", []) for p in (outer, *outer.get("panels", []))]


def test_our_dashboards_are_valid():
    assert schema.dashboard_errors(OURS) == []
    assert all(agrees(panel) for panel in all_panels(OURS))


@pytest.mark.skipif(not PEERS.is_dir(), reason="../shared with other projects' files is not here")
@pytest.mark.parametrize("path", sorted(PEERS.rglob("*.json")), ids=lambda path: path.stem)
def test_others_dashboards_get_jsonschemas_verdict(path):
    tree = json.loads(path.read_text())
    for panel in all_panels(tree):
        assert agrees(panel)
    top = {key: value for key, value in tree.items() if key != "panels"}
    paths = [where for where, _ in schema.dashboard_errors(tree) if not where.startswith("panels")]
    assert VALIDATORS["Dashboard"].is_valid(top) == (not paths)


BROKEN = [
    ("stat", "title", 5, "title", "is a number, string is expected"),
    ("stat", "titel", "x", "titel", "is no key here; 'title' is"),
    ("stat", "gridPos.w", "8", "gridPos.w", "is a string, number is expected"),
    ("stat", "gridPos.w", True, "gridPos.w", "is a boolean, number is expected"),
    ("stat", "datasource", "Prometheus", "datasource", "is a string, object is expected"),
    ("stat", "datasource", None, "datasource", "is null, object is expected"),
    ("stat", "options.colorMode", "purple", "options.colorMode", 'is "purple", one of'),
    ("stat", "options.fieldOptions", {}, "options.fieldOptions", "is no key here"),
    ("stat", "options.reduceOptions.calcs", "max", "options.reduceOptions.calcs", "array is expected"),
    ("stat", "options.reduceOptions.calcs", [1], "options.reduceOptions.calcs[0]", "string is expected"),
    ("stat", "fieldConfig.defaults.thresholds.steps", [{"color": "red", "value": "null"}],
     "fieldConfig.defaults.thresholds.steps[0].value", "is a string, number or null is expected"),
    ("stat", "fieldConfig.defaults.mappings", [{"type": "value", "options": {"0": {"txt": "off"}}}],
     "fieldConfig.defaults.mappings[0].options.0.txt", "is no key here; 'text' is"),
    ("stat", "fieldConfig.defaults.color.mode", "rainbow", "fieldConfig.defaults.color.mode", "one of"),
    ("timeseries", "fieldConfig.defaults.custom.drawStyle", "curve",
     "fieldConfig.defaults.custom.drawStyle", "one of"),
    ("timeseries", "options.legend.displayMode", "grid", "options.legend.displayMode", "one of"),
    ("heatmap", "options.dataFormat", "tsbuckets", "options.dataFormat", "is no key here"),
    ("text", "options.mode", "md", "options.mode", "one of"),
    ("table", "options.sortBy", [{"desc": 1}], "options.sortBy[0].desc", "boolean is expected"),
    ("timeseries", "targets", [{"expr": 5}], "targets[0].expr", "string is expected"),
    ("timeseries", "targets", [{"format": "csv"}], "targets[0].format", "one of"),
    ("timeseries", "targets", "up", "targets", "array is expected"),
    ("row", "panels", [{"type": "stat", "titel": ""}], "panels[0].titel", "is no key here"),
    ("row", "panels", {}, "panels", "array is expected"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "key", "value", "where", "message"), BROKEN)
def test_what_is_broken_is_found_where_it_is(kind, key, value, where, message):
    panel = copy.deepcopy(PANELS.get(kind, {"type": "row", "title": "r"}))
    *path, last = key.split(".")
    inner = panel
    for part in path:
        inner = inner[part]
    inner[last] = value
    errors = schema.schema_errors(panel)
    assert errors
    assert errors[0][0] == where
    assert message in errors[0][1]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"panels": {}}, "panels"),
        ({"panels": [5]}, "panels[0]"),
        ({"rows": []}, "rows"),
        ({"templating": {"list": [{"type": "guess"}]}}, "templating.list[0].type"),
        ({"graphTooltip": 7}, "graphTooltip"),
        ({"refresh": False}, "refresh"),
        ({"panels": [{"type": "stat", "x": 1}]}, "panels[0].x"),
    ],
)
def test_a_broken_dashboard_is_found_where_it_is(change, where):
    assert [path for path, _ in schema.dashboard_errors({**OURS, **change})] == [where]


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "auto", "none", "x"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["mode", "type", "value", "x"]), inner)
    ),
    max_leaves=4,
)


def places(tree, path=()):
    """The paths of everything in a JSON tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


MUTABLE = [(kind, place) for kind, panel in PANELS.items() for place in places(panel) if place != ("type",)]


@given(st.sampled_from(MUTABLE), values, st.booleans())
def test_mutated_panels_get_jsonschemas_verdict(target, value, add):
    kind, path = target
    panel = copy.deepcopy(PANELS[kind])
    inner = panel
    for part in path[:-1]:
        inner = inner[part]
    if add and isinstance(inner, dict):
        inner["unheardOf"] = value
    else:
        inner[path[-1]] = value
    assert agrees(panel)


schemas = st.recursive(
    st.sampled_from(
        [
            {},
            True,
            False,
            {"type": "string"},
            {"type": ["number", "null"]},
            {"type": "integer"},
            {"const": 1},
            {"enum": [True, "x"]},
        ]
    ),
    lambda inner: st.one_of(
        *(
            st.fixed_dictionaries({word: st.lists(inner, min_size=1, max_size=3)})
            for word in ("anyOf", "oneOf", "allOf")
        ),
        st.fixed_dictionaries({"items": inner}),
        st.fixed_dictionaries(
            {
                "properties": st.dictionaries(st.sampled_from(["mode", "x"]), inner),
                "additionalProperties": inner,
            }
        ),
    ),
    max_leaves=5,
)


@given(schemas, values)
def test_any_schema_of_our_subset_gets_jsonschemas_verdict(tree, value):
    errors: schema.Errors = []
    schema.make_check(tree, schema._check)(value, "", errors)
    assert (not errors) == jsonschema.Draft7Validator(tree).is_valid(value)


def test_units():
    assert len(schema.unit_ids()) == 273
    assert {"s", "percentunit", "short", "bytes", "reqps", "none", "h"} <= schema.unit_ids()
    assert "seconds" not in schema.unit_ids()
    assert schema.is_unit("suffix: tok/s")
    assert not schema.is_unit("tok/s")


def test_every_unit_that_we_write_is_one_of_grafanas():
    assert {unit for row in UNITS.values() for unit in row.grafana} <= schema.unit_ids()


def test_sixty_panels_are_checked_in_no_time():
    tree = our_dashboard(9)
    assert len(all_panels(tree)) > 60
    schema.dashboard_errors(tree)
    best = min(timed(lambda: schema.dashboard_errors(tree)) for _ in range(5))
    assert best < 0.15


def timed(call) -> float:
    """CPU seconds, because the wall clock of a busy machine says little."""
    start = time.process_time()
    call()
    return time.process_time() - start
