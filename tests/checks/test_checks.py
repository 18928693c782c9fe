"""Every check in tables: what it must find, and what looks alike and must pass.

A case patches a healthy little bundle (`_HEALTHY`) that no check complains about. The tables are in `cases/`,
a file for each group of checks: a check, then cases that fire (`says`: words of the finding) and silent ones.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitorgen.bundle import (
    AlertRule,
    Bundle,
    Dashboard,
    Origin,
    Panel,
    Query,
    RecordingRule,
    Row,
    Rule,
    RuleGroup,
    Runbook,
    ScrapeJob,
    ThresholdStep,
    Variable,
    pairs,
)
from monitorgen.catalog import Catalog, Family, in_range
from monitorgen.checks import Context, Finding, all_checks, run
from monitorgen.errors import InputError

CASES = Path(__file__).parent / "cases"


@cache
def _toy() -> dict[str, tuple[Catalog, ...]]:
    """An engine of three versions: toy_old_use became toy_use in 2.0, toy_fresh_total came with 2.0."""

    def family(name: str, kind: Any, unit: str, *labels: str, **more: Any) -> Family:
        return Family(name, kind, unit, labels=tuple(sorted({"model_name", *labels})), **more)

    always = [
        family("toy_requests_total", "counter", "requests", "reason", values={"reason": ("failed", "ok")}),
        family("toy_tokens_total", "counter", "tokens"),
        family("toy_busy_seconds_total", "counter", "seconds"),
        family("toy_latency_seconds", "histogram", "seconds", buckets=(0.1, 0.5, 1.0, 2.5)),
        family("toy_running", "gauge", "requests"),
        family("toy_waiting", "gauge", "requests"),
        family("toy_memory_bytes", "gauge", "bytes"),
        family("toy_position_total", "counter", "tokens", "position", values={"position": ("0", "1")}),
        family("toy_flagged", "gauge", "number", needs="--flag"),
        family("toy_odd_total", "gauge", "number"),
    ]
    old, use = family("toy_old_use", "gauge", "ratio"), family("toy_use", "gauge", "ratio")
    fresh = family("toy_fresh_total", "counter", "events", "kind")
    gone = family("toy_gone", "gauge", "number")
    relabelled = family("toy_relabelled", "gauge", "number")
    return {
        "toy": tuple(
            Catalog("toy", version, {one.name: one for one in (*always, *extra)})
            for version, extra in {
                "1.0": (old, gone, relabelled),
                "2.0": (use, fresh, gone, replace(relabelled, labels=("engine", "model_name"))),
                "3.0": (use, fresh, replace(relabelled, labels=("engine", "model_name"))),
            }.items()
        )
    }


_ANNOTATIONS = {
    "summary": "Requests of {{ $labels.model_name }} wait",
    "description": "{{ $value | humanize }} requests wait at {{ $labels.instance }}.",
    "runbook_url": "https://example.org/runbooks/ToyWaits",
}
_MATCHERS = '{job=~"$job", instance=~"$instance", model_name=~"$model_name"}'
_HEALTHY: dict[str, Any] = {
    "record": {
        "record": "model:toy_waiting:max_5m",
        "expr": "max by (job, instance, model_name) (max_over_time(toy_waiting[5m]))",
        "unit": "requests",
        "signal": "waiting",
    },
    "alert": {
        "alert": "ToyWaits",
        "expr": "model:toy_waiting:max_5m > 50",
        "hold": 300.0,
        "labels": {"severity": "warning"},
        "annotations": _ANNOTATIONS,
    },
    "panel": {
        "title": "Waiting",
        "description": "Requests that wait.",
        "unit": "short",
        "minimum": 0.0,
        "steps": [[None, "green"], [50, "red"]],
        "signal": "waiting",
    },
    "query": {"expr": f"model:toy_waiting:max_5m{_MATCHERS}", "legend": "{{model_name}} {{instance}}"},
    "dashboard": {"uid": "toy", "title": "Toy"},
    "variables": [
        {"name": "datasource", "kind": "datasource", "label": "Data source", "query": "prometheus"},
        *(
            {
                "name": name,
                "label": name.title(),
                "query": f"label_values(toy_running{earlier}, {name})",
                "multi": True,
                "include_all": True,
                "all_value": ".+",
            }
            for name, earlier in (
                ("job", ""),
                ("instance", '{job=~"$job"}'),
                ("model_name", '{job=~"$job", instance=~"$instance"}'),
            )
        ),
    ],
    "job": {"job": "toy", "targets": ["localhost:8000"], "engine": "toy"},
    "bundle": {"name": "toy", "engines": [["toy", ">=1.0"]], "keep": ["model_name"]},
    "group": {"interval": 60.0},
}
_ORIGIN = Origin("toy.yaml", 7, 3)


def _merged(patch: dict[str, Any]) -> dict[str, Any]:
    """The healthy parts with a case's words laid over them; None removes a part or a key."""
    spec = copy.deepcopy(_HEALTHY)
    for part, value in patch.items():
        if isinstance(value, dict) and isinstance(spec.get(part), dict):
            for key, inner in value.items():
                if key in ("annotations", "labels") and isinstance(inner, dict):
                    inner = {**spec[part].get(key, {}), **inner}
                    inner = {name: text for name, text in inner.items() if text is not None}
                spec[part][key] = inner
        else:
            spec[part] = value
    return spec


