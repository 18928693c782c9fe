"""Simulated proofs hold for what was built, and fail for what somebody changed, where it was changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from monitorgen.build import Built, build
from monitorgen.bundle import AlertRule, Bundle, RecordingRule, Rule
from monitorgen.profile import load_profile
from monitorgen.prove.ledger import Ledger
from monitorgen.prove.promtool import Promtool
from monitorgen.prove.scenarios import TestPlan, plan_tests
from monitorgen.prove.simulate import focus_on, simulate


@cache
def built(profile: str) -> Built:
    return build(load_profile(profile))


@cache
def planned(profile: str) -> TestPlan:
    return plan_tests(built(profile))


def proven(built: Built, plan: TestPlan, tool: Path, bundle: Bundle | None = None) -> Ledger:
    bundle = bundle or built.bundle
    ledger = Ledger("test", tuple(dict.fromkeys(built.bundle.items)))
    simulate(plan, bundle, [Promtool(str(tool))], ledger)
    return ledger


def unproven(ledger: Ledger) -> dict[str, str]:
    items = [item for item in ledger.items if not item.startswith("scrape/")]
    return {item: ledger.state(item, "simulated") for item in items if not holds(ledger, item)}


def holds(ledger: Ledger, item: str) -> bool:
    return ledger.state(item, "simulated") == "proven"


@pytest.mark.parametrize("profile", ["baseline", "optimized", "kernels", "speculative"])
def test_everything_that_was_built_is_proven(profile: str, promtool: Path) -> None:
    ledger = proven(built(profile), planned(profile), promtool)
    assert ledger.failed == []
    assert unproven(ledger) == {}


def changed(bundle: Bundle, item: str, change: Callable[[Rule], Rule]) -> Bundle:
    """The bundle with one rule changed; the rule must be there and the change must change it."""
    rule = next(rule for group in bundle.groups for rule in group.rules if rule.id == item)
    assert change(rule) != rule
    groups = (
        replace(group, rules=tuple(change(one) if one.id == item else one for one in group.rules))
        for group in bundle.groups
    )
    return replace(bundle, groups=tuple(groups))


def written(old: str, new: str) -> Callable[[Rule], Rule]:
    return lambda rule: replace(rule, expr=rule.expr.replace(old, new))


def held(seconds: float) -> Callable[[Rule], Rule]:
    def change(rule: Rule) -> Rule:
        assert isinstance(rule, AlertRule)
        return replace(rule, hold=seconds)

    return change


def annotated(old: str, new: str) -> Callable[[Rule], Rule]:
    def change(rule: Rule) -> Rule:
        assert isinstance(rule, AlertRule)
        return replace(rule, annotations=tuple((k, v.replace(old, new)) for k, v in rule.annotations))

    return change


def labelled(rule: Rule) -> Rule:
    assert isinstance(rule, AlertRule)
    return replace(rule, labels=(("severity", "warning"), ("team", "none")))


TTFT = "alert/TTFTHigh/warning"
CLAIMS: list[tuple[str, Callable[[Rule], Rule], str]] = [
    ("threshold 5% higher", written("> 0.6", "> 0.63"), "fires after its `for`"),
    ("threshold 5% lower", written("> 0.6", "> 0.57"), "silent: just not ttft"),
    ("traffic forgotten", lambda r: replace(r, expr=r.expr.split(" and ")[0]), "silent: too little traffic"),
    ("traffic 5% lower", written("> 0.1", "> 0.095"), "silent: too little traffic"),
    ("for a minute longer", held(360), "fires after its `for`"),
    ("for a minute shorter", held(240), "not before its `for`"),
    ("no for", held(0), "not before its `for`"),
    ("comparison turned", written("> 0.6", "< 0.6"), "silent while calm"),
    ("never resolves", written(" and ", " or "), "resolved"),
    (
        "label lost",
        lambda r: replace(r, expr=f"max without (model_name) ({r.expr})"),
        "fires after its `for`",
    ),
    ("another formatter", annotated("humanizeDuration", "humanize"), "labels and annotations"),
    ("another label", annotated("$labels.model_name", "$labels.job"), "labels and annotations"),
    ("brace lost", annotated("{{ $labels.instance }}", "{{ $labels.instance"), "labels and annotations"),
    ("rule label added", labelled, "labels and annotations"),
]


@pytest.mark.parametrize(("change", "claim"), [c[1:] for c in CLAIMS], ids=[c[0] for c in CLAIMS])
def test_a_changed_alert_breaks_the_claim_that_is_about_the_change(
    change: Callable[[Rule], Rule], claim: str, one_promtool: Path
) -> None:
    plan = planned("baseline")
    focused = TestPlan(focus_on(plan.tests, {TTFT}))
    assert proven(built("baseline"), focused, one_promtool).failed == []
    ledger = proven(built("baseline"), focused, one_promtool, changed(built("baseline").bundle, TTFT, change))
    assert {proof.item for proof in ledger.failed} == {TTFT}
    assert claim in {proof.claim for proof in ledger.failed}


def test_only_the_changed_alert_is_blamed(one_promtool: Path) -> None:
    bundle = changed(built("baseline").bundle, "alert/KVCacheHigh/warning", written("> 0.9", "> 0.97"))
    ledger = proven(built("baseline"), planned("baseline"), one_promtool, bundle)
    assert {proof.item for proof in ledger.failed} == {"alert/KVCacheHigh/warning"}


def test_a_changed_record_is_blamed_with_all_that_shows_it_and_nothing_else(one_promtool: Path) -> None:
    record = "record/model:vllm_prefill_seconds:p90_5m"
    bundle = changed(built("baseline").bundle, record, written("0.9,", "0.92,"))
    ledger = proven(built("baseline"), planned("baseline"), one_promtool, bundle)
    assert {proof.item for proof in ledger.failed} == {record, "panel/monitorgen-baseline/Prefill time"}
    assert all("its value" in p.claim for p in ledger.failed if p.item == record)


def test_a_rule_that_does_not_parse_takes_nobody_else_along(one_promtool: Path) -> None:
    bundle = changed(built("baseline").bundle, TTFT, written("> 0.6", "> > 0.6"))
    ledger = proven(built("baseline"), planned("baseline"), one_promtool, bundle)
    assert {proof.item for proof in ledger.failed} == {TTFT}


def test_a_panel_that_is_gone_is_a_failed_proof() -> None:
    bundle = replace(built("baseline").bundle, dashboards=())
    ledger = Ledger("test", tuple(built("baseline").bundle.items))
    simulate(planned("baseline"), bundle, [], ledger)
    panels = {item for item in ledger.items if item.startswith("panel/")}
    assert {proof.item for proof in ledger.failed} == panels


OWN = """
title: Own
engines: {vllm: ">=0.9, <0.33"}
labels: {keep: [cluster, job, instance, model_name], target: {cluster: eu-1}}
SCRAPE
thresholds: {slow: 2s, many: 40, hot: 80%, drain: 0.5}
signals:
  wait:
    help: Mean and tail of the queue time over two hours.
    family: vllm:request_queue_time_seconds
    quantiles: [0.75]
    mean: true
    window: 2h
  finished: {help: Finished requests., family: vllm:request_success_total, by: [finished_reason], window: 1h}
  done: {help: Finished requests of any kind., family: vllm:request_success_total, window: 10m}
  running_last: {help: Requests that run., family: vllm:num_requests_running, reduce: sum, over: last}
  running_min: {help: Requests that run., family: vllm:num_requests_running, reduce: min, over: min}
  running_max:
    help: Requests that run.
    family: vllm:num_requests_running
    reduce: max
    over: max
    window: 1h
  running_avg: {help: Requests that run., family: vllm:num_requests_running, reduce: avg, over: avg}
  running_now: {help: Requests that run., family: vllm:num_requests_running, reduce: sum}
  usage:
    help: Share of the cache.
    family: [vllm:kv_cache_usage_perc, vllm:gpu_cache_usage_perc]
    reduce: avg
  load: {help: Twice what runs., expr: "2 * [[ running_now ]]", unit: requests}
  drain: {help: Chain of expressions., expr: "[[ done ]] / ([[ load ]] > 0)", unit: 1/s}
