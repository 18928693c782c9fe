"""Dashboards as Grafana stores them, not as grafanalib writes them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from monitorgen.bundle import Dashboard, Panel, Query, Row, ThresholdStep, Variable
from monitorgen.checks.grafana_schema import dashboard_errors
from monitorgen.errors import InputError
from monitorgen.targets.grafana import as_written, dashboard_json, dashboard_text

KINDS = ("timeseries", "stat", "gauge", "bargauge", "heatmap", "table", "text")
STALE = {
    "rows",
    "sharedCrosshair",
    "style",
    "hideControls",
    "error",
    "span",
    "gnetId",
    "minSpan",
    "intervalFactor",
}


def panel(kind: str = "timeseries", title: str = "", **more) -> Panel:
    base = Panel(title or kind, (Query("a", "{{x}}"), Query("b")), kind=kind, description="d", unit="s")
    return replace(base, **more)


def dashboard(*rows: Row, **more) -> Dashboard:
    return Dashboard("uid", "Title", rows, **more)


ALL = dashboard(
    Row("Kinds", tuple(panel(kind, content="# text") for kind in KINDS)),
    Row(
        "Closed",
        tuple(panel(kind, f"{kind} again", minimum=0.5, maximum=2.0, decimals=1) for kind in KINDS),
        True,
    ),
    tags=("vllm",),
    description="All of it.",
    variables=(
        Variable("datasource", "datasource", query="prometheus"),
        Variable("job", query="label_values(up, job)", multi=True, include_all=True, all_value=".+"),
        Variable("one", query="label_values(up, job)", include_all=True),
        Variable("window", "interval", query="1m,5m"),
        Variable("choice", "custom", query="a,b"),
        Variable("text", "textbox", query="x"),
        Variable("constant", "constant", query="x"),
    ),
)


def inside(tree):
    """Every (key, value) of a JSON tree."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield key, value
            yield from inside(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from inside(value)


def flat(tree) -> dict[str, dict]:
    """Panels by title, those in closed rows too; rows are left out."""
    panels = [p for outer in tree["panels"] for p in (outer, *outer.get("panels", ()))]
    return {p["title"]: p for p in panels if p["type"] != "row"}


def test_every_kind_is_valid_by_grafanas_types():
    assert dashboard_errors(dashboard_json(ALL)) == []


def test_nothing_stale_and_no_null_but_the_first_threshold():
    tree = dashboard_json(replace(ALL, rows=(Row("", (panel(steps=(ThresholdStep(5.0, "red"),)),)),)))
    assert not STALE & {key for key, _ in inside(tree)}
    assert [key for key, value in inside(tree) if value is None] == ["value"]
    steps = tree["panels"][0]["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert steps == [{"color": "green", "value": None}, {"color": "red", "value": 5}]
    assert "null" not in [value for _, value in inside(tree) if isinstance(value, str)]


def test_what_the_dashboard_says_about_itself():
    tree = dashboard_json(ALL)
    assert tree["schemaVersion"] >= 39
    assert tree["editable"] is False
    assert tree["graphTooltip"] == 1
    assert tree["time"] == {"from": "now-1h", "to": "now"}
    assert (tree["uid"], tree["title"], tree["description"]) == ("uid", "Title", "All of it.")
    assert (tree["refresh"], tree["tags"], tree["timezone"]) == ("30s", ["vllm"], "browser")


def test_every_panel_and_target_names_the_variable_as_its_data_source():
    panels = [p for title, p in flat(dashboard_json(ALL)).items() if p["type"] != "text"]
    wanted = {"type": "prometheus", "uid": "${datasource}"}
    assert len(panels) == 12
    for tree in panels:
        assert tree["datasource"] == wanted
        assert [target["datasource"] for target in tree["targets"]] == [wanted, wanted]
        assert [target["refId"] for target in tree["targets"]] == ["A", "B"]


def test_queries_are_instant_or_ranges():
    queries = (Query("a", instant=True, ref_id="X"), Query("b", ref_id="Y", format="table", hidden=True))
    first, second = dashboard_json(dashboard(Row("", (panel(queries=queries),))))["panels"][0]["targets"]
    assert (first["instant"], first["range"], first["refId"]) == (True, False, "X")
    assert (second["instant"], second["range"], second["format"], second["hide"]) == (
        False,
        True,
        "table",
        True,
    )
    assert "hide" not in first


def test_a_heatmap_shows_buckets_in_the_unit_of_its_axis():
    tree = flat(dashboard_json(ALL))["heatmap again"]
    assert {target["format"] for target in tree["targets"]} == {"heatmap"}
    assert tree["options"]["calculate"] is False
    assert tree["options"]["yAxis"]["unit"] == "s"
    assert (tree["options"]["yAxis"]["min"], tree["options"]["yAxis"]["max"]) == (0.5, 2)
    assert "unit" not in tree["fieldConfig"]["defaults"]


def test_reducing_kinds_say_how_they_reduce():
    rows = (Row("", tuple(panel(kind, calc="max") for kind in ("stat", "gauge", "bargauge"))),)
    for tree in flat(dashboard_json(dashboard(*rows))).values():
        assert tree["options"]["reduceOptions"]["calcs"] == ["max"]


def test_legends_are_tables_where_there_is_room():
    rows = (Row("", (panel(title="wide", width=12), panel(title="narrow", width=4))),)
    panels = flat(dashboard_json(dashboard(*rows)))
    assert panels["wide"]["options"]["legend"]["displayMode"] == "table"
    assert "max" in panels["wide"]["options"]["legend"]["calcs"]
    assert panels["narrow"]["options"]["legend"]["displayMode"] == "list"


def test_texts_stacking_and_threshold_lines():
    special = panel(
        stacked=True,
        texts=(("1", "on"), ("0", "off")),
        steps=(ThresholdStep(None, "blue"), ThresholdStep(1.0, "red")),
    )
    defaults = dashboard_json(dashboard(Row("", (special,))))["panels"][0]["fieldConfig"]["defaults"]
    assert defaults["custom"]["stacking"]["mode"] == "normal"
    assert defaults["custom"]["thresholdsStyle"]["mode"] == "dashed"
    assert defaults["mappings"][0]["options"] == {
        "1": {"text": "on", "index": 0},
        "0": {"text": "off", "index": 1},
    }


def test_the_grid_flows_and_wraps_at_24_columns():
    sizes = [(8, 8), (8, 4), (8, 6), (12, 5), (13, 5), (24, 3)]
    first = tuple(panel(title=str(i), width=w, height=h) for i, (w, h) in enumerate(sizes))
    tree = dashboard_json(dashboard(Row("", first), Row("Next", (panel(title="last"),))))
    places = {p["title"]: (p["gridPos"]["x"], p["gridPos"]["y"]) for p in tree["panels"]}
    assert list(places) == ["0", "1", "2", "3", "4", "5", "Next", "last"]
    assert list(places.values()) == [(0, 0), (8, 0), (16, 0), (0, 8), (0, 13), (0, 18), (0, 21), (0, 22)]


def test_no_two_panels_overlap():
    tree = dashboard_json(ALL)
    taken = [
        (x, y)
        for p in [*tree["panels"]]
        for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
        for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24


def test_a_closed_row_holds_its_panels_and_an_open_one_does_not():
    rows = [p for p in dashboard_json(ALL)["panels"] if p["type"] == "row"]
    assert [(row["title"], row["collapsed"], len(row["panels"])) for row in rows] == [
        ("Kinds", False, 0),
        ("Closed", True, len(KINDS)),
    ]


def test_ids_are_unique_and_survive_other_panels():
    one = {title: p["id"] for title, p in flat(dashboard_json(ALL)).items()}
    more = replace(ALL, rows=(Row("New", (panel(title="new"),)), *ALL.rows))
    two = {title: p["id"] for title, p in flat(dashboard_json(more)).items()}
    assert {title: number for title, number in two.items() if title in one} == one
    every = [value for key, value in inside(dashboard_json(more)) if key == "id" and isinstance(value, int)]
    assert len(every) == len(set(every)) == 2 * len(KINDS) + 1 + 3


def test_panels_of_one_title_get_ids_of_their_own_and_given_ids_stay():
    twins = (panel(title="t"), panel(title="t"), panel(title="t", panel_id=7))
    ids = [p["id"] for p in dashboard_json(dashboard(Row("", twins)))["panels"]]
    assert len(set(ids)) == 3
    assert ids[2] == 7


def test_variables_as_grafana_has_them():
    found = {v["name"]: v for v in dashboard_json(ALL)["templating"]["list"]}
    assert list(found) == [v.name for v in ALL.variables]
    source = found["datasource"]
    assert (source["type"], source["query"], source["label"]) == ("datasource", "prometheus", "Data source")
    job = found["job"]
    assert job["query"]["query"] == job["definition"] == "label_values(up, job)"
    assert (job["allValue"], job["multi"], job["includeAll"]) == (".+", True, True)
    assert (job["refresh"], job["sort"]) == (2, 1)
    assert job["label"] == "Job"
    assert job["current"] == {"text": ["All"], "value": ["$__all"]}
    assert job["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert found["one"]["current"]["value"] == "$__all"
    assert [option["value"] for option in found["choice"]["options"]] == ["a", "b"]
    assert "auto" not in job
    assert "auto" in found["window"]


def test_the_text_is_the_same_every_time():
    text = dashboard_text(ALL)
    assert text == dashboard_text(ALL)
    assert text.endswith("}\n")
    assert json.loads(text) == dashboard_json(ALL)
    assert list(json.loads(text)) == sorted(json.loads(text))


def test_writing_what_is_written_changes_nothing():
    assert as_written(as_written(ALL)) == as_written(ALL)
    assert dashboard_json(as_written(ALL)) == dashboard_json(ALL)


def test_an_unknown_kind_is_an_error_that_names_the_known_ones():
    with pytest.raises(InputError, match="timeseries") as error:
        dashboard_json(dashboard(Row("", (panel("graph"),))))
    assert "'graph'" in error.value.message