def _rule(words: dict[str, Any]) -> Rule:
    labels = pairs(words.get("labels", {}))
    if "record" in words:
        more = {key: words[key] for key in ("unit", "signal", "since", "needs") if key in words}
        return RecordingRule(words["record"], words["expr"], labels, origin=_ORIGIN, **more)
    more = {key: words[key] for key in ("hold", "keep_firing_for", "since", "needs") if key in words}
    annotations = pairs(words.get("annotations", {}))
    return AlertRule(
        words["alert"], words["expr"], labels=labels, annotations=annotations, origin=_ORIGIN, **more
    )


def _variations(spec: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """More rules of a kind: their own words over the healthy one."""
    return [_merged({kind: words})[kind] for words in spec.get(f"{kind}s", ())]


def _groups(spec: dict[str, Any]) -> tuple[RuleGroup, ...]:
    rules = [_rule(one) for one in (spec["record"], *_variations(spec, "record"))]
    alerts = [_rule(one) for one in (spec["alert"], *_variations(spec, "alert"))]
    groups = [RuleGroup("toy.recording", tuple(rules), file="r.yaml", origin=_ORIGIN, **spec["group"])]
    groups.append(RuleGroup("toy.alerts", tuple(alerts), file="a.yaml", origin=_ORIGIN, **spec["group"]))
    for extra in spec.get("groups", ()):
        more = tuple(_rule(one) for one in extra["rules"])
        groups.append(
            RuleGroup(extra["name"], more, extra.get("interval", 60.0), file=extra.get("file", "r.yaml"))
        )
    return tuple(groups)


def _panel(spec: dict[str, Any], words: dict[str, Any]) -> Panel:
    words = {**spec["panel"], **words}
    queries = words.pop("queries", [spec["query"]])
    words["steps"] = tuple(ThresholdStep(value, color) for value, color in words["steps"])
    asked = tuple(Query(**{**spec["query"], **query}) for query in queries)
    return Panel(queries=asked, origin=_ORIGIN, **words)


def _dashboards(spec: dict[str, Any]) -> tuple[Dashboard, ...]:
    panels = tuple(_panel(spec, words) for words in ({}, *spec.get("panels", ())))
    variables = [Variable(**one) for one in spec["variables"]]
    for name, words in spec.get("variable", {}).items():
        variables = [replace(one, **words) if one.name == name else one for one in variables]
    first = Dashboard(
        rows=(Row("All", panels),), variables=tuple(variables), origin=_ORIGIN, **spec["dashboard"]
    )
    return (first, *(replace(first, **words) for words in spec.get("dashboards", ())))


def bundle_of(patch: dict[str, Any]) -> Bundle:
    """The healthy bundle, patched."""
    spec = _merged(patch)
    words = {
        key: tuple(map(tuple, value)) if key == "engines" else value for key, value in spec["bundle"].items()
    }
    words["runbooks"] = tuple(Runbook(alert, "") for alert in words.get("runbooks", ()))
    words["keep"] = tuple(words["keep"])
    jobs = [{**spec["job"], **one} for one in ({}, *spec.get("jobs", ()))] if spec["job"] else []
    scrapes = [
        ScrapeJob(**{**one, "targets": tuple(one["targets"]), "labels": pairs(one.get("labels", {}))})
        for one in jobs
    ]
    return Bundle(groups=_groups(spec), dashboards=_dashboards(spec), scrape_jobs=tuple(scrapes), **words)


def findings(patch: dict[str, Any], *only: str) -> tuple[Finding, ...]:
    """What the checks say of the healthy bundle under a patch."""
    patch = dict(patch)
    catalogs = {"toy": _toy()["toy"], "none": (), "vllm": ()}[patch.pop("catalogs", "toy")]
    return run(Context(bundle_of(patch), {"toy": catalogs} if catalogs else {}), only or None)


def _tables() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(check id, `fires` or `silent`, case) of every table."""
    for path in sorted(CASES.glob("*.yaml")):
        for check, table in yaml.safe_load(path.read_text("utf-8")).items():
            for outcome, cases in table.items():
                for case in cases:
                    yield check, outcome, case


TABLES = list(_tables())


def _ids(rows: list[tuple[str, str, dict[str, Any]]]) -> list[str]:
    return [f"{check}-{number}" for number, (check, _, _) in enumerate(rows)]


FIRING = [row for row in TABLES if row[1] == "fires"]
SILENT = [row for row in TABLES if row[1] == "silent"]


@pytest.mark.parametrize(("check", "_outcome", "case"), FIRING, ids=_ids(FIRING))
def test_check_finds(check, _outcome, case):
    case = dict(case)
    says = case.pop("says")
    found = findings(case, check)
    assert found, "nothing was found"
    assert {one.check for one in found} == {check}
    assert any(says in f"{one.message} {one.hint}" for one in found), [str(one) for one in found]


@pytest.mark.parametrize(("check", "_outcome", "case"), SILENT, ids=_ids(SILENT))
def test_check_is_silent(check, _outcome, case):
    assert [str(one) for one in findings(case, check)] == []


def test_every_check_has_a_firing_case():
    assert {check for check, _, _ in FIRING} == {check.id for check in all_checks()}


def test_the_healthy_bundle_has_no_findings():
    assert [str(one) for one in findings({})] == []


def test_a_bundle_without_catalogs_has_no_findings_about_metrics():
    assert [str(one) for one in findings({"catalogs": "none"})] == []


def test_findings_are_sorted_and_say_where():
    found = findings({"alert": {"expr": "toy_wating > 50", "labels": {"severity": "page"}}})
    assert found == tuple(sorted(found, key=lambda one: one.order))
    unknown = next(one for one in found if one.check == "metric-exists")
    assert unknown.origin == _ORIGIN
    assert unknown.expr[unknown.start : unknown.end] == "toy_wating"
    assert unknown.underlined.splitlines()[1].startswith("^^^^^^^^^^")
    assert str(unknown).startswith("toy.yaml:7:3: error: alert/ToyWaits/page: no catalog has")


def test_an_unknown_check_is_refused():
    with pytest.raises(InputError, match="no check called nonsense"):
        findings({}, "nonsense")


def test_every_check_has_a_sentence():
    for one in all_checks():
        assert one.sentence.endswith("."), one.id
        assert len(one.sentence) > 20, one.id


def test_catalogs_are_loaded_for_the_engines_of_the_bundle():
    bundle = replace(bundle_of({}), engines=(("vllm", ">=0.30"),))
    context = Context(bundle)
    assert context.catalogs["vllm"] == in_range("vllm", ">=0.30")
    assert "prometheus" in context.catalogs
