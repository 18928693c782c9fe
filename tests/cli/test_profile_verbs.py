"""`monitorgen profile`: list, show, new, schema; and the path of a new user."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from monitorgen.profile import builtin_folder, builtin_names
from monitorgen.profile.schema import profile_schema


def test_list(run):
    out = run("profile", "list").out
    assert "baseline" in out
    assert "optimized" in out
    assert "3 alerts" in next(line for line in out.splitlines() if line.startswith("baseline"))
    assert "7 alerts" in next(line for line in out.splitlines() if line.startswith("kernels"))


def test_show_is_the_merged_profile_and_builds(run):
    shown = run("profile", "show", "optimized", "--set", "kv_warn=77%")
    data = yaml.safe_load(shown.out)
    assert data["thresholds"]["kv_warn"] == "77%"
    assert data["thresholds"]["ttft_p90_warn"] == "600ms", "from baseline"
    assert data["signals"]["ttft"]["quantiles"] == [0.5, 0.9, 0.99]
    data.pop("extends")
    Path("flat.yaml").write_text(yaml.safe_dump(data | {"name": "optimized"}, sort_keys=False))
    for name in ("flat.yaml", "optimized"):
        assert run("build", "-p", name, "-o", Path(name).stem, "--set", "kv_warn=77%").code == 0
    rules = [Path(folder, "rules/alerts.yaml").read_text() for folder in ("flat", "optimized")]
    assert rules[0] == rules[1]


def test_show_of_nothing(refused):
    assert "did you mean baseline?" in refused("profile", "show", "baselin")


def test_new_builds_and_its_alert_is_proven(run, one_promtool):
    assert run("profile", "new", "mine.yaml").code == 0
    assert run("build", "--profile", "mine.yaml", "--out", "out").code == 0
    assert "PromptsLong" in Path("out/rules/alerts.yaml").read_text()
    Path("mine.yaml").write_text(
        Path("mine.yaml").read_text().replace("extends: optimized", "extends: baseline")
    )
    text = Path("mine.yaml").read_text().replace("finished > min_traffic", "finished > 0.1")
    Path("mine.yaml").write_text(text)
    ran = run("check", "--profile", "mine.yaml", "--promtool", one_promtool, "--format", "json", "--require")
    assert ran.code == 0, ran.out[-2000:]
    ledger = json.loads(ran.out)
    proofs = next(row["proofs"] for row in ledger["items"] if row["item"] == "alert/PromptsLong/info")
    assert {proof["level"] for proof in proofs if proof["holds"]} == {"static", "simulated"}
    assert all(proof["holds"] for proof in proofs)


def test_new_overwrites_nothing(run, refused):
    Path("mine.yaml").write_text("mine")
    assert "exists already" in refused("profile", "new", "mine.yaml")
    assert Path("mine.yaml").read_text() == "mine"
    assert "there is no profile 'optimised'" in refused("profile", "new", "x.yaml", "--extends", "optimised")
    assert "cannot write" in refused("profile", "new", "no/folder.yaml")


@pytest.fixture(scope="module")
def validator():
    schema = profile_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", builtin_names())
def test_the_schema_takes_what_ships(validator, name):
    data = yaml.safe_load((builtin_folder() / f"{name}.yaml").read_text())
    # A child may say less of a signal than a whole one has: its parent says the rest.
    assert [error.message for error in validator.iter_errors(data)] == []


def test_the_schema_takes_the_starter(run, validator):
    run("profile", "new", "mine.yaml")
    assert [e.message for e in validator.iter_errors(yaml.safe_load(Path("mine.yaml").read_text()))] == []


@pytest.mark.parametrize(
    "text",
    [
        "extends: baseline\nsignals: {ttft: null}\n",
        "extends: baseline\nalerts: {TTFTHigh: null}\nthresholds: {kv_warn: null}\n",
        "extends: baseline\nalerts: {TTFTHigh: {for: 10m}}\n",
        "signals: {a: {help: Something of mine., family: up, where: {job: x}}}\n",
    ],
)
def test_the_schema_takes(validator, text):
    assert [error.message for error in validator.iter_errors(yaml.safe_load(text))] == []


@pytest.mark.parametrize(
    "text",
    [
        "signalz: {}\n",
        "signals: []\n",
        "signals: {ttft: {famly: up}}\n",
        "signals: {ttft: {quantiles: [a]}}\n",
        "alerts: {A: {severity: page}}\n",
        "dashboard: [{row: A, panels: [{titel: a}]}]\n",
        "scrape: {a: {engine: vllm, targets: a}}\n",
        "thresholds: {kv_warn: [1]}\n",
    ],
)
def test_the_schema_refuses(validator, text):
    assert not validator.is_valid(yaml.safe_load(text))


def test_schema_to_a_file(run):
    said = run("profile", "schema", "-o", "s.json")
    assert "yaml-language-server: $schema=s.json" in said.out
    assert (
        json.loads(Path("s.json").read_text()) == json.loads(run("profile", "schema").out) == profile_schema()
    )