alerts:
  MeanSlow:
    when: wait.mean > slow
    for: 30m
    severity: warning
    summary: "{{ $labels.model_name }} of {{ $labels.cluster }} waits {{ $value | humanizeDuration }}"
    action: Look at the queue.
  TailSlow:
    when: wait.p75 > slow
    for: 20m
    severity: info
    summary: It is slow now
    action: Look at the queue.
  Busy:
    when: load >= many
    traffic: done > 0.1
    for: 3m
    severity: info
    summary: It is busy now
    action: Look at the queue.
  Hot:
    when: usage > hot and running_min > 0
    for: 1m
    severity: info
    summary: It is hot now
    action: Look at the queue.
  Stuck:
    when: drain < drain and running_max > 1
    for: 5m
    severity: info
    summary: It is stuck now
    action: Look at the queue.
dashboard:
  - row: All
    panels: [wait, finished, running_last, running_avg, load, drain, {signal: wait, kind: heatmap, title: H}]
"""
JOBS = 'scrape: {chat: {engine: vllm, targets: ["localhost:8000"]}}'


@pytest.mark.parametrize("scrape", [JOBS, ""], ids=["a scrape job", "no scrape jobs"])
def test_a_profile_of_ones_own_is_proven(scrape: str, promtool: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN.replace("SCRAPE", scrape))
    own = build(load_profile(str(tmp_path / "own.yaml")))
    records = {rule.record for rule in own.bundle.recording_rules}
    assert len(records) == 12
    assert all("cluster" in rule.expr or "vllm:" not in rule.expr for rule in own.bundle.recording_rules)
    plan = plan_tests(own)
    assert plan.reasons == {}
    ledger = proven(own, plan, promtool)
    assert ledger.failed == []
    assert unproven(ledger) == {}


@pytest.mark.parametrize(
    ("sets", "alert", "reason"),
    [
        ("thresholds.ttft_p90_warn=20000s", "alert/TTFTHigh/warning", "cannot be above 20000s"),
        ("thresholds.kv_warn=100%", "alert/KVCacheHigh/warning", "cannot be above 100%"),
        (
            "alerts.TTFTHigh.summary='{{ $value | title }}'",
            "alert/TTFTHigh/warning",
            "the template action {{ $value | title }} is not known to the simulation",
        ),
    ],
)
def test_an_alert_without_a_proof_has_a_reason(sets: str, alert: str, reason: str) -> None:
    plan = plan_tests(build(load_profile("baseline", sets=[sets])))
    assert reason in plan.reasons[alert]
    ledger = Ledger("test", (alert,))
    simulate(plan, built("baseline").bundle, [], ledger)
    assert ledger.state(alert, "simulated") == "unproven"
    assert reason in ledger.reasons[alert]["simulated"]


def test_the_same_profile_gives_the_same_tests() -> None:
    again = plan_tests(build(load_profile("baseline")))
    assert [(t.name, t.asks, t.fires) for t in again.tests] == [
        (t.name, t.asks, t.fires) for t in planned("baseline").tests
    ]


def test_every_record_is_asked_for_twice_and_every_panel_for_one_target() -> None:
    tests = planned("optimized").tests
    asked = {item: {ask.time for t in tests for ask in t.asks if ask.item == item} for item in records()}
    assert all(len(times) >= 2 for times in asked.values())


def records() -> set[str]:
    return {rule.id for rule in built("optimized").bundle.recording_rules if isinstance(rule, RecordingRule)}
