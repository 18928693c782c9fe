"""Rule files, prometheus.yml and Grafana's provisioning."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import promql_parser
import pytest
import yaml

from monitorgen.bundle import AlertRule, RecordingRule, RuleGroup, ScrapeJob
from monitorgen.targets.prometheus import (
    file_of,
    groups_as_written,
    provisioning,
    rule_files,
    scrape_config,
    wrapped,
)

LONG = (
    'histogram_quantile(0.9, sum by (job, instance, model_name, le) (rate(vllm:a_bucket{job=~"$x"}[5m]))) '
    "/ on (job, instance) group_left (model_name) (sum by (job, instance) (rate(vllm:b_total[5m])) > 0)"
)
RECORD = RecordingRule("model:x:rate5m", "rate(x_total[5m])", labels=(("a", "1"),), signal="x", unit="1/s")
ALERT = AlertRule(
    "Down",
    "up == 0",
    hold=300.0,
    labels=(("severity", "critical"),),
    annotations=(("summary", "{{ $labels.job }} is down"),),
    keep_firing_for=90.0,
)


def test_a_group_reads_as_prometheus_has_it():
    text = rule_files([RuleGroup("g", (RECORD, ALERT), interval=30.0, file="r.yaml")], header="Made by us")[
        "r.yaml"
    ]
    assert text.startswith("# Made by us\ngroups:\n")
    assert yaml.safe_load(text) == {
        "groups": [
            {
                "name": "g",
                "interval": "30s",
                "rules": [
                    {"record": "model:x:rate5m", "expr": "rate(x_total[5m])", "labels": {"a": "1"}},
                    {
                        "alert": "Down",
                        "expr": "up == 0",
                        "for": "5m",
                        "keep_firing_for": "1m30s",
                        "labels": {"severity": "critical"},
                        "annotations": {"summary": "{{ $labels.job }} is down"},
                    },
                ],
            }
        ]
    }


def test_zero_durations_and_empty_labels_are_not_written():
    text = rule_files([RuleGroup("g", (AlertRule("A", "x"), RecordingRule("r", "x")), file="r.yaml")])[
        "r.yaml"
    ]
    assert yaml.safe_load(text)["groups"] == [
        {"name": "g", "rules": [{"alert": "A", "expr": "x"}, {"record": "r", "expr": "x"}]}
    ]


@pytest.mark.parametrize(
    ("rules", "file", "expected"),
    [
        ((RECORD,), "", "rules/recording.yaml"),
        ((ALERT,), "", "rules/alerts.yaml"),
        ((RECORD, ALERT), "", "rules/alerts.yaml"),
        ((ALERT,), "own.yaml", "own.yaml"),
    ],
)
def test_the_file_of_a_group(rules, file, expected):
    assert file_of(RuleGroup("g", rules, file=file)) == expected


def test_groups_keep_their_order_within_a_file():
    groups = [RuleGroup(name, (RECORD,), file=file) for name, file in [("b", "2"), ("z", "1"), ("a", "2")]]
    assert [(g.file, g.name) for g in groups_as_written(groups)] == [("1", "z"), ("2", "b"), ("2", "a")]


def test_a_long_expression_is_broken_and_means_the_same():
    broken = wrapped(LONG)
    assert "\n" in broken
    assert max(map(len, broken.splitlines())) < len(LONG)
    assert promql_parser.parse(broken).prettify() == promql_parser.parse(LONG).prettify()
    assert "".join(broken.split()) == "".join(LONG.split())


@pytest.mark.parametrize(
    "expr", ["up", "x" * 150 + " ++ nonsense(", 'x{a="$__rate_interval"}[$__rate_interval]' + " " * 99]
)
def test_what_is_short_or_does_not_parse_stays(expr):
    assert wrapped(expr) == expr


def test_breaking_is_done_once():
    assert wrapped(wrapped(LONG)) == wrapped(LONG)


def test_scrape_config_says_everything():
    jobs = [
        ScrapeJob(
            "vllm", ("a:8000", "b:8000"), interval=5.0, timeout=4.0, metrics_path="/m", labels=(("c", "1e3"),)
        )
    ]
    text = scrape_config(
        jobs,
        ["rules/b.yaml", "rules/a.yaml"],
        interval=30.0,
        evaluation=10.0,
        external_labels={"cluster": "yes"},
        alertmanagers=["am:9093"],
    )
    assert yaml.safe_load(text) == {
        "global": {
            "scrape_interval": "30s",
            "evaluation_interval": "10s",
            "external_labels": {"cluster": "yes"},
        },
        "rule_files": ["rules/a.yaml", "rules/b.yaml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": ["am:9093"]}]}]},
        "scrape_configs": [
            {
                "job_name": "vllm",
                "scrape_interval": "5s",
                "scrape_timeout": "4s",
                "metrics_path": "/m",
                "static_configs": [{"targets": ["a:8000", "b:8000"], "labels": {"c": "1e3"}}],
            }
        ],
    }


def test_promtool_takes_the_configuration_with_its_rules(promtool: Path, tmp_path: Path):
    long = replace(RECORD, expr=LONG.replace("$x", "x"), record="model:long:p90")
    files = rule_files(
        [RuleGroup("r", (RECORD, long)), RuleGroup("a", (replace(ALERT, keep_firing_for=0.0),))]
    )
    files["prometheus.yml"] = scrape_config([ScrapeJob("j", ("h:1",))], tuple(files))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    run = subprocess.run(
        [promtool, "check", "config", tmp_path / "prometheus.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 rules found" in run.stdout
    assert "1 rules found" in run.stdout


def test_provisioning_points_grafana_at_the_dashboards():
    files = {
        path: yaml.safe_load(text) for path, text in provisioning(dashboards="/d", url="http://p").items()
    }
    assert files["provisioning/dashboards/monitorgen.yaml"]["providers"][0]["options"]["path"] == "/d"
    source = files["provisioning/datasources/prometheus.yaml"]["datasources"][0]
    assert (source["type"], source["url"]) == ("prometheus", "http://p")
