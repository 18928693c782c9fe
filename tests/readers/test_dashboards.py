"""Dashboards from everywhere: today's model, old rows, exports, and broken ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitorgen.bundle import Query, ThresholdStep
from monitorgen.errors import InputError
from monitorgen.readers import read_dashboard


def read(tmp_path: Path, tree, name: str = "d.json"):
    path = tmp_path / name
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree, indent=1), encoding="utf-8")
    return read_dashboard(path)


def panel(title: str, *exprs: str, **more):
    return {"type": "timeseries", "title": title, "targets": [{"expr": expr} for expr in exprs], **more}


def row(title: str, *panels, **more):
    return {"type": "row", "title": title, "panels": list(panels), **more}


@pytest.mark.parametrize(
    ("tree", "rows"),
    [
        ({"panels": []}, []),
        ({"panels": [panel("a"), panel("b")]}, [("", False, ["a", "b"])]),
        ({"panels": [row("r"), panel("a")]}, [("r", False, ["a"])]),
        ({"panels": [panel("a"), row("r", panel("b"), collapsed=True), row("s"), panel("c")]},
         [("", False, ["a"]), ("r", True, ["b"]), ("s", False, ["c"])]),
        ({"panels": [row("r"), row("s")]}, [("r", False, []), ("s", False, [])]),
        ({"rows": [{"title": "old", "collapse": True, "panels": [panel("a")]}, {"panels": [panel("b")]}]},
         [("old", True, ["a"]), ("", False, ["b"])]),
        ({"rows": [{"title": "empty"}], "panels": None}, [("empty", False, [])]),
        ({"dashboard": {"panels": [panel("api")]}, "meta": {}}, [("", False, ["api"])]),
        ({"kind": "Dashboard", "spec": {"panels": [panel("k8s")]}}, [("", False, ["k8s"])]),
    ],
)  # fmt: skip
def test_rows_of_every_age(tmp_path, tree, rows):
    found = [(r.title, r.collapsed, [p.title for p in r.panels]) for r in read(tmp_path, tree).rows]
    assert found == rows


PROM, LOKI = {"type": "prometheus", "uid": "p"}, {"type": "loki", "uid": "l"}


@pytest.mark.parametrize(
    ("on_panel", "on_target", "uids"),
    [
        ("absent", "absent", [""]),
        (None, None, [""]),
        ("Prometheus", "absent", ["Prometheus"]),
        ("${DS_PROM}", "absent", ["${DS_PROM}"]),
        ("${DS_LOKI}", "absent", []),
        ("$logs", "absent", []),
        ("absent", "${logs}", []),
        (PROM, "absent", ["p"]),
        (PROM, {"type": "prometheus", "uid": "q"}, ["q"]),
        (LOKI, "absent", []),
        (LOKI, PROM, ["p"]),
        ({"type": "datasource", "uid": "-- Mixed --"}, LOKI, []),
        ({"type": "datasource", "uid": "-- Mixed --"}, PROM, ["p"]),
        ({"uid": "x"}, None, ["x"]),
        (["odd"], 7, [""]),
    ],
)
def test_data_sources_of_every_shape(tmp_path, on_panel, on_target, uids):
    target = {"expr": "up", "refId": "A"} | ({} if on_target == "absent" else {"datasource": on_target})
    tree = {
        "__inputs": [{"name": "DS_LOKI", "pluginId": "loki"}, {"name": "DS_PROM", "pluginId": "prometheus"}],
        "templating": {"list": [{"name": "logs", "type": "datasource", "query": "loki"}]},
        "panels": [
            {"title": "t", "targets": [target]} | ({} if on_panel == "absent" else {"datasource": on_panel})
        ],
    }
    assert [query.datasource for query in next(iter(read(tmp_path, tree).panels)).queries] == uids


def test_a_panel_with_everything(tmp_path):
    on_off = {"1": {"text": "on", "index": 0}, "0": {"text": "off", "index": 1}}
    defaults = {
        "unit": "s",
        "min": 0,
        "max": 1.5,
        "decimals": 2,
        "thresholds": {"steps": [{"color": "green", "value": None}, {"color": "red", "value": 80}]},
        "mappings": [{"type": "value", "options": on_off}, {"type": "special"}, {"op": "=", "text": "old"}],
    }
    target = {"expr": "up", "legendFormat": "__auto", "instant": True, "format": "table", "refId": "Q"}
    tree = {
        "uid": "u",
        "title": "T",
        "description": "D",
        "tags": ["a", 3],
        "refresh": "5s",
        "editable": False,
        "time": {"from": "now-6h", "to": "now"},
        "panels": [
            {
                "id": 4,
                "type": "stat",
                "title": "t",
                "description": "d",
                "gridPos": {"x": 0, "y": 0, "w": 5, "h": 3},
                "options": {"reduceOptions": {"calcs": ["mean"]}},
                "fieldConfig": {"defaults": defaults},
                "targets": [{**target, "hide": True}, {"expr": ""}, {"refId": "B"}, {"expr": 5}],
            }
        ],
    }
    dashboard = read(tmp_path, tree)
    assert (dashboard.uid, dashboard.title, dashboard.description, dashboard.tags) == ("u", "T", "D", ("a",))
    assert (dashboard.refresh, dashboard.time_from, dashboard.editable) == ("5s", "now-6h", False)
    found = next(iter(dashboard.panels))
    assert found.queries == (
        Query("up", ref_id="Q", instant=True, format="table", datasource="", hidden=True),
    )
    assert found.steps == (ThresholdStep(None, "green"), ThresholdStep(80, "red"))
    assert found.texts == (("1", "on"), ("0", "off"))
    assert (found.panel_id, found.kind, found.unit, found.minimum, found.maximum) == (4, "stat", "s", 0, 1.5)
    assert (found.width, found.height, found.decimals, found.calc) == (5, 3, 2, "mean")
    assert found.raw == tree["panels"][0]
    assert dashboard.raw == tree


@pytest.mark.parametrize(
    ("tree", "field", "value"),
    [
        ({"type": "graph", "yaxes": [{"format": "s"}, {"format": "ms"}]}, "unit", "s"),
        ({"type": "singlestat", "format": "percent"}, "unit", "percent"),
        ({"type": "heatmap", "options": {"yAxis": {"unit": "s"}}}, "unit", "s"),
        ({"type": "graph", "stack": True}, "stacked", True),
        ({"type": "text", "content": "old"}, "content", "old"),
        ({"type": "text", "options": {"content": "new"}}, "content", "new"),
        ({"span": 6}, "width", 12),
        ({"title": None}, "title", ""),
        ({"fieldConfig": None, "options": [], "gridPos": "x"}, "unit", ""),
        ({"gridPos": {"w": float("1e300")}}, "width", 8),
    ],
)
def test_old_and_odd_panels(tmp_path, tree, field, value):
    assert getattr(next(iter(read(tmp_path, {"panels": [tree]}).panels)), field) == value


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"type": "query", "query": "label_values(a)", "datasource": None}, ("query", "label_values(a)", "")),
        ({"type": "query", "query": {"query": "q", "refId": "x"}, "datasource": PROM}, ("query", "q", "p")),
        ({"type": "query", "query": {"stream": "loki's"}}, ("query", "", "")),
        ({"type": "adhoc", "datasource": "P"}, ("adhoc", "", "P")),
        ({"type": "interval", "query": "1m"}, ("interval", "1m", "")),
        ({"type": "groupby"}, ("custom", "", "")),
        ({}, ("custom", "", "")),
    ],
)
def test_variables_of_every_kind(tmp_path, tree, expected):
    dashboard = read(tmp_path, {"panels": [], "templating": {"list": [{"name": "v", **tree}]}})
    found = dashboard.variables[0]
    assert (found.kind, found.query, found.datasource) == expected


def test_panels_know_where_they_stand(tmp_path):
    text = (
        '{"title": "x",\n "panels": [\n  {"title": "t"}, {"title": "t", "options": {"title": "t"}},\n  {}]}'
    )
    assert [(p.origin.line, p.origin.column) for p in read(tmp_path, text).panels] == [
        (3, 3),
        (3, 19),
        (4, 3),
    ]
    assert next(iter(read(tmp_path, text).panels)).origin.path == "panels[0]"


BAD = [
    ("", "not JSON", (1, 1)),
    ("{", "not JSON", (1, 2)),
    ('{"panels": [],\n}', "not JSON", None),
    ('{"panels": [NaN]}', "not JSON", None),
    ('{"panels": [],\n "a": {"b": 1, "b": 2}}', "'b' stands twice", (2, 7)),
    ("[]", "not a Grafana dashboard", None),
    ("{}", "not a Grafana dashboard", (1, 1)),
    ('"text"', "not a Grafana dashboard", None),
    ('{"panels": {}}', "panels is not a list", (1, 1)),
    ('{"panels": [5]}', r"panels\[0\] is not an object", (1, 1)),
    ('{"panels": [\n{"targets": ["x"]}]}', r"panels\[0\].targets\[0\]", (2, 1)),
    ('{"rows": [{"panels": 1}]}', r"rows\[0\].panels", (1, 11)),
    ('{"apiVersion": "v2", "spec": {"elements": {}, "layout": {}}}', "v2", (1, 1)),
    ('{"panels": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested", None),
    ('{"panels": [' + "9" * 5000 + "]}", "not JSON", None),
]


@pytest.mark.parametrize(("text", "message", "place"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_a_broken_file_gets_one_message_with_its_place(tmp_path, text, message, place):
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path, text)
    origin = error.value.origin
    assert origin.file == str(tmp_path / "d.json")
    assert place is None or (origin.line, origin.column) == place


def test_latin_1_is_refused_with_its_place(tmp_path):
    (tmp_path / "d.json").write_bytes(b'{"panels": [],\n "title": "\xe9"}')
    with pytest.raises(InputError, match="UTF-8") as error:
        read_dashboard(tmp_path / "d.json")
    assert (error.value.origin.line, error.value.origin.column) == (2, 12)


KEYS = [
    *[
        "panels",
        "rows",
        "type",
        "title",
        "targets",
        "expr",
        "datasource",
        "uid",
        "templating",
        "list",
        "query",
    ],
    *[
        "name",
        "gridPos",
        "w",
        "fieldConfig",
        "defaults",
        "unit",
        "mappings",
        "options",
        "thresholds",
        "steps",
    ],
    *["value", "time", "from", "span", "yaxes", "row", "__inputs", "id", "calcs"],
]
scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
trees = st.recursive(
    scalars | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@given(trees)
def test_any_json_is_read_or_refused(tmp_path_factory, tree):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(tree if isinstance(tree, dict) else {"panels": tree, "templating": tree}))
    refused = None
    try:
        list(read_dashboard(path).panels)
    except InputError as error:
        refused = error
    assert refused is None or str(path) in str(refused)
