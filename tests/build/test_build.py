"""From profiles to bundles: names, labels, conditions, panels, runbooks; and golden files of baseline."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from monitorgen.build import build
from monitorgen.profile import load_profile
from monitorgen.promql import Labels, grafana_substitute, label_flow, selectors
from monitorgen.prove.files import profile_files

GOLDEN = Path(__file__).parents[1] / "golden"
KEPT = "job, instance, model_name"


@pytest.fixture(scope="module")
def optimized():
    return build(load_profile("optimized"))


def made(tmp_path, text):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    return build(load_profile(str(path)))


def signal(body):
    return f"extends: baseline\nsignals:\n  mine:\n    help: Something of mine.\n{body}"


def mine(tmp_path, body):
    """The records of one signal: name -> expression."""
    bundle = made(tmp_path, signal(body)).bundle
    return {rule.record: rule.expr for rule in bundle.recording_rules if rule.signal == "mine"}


RECORDS = [
    (
        "    family: vllm:e2e_request_latency_seconds\n    quantiles: [0.5, 0.999]\n    mean: true\n",
        {
            "model:vllm_mine_seconds:p50_5m": f"histogram_quantile(0.5, sum by (le, {KEPT}) "
            "(rate(vllm:e2e_request_latency_seconds_bucket[5m])))",
            "model:vllm_mine_seconds:p999_5m": f"histogram_quantile(0.999, sum by (le, {KEPT}) "
            "(rate(vllm:e2e_request_latency_seconds_bucket[5m])))",
            "model:vllm_mine_seconds:mean_5m": f"sum by ({KEPT}) "
            "(rate(vllm:e2e_request_latency_seconds_sum[5m]))"
            f" / (sum by ({KEPT}) (rate(vllm:e2e_request_latency_seconds_count[5m])) > 0)",
        },
    ),
    (
        "    family: vllm:request_success_total\n    window: 10m\n",
        {"model:vllm_mine:rate10m": f"sum by ({KEPT}) (rate(vllm:request_success_total[10m]))"},
    ),
    (
        "    family: vllm:request_success_total\n    by: [finished_reason]\n",
        {
            "model_finished_reason:vllm_mine:rate5m": f"sum by ({KEPT}, finished_reason) "
            "(rate(vllm:request_success_total[5m]))"
        },
    ),
    (
        "    family: vllm:request_success_total\n    where: {finished_reason: [abort, error]}\n",
        {
            "model:vllm_mine:rate5m": f"sum by ({KEPT}) "
            '(rate(vllm:request_success_total{finished_reason=~"abort|error"}[5m]))'
        },
    ),
    (
        "    family: vllm:num_requests_running\n    reduce: sum\n    over: max\n",
        {"model:vllm_mine:sum_max_5m": f"sum by ({KEPT}) (max_over_time(vllm:num_requests_running[5m]))"},
    ),
    (
        "    family: vllm:num_requests_running\n",
        {"model:vllm_mine:max": f"max by ({KEPT}) (vllm:num_requests_running)"},
    ),
    (
        "    family: vllm:num_requests_running\n    record: vllm:mine\n",
        {"vllm:mine": f"max by ({KEPT}) (vllm:num_requests_running)"},
    ),
    ("    family: up\n", {"instance:prometheus_mine:max": "max by (job, instance) (up)"}),
    (
        "    ratio:\n      of: {family: vllm:num_preemptions_total}\n"
        "      to: {family: vllm:request_success_total}\n",
        {
            "model:vllm_mine_ratio:ratio_rate5m": (
                f"(sum by ({KEPT}) (rate(vllm:num_preemptions_total[5m]))"
                f" or 0 * sum by ({KEPT}) (rate(vllm:request_success_total[5m])))"
                f" / (sum by ({KEPT}) (rate(vllm:request_success_total[5m])) > 0)"
            )
        },
    ),
    (  # of a total that it is part of: no series of it, no total
        "    ratio:\n      of: {family: vllm:admission_rejections_total}\n"
        "      to: [{family: vllm:request_success_total}, {family: vllm:admission_rejections_total}]\n"
        '    since: "0.32"\n',
        {
            "model:vllm_mine_ratio:ratio_rate5m": (
                f"sum by ({KEPT}) (rate(vllm:admission_rejections_total[5m]))"
                f" / ((sum by ({KEPT}) (rate(vllm:request_success_total[5m]))"
                f" + sum by ({KEPT}) (rate(vllm:admission_rejections_total[5m]))) > 0)"
            )
        },
    ),
    (
        "    expr: '[[ running ]] + [[ ttft.p90 ]]'\n    unit: requests\n",
        {"model:vllm_mine:value": "model:vllm_running:sum_avg_5m + model:vllm_ttft_seconds:p90_5m"},
    ),
]


@pytest.mark.parametrize(("body", "records"), RECORDS)
def test_what_a_signal_records(tmp_path, body, records):
    assert mine(tmp_path, body) == records


def test_a_renamed_family_is_read_by_both_names(tmp_path):
    names = "vllm:inter_token_latency_seconds, vllm:time_per_output_token_seconds"
    body = f"    family: [{names}]\n    quantiles: [0.9]\n"
    (expr,) = mine(tmp_path, body).values()
    branches = [
        f"sum by (le, {KEPT}) (rate(vllm:{name}_seconds_bucket[5m]))"
        for name in ("inter_token_latency", "time_per_output_token")
    ]
    assert expr == f"histogram_quantile(0.9, {branches[0]} or {branches[1]})"


def test_documented_names_are_kept(optimized):
    names = {rule.record for rule in optimized.bundle.recording_rules}
    assert {"vllm:decode_graph_recaptures_rate", "vllm:decode_allocator_mb"} <= names
    pattern = re.compile(r"(model|instance|job)(_\w+)?:(vllm|workload|prometheus)_[a-z0-9_]+:[a-z0-9_]+")
    others = names - {"vllm:decode_graph_recaptures_rate", "vllm:decode_allocator_mb"}
    assert [name for name in others if not pattern.fullmatch(name)] == []


CLUSTER = "labels: {keep: [cluster, job, instance, model_name], target: {cluster: eu-1}}\n"


def test_a_kept_label_of_the_scrape_is_in_every_rule_and_panel(tmp_path):
    bundle = made(tmp_path, f"extends: optimized\n{CLUSTER}").bundle
    target = frozenset({"cluster", "job", "instance", "model_name", "mode", "reason", "status", "le"})
    for rule in (*bundle.recording_rules, *bundle.alerts):
        labels = label_flow(rule.expr, lambda selector: Labels(target, frozenset(), open=False)).labels
        assert "cluster" in labels.always | labels.maybe or "absent(" in rule.expr, rule
    for panel in bundle.dashboards[0].panels:
        for query in panel.queries:
            for selector in selectors(grafana_substitute(query.expr)):
                assert (
                    "cluster" in {matcher.name for matcher in selector.matchers} or "absent" in query.expr
                ), query
    assert [v.name for v in bundle.dashboards[0].variables] == [
        "datasource",
        "cluster",
        "job",
        "instance",
        "model_name",
    ]
    assert {dict(job.labels)["cluster"] for job in bundle.scrape_jobs} == {"eu-1"}
    summaries = [
        dict(rule.annotations)["description"] for rule in bundle.alerts if "absent(" not in rule.expr
    ]
    assert [text for text in summaries if "$labels.cluster" not in text] == []


CONDITIONS = [
    ("ttft.p90 > 1s", "model:vllm_ttft_seconds:p90_5m > 1"),
    ("ttft > 600ms", "model:vllm_ttft_seconds:p90_5m > 0.6"),
    ("  ttft.p90   >=   1m  ", "model:vllm_ttft_seconds:p90_5m >= 60"),
    ("ttft.p90>1s", "model:vllm_ttft_seconds:p90_5m > 1"),
    ("kv_cache_usage < 5%", "model:vllm_kv_cache_usage_ratio:max_max_5m < 0.05"),
    ("running == 0", "model:vllm_running:sum_avg_5m == 0"),
    ("running != 0", "model:vllm_running:sum_avg_5m != 0"),
    ("kv_cache_usage > kv_warn", "model:vllm_kv_cache_usage_ratio:max_max_5m > 0.9"),
    (
        "running > 1 and waiting > 2",
        "model:vllm_running:sum_avg_5m > 1 and model:vllm_waiting:sum_avg_5m > 2",
    ),
    ("finished > 6/min", "model:vllm_finished:rate5m > 0.1"),
]


@pytest.mark.parametrize(("when", "expr"), CONDITIONS)
def test_conditions(tmp_path, when, expr):
    text = yaml.safe_dump(
        {
            "extends": "baseline",
            "alerts": {
                "Mine": {
                    "when": when,
                    "for": "1m",
                    "severity": "info",
                    "summary": "Something is wrong.",
                    "action": "Look at it.",
                }
            },
        }
    )
    rules = {rule.alert: rule for rule in made(tmp_path, text).bundle.alerts}
    assert rules["Mine"].expr == expr
    assert rules["Mine"].hold == 60


def test_panels(optimized):
    panels = {panel.title: panel for panel in optimized.bundle.dashboards[0].panels}
    ttft = panels["Time to first token"]
    assert [(step.value, step.color) for step in ttft.steps] == [
        (None, "green"),
        (0.6, "orange"),
        (1.5, "red"),
    ]
    assert [query.ref_id for query in ttft.queries] == ["A", "B", "C"]
    assert [query.legend.split()[0] for query in ttft.queries] == ["p50", "p90", "p99"]
    assert all("{{model_name}}" in query.legend and "{{instance}}" in query.legend for query in ttft.queries)
    assert (ttft.unit, ttft.minimum, ttft.maximum) == ("s", 0.0, None)
    cache = panels["KV cache usage"]
    assert [(step.value, step.color) for step in cache.steps] == [
        (None, "green"),
        (0.9, "orange"),
        (0.98, "red"),
    ]
    assert (cache.unit, cache.maximum) == ("percentunit", 1.0)
    cold = panels["Prefix cache hit ratio"]
    assert [step.value for step in cold.steps] == [None, 0.05]
    assert cold.steps[-1].color == "green"
    heat = panels["Time to first token, spread"]
    assert heat.kind == "heatmap"
    assert "increase(vllm:time_to_first_token_seconds_bucket{" in heat.queries[0].expr
    assert "[$__rate_interval]" in heat.queries[0].expr


def test_many_series_of_a_panel_count_on_after_z(tmp_path):
    quantiles = [round(0.01 * n, 2) for n in range(10, 40)]
    text = signal(f"    family: vllm:e2e_request_latency_seconds\n    quantiles: {quantiles}\n")
    bundle = made(tmp_path, text + "dashboard:\n  - {row: Mine, panels: [mine]}\n").bundle
    panel = next(panel for panel in bundle.dashboards[0].panels if panel.signal == "mine")
    refs = [query.ref_id for query in panel.queries]
    assert refs[25:30] == ["Z", "AA", "AB", "AC", "AD"]


def test_a_runbook_for_each_alert(optimized):
    pages = {page.alert: page.markdown for page in optimized.bundle.runbooks}
    for rule in optimized.bundle.alerts:
        page = pages[rule.alert]
        spec = optimized.loaded.profile.alerts[rule.alert]
        assert rule.expr in page
        assert spec.action in page
        assert f"**Severity:** {spec.severity}" in page
        assert dict(rule.annotations)["runbook_url"].endswith(f"/{rule.alert}")
        assert not re.search(r"\[\[|\]\]|\[%|\n\n\n", page), rule.alert
    assert len(pages) == len(list(optimized.bundle.alerts))


def test_rules_stand_after_what_they_use(optimized):
    seen = set()
    names = {rule.record for rule in optimized.bundle.recording_rules}
    for rule in optimized.bundle.recording_rules:
        used = {selector.name for selector in selectors(rule.expr)} & names
        assert used <= seen, rule.record
        seen.add(rule.record)


def test_the_bytes_depend_on_the_profile_alone(tmp_path):
    """Two processes with other hash seeds, in other folders, the profile named by other paths."""
    outs = []
    for seed in ("1", "2"):
        folder = tmp_path / f"folder{seed}"
        folder.mkdir()
        (folder / "p.yaml").write_text(f"extends: optimized\nsignals: {{preemptions: null}}\n{CLUSTER}")
        name = "p.yaml" if seed == "1" else str(folder / "p.yaml")
        subprocess.run(
            [sys.executable, "-m", "monitorgen.cli", "build", "--profile", name, "--out", "out"],
            cwd=folder, env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True,
        )  # fmt: skip
        outs.append(
            {str(f.relative_to(folder)): f.read_bytes() for f in (folder / "out").rglob("*") if f.is_file()}
        )
    assert len(outs[0]) > 20
    assert outs[0] == outs[1]
    assert [name for name, data in outs[1].items() if str(tmp_path).encode() in data] == []


@pytest.mark.parametrize(
    ("profile", "name"),
    [
        ("baseline", "alertmanager.yml"),
        ("baseline", "rules/recording.yaml"),
        ("baseline", "rules/alerts.yaml"),
        ("baseline", "dashboards/baseline.json"),
        ("baseline", "runbooks/QueueStalled.md"),
        ("kernels", "rules/recording.yaml"),
        ("kernels", "rules/alerts.yaml"),
        ("kernels", "runbooks/KernelErrorHigh.md"),
    ],
)
def test_golden(golden, profile, name):
    files, _ = profile_files(build(load_profile(profile)))
    golden(GOLDEN / profile / name, files[name])
