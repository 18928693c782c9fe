"""Dashboards and rules of other projects are all read, as counted without our readers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from monitorgen.readers import read_dashboard, read_folder, read_rules

PEERS = Path(__file__).resolve().parents[3] / "shared" / "data" / "peers"
pytestmark = pytest.mark.skipif(not PEERS.is_dir(), reason="../shared with other projects' files is not here")
DASHBOARDS = sorted(PEERS.rglob("*.json"))
RULES = sorted(PEERS.rglob("*.yaml"))


def panels_of(tree) -> list[dict]:
    return [
        p for outer in tree.get("panels", []) for p in (outer, *outer.get("panels", [])) if p["type"] != "row"
    ]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_dashboard_is_read_whole(path):
    tree = json.loads(path.read_text())
    dashboard = read_dashboard(path)
    assert [p.title for p in dashboard.panels] == [p.get("title", "") for p in panels_of(tree)]
    wanted = [t["expr"] for p in panels_of(tree) for t in p.get("targets", []) if t.get("expr")]
    assert [q.expr for p in dashboard.panels for q in p.queries] == wanted
    lines = path.read_text().splitlines()
    for panel in dashboard.panels:
        assert lines[panel.origin.line - 1][panel.origin.column - 1] == "{"


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_every_rule_is_read_with_its_line(path):
    tree = yaml.safe_load(path.read_text())
    rules = [rule for group in read_rules(path) for rule in group.rules]
    assert [rule.expr for rule in rules] == [
        str(r["expr"]) for group in tree["groups"] for r in group["rules"]
    ]
    lines = path.read_text().splitlines()
    for rule in rules:
        begins = lines[rule.origin.line - 1][rule.origin.column - 1 :]
        assert begins.startswith(("alert:", "record:", "expr:", '"alert":', '"expr":', '"record":'))


def test_all_of_them_are_one_bundle():
    bundle = read_folder(PEERS)
    assert len(bundle.dashboards) == len(DASHBOARDS)
    assert {group.file for group in bundle.groups} == {str(path.relative_to(PEERS)) for path in RULES}
