"""Rule groups and scrape jobs as Prometheus's files, and the files that make Grafana load our dashboards.

Everything is text here; `monitorgen.targets.writer` puts it on disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from monitorgen.bundle import AlertRule, RecordingRule, Rule, RuleGroup, ScrapeJob
from monitorgen.promql import format_duration
from monitorgen.targets.yaml_text import yaml_text

RECORDING_FILE = "rules/recording.yaml"
ALERTS_FILE = "rules/alerts.yaml"
_LINE = 100  # longer expressions are broken into lines


def rule_files(groups: Iterable[RuleGroup], *, header: str = "") -> dict[str, str]:
    """The rule files: path -> YAML. Groups say their file; those that do not go by what they hold."""
    files: dict[str, list[Mapping[str, Any]]] = {}
    for group in groups:
        files.setdefault(file_of(group), []).append(group_tree(group))
    return {path: yaml_text({"groups": trees}, header=header) for path, trees in sorted(files.items())}


def file_of(group: RuleGroup) -> str:
    """The file that a group goes to: its own, or alerts.yaml where it holds an alert, or recording.yaml."""
    if group.file:
        return group.file
    return ALERTS_FILE if any(isinstance(rule, AlertRule) for rule in group.rules) else RECORDING_FILE


def group_tree(group: RuleGroup) -> dict[str, Any]:
    """A rule group as the tree that Prometheus reads; operators and other targets wrap it."""
    tree: dict[str, Any] = {"name": group.name}
    if group.interval:
        tree["interval"] = format_duration(group.interval)
    tree["rules"] = [_rule(rule) for rule in group.rules]
    return tree


def groups_as_written(groups: Iterable[RuleGroup]) -> tuple[RuleGroup, ...]:
    """The groups as their files say them: sorted by file, long expressions broken into lines."""
    written = [
        replace(
            group,
            file=file_of(group),
            rules=tuple(replace(rule, expr=wrapped(rule.expr)) for rule in group.rules),
        )
        for group in groups
    ]
    return tuple(sorted(written, key=lambda group: group.file))


@lru_cache(maxsize=4096)
def wrapped(expr: str) -> str:
    """The expression on one line if it fits, else broken into lines by promql-parser; never another meaning.

    What the parser does not know, or would print as something else, stays as it is.
    """
    if len(expr) <= _LINE or "\n" in expr:
        return expr
    import promql_parser

    try:
        tree = promql_parser.parse(expr)
        pretty = tree.prettify()
        same = str(promql_parser.parse(pretty)) == str(tree)
    except ValueError:
        return expr
    return pretty if same else expr


def _rule(rule: Rule) -> dict[str, Any]:
    if isinstance(rule, RecordingRule):
        tree: dict[str, Any] = {"record": rule.record, "expr": wrapped(rule.expr)}
    else:
        tree = {"alert": rule.alert, "expr": wrapped(rule.expr)}
        if rule.hold:
            tree["for"] = format_duration(rule.hold)
        if rule.keep_firing_for:
            tree["keep_firing_for"] = format_duration(rule.keep_firing_for)
    if rule.labels:
        tree["labels"] = dict(rule.labels)
    if isinstance(rule, AlertRule) and rule.annotations:
        tree["annotations"] = dict(rule.annotations)
    return tree


def scrape_config(
    jobs: Iterable[ScrapeJob],
    rule_paths: Sequence[str] = (),
    *,
    interval: float = 15.0,
    evaluation: float = 15.0,
    external_labels: Mapping[str, str] | None = None,
    alertmanagers: Sequence[str] = (),
    header: str = "",
) -> str:
    """prometheus.yml. Intervals are seconds; `rule_paths` are relative to the file, as Prometheus has it."""
    tree: dict[str, Any] = {
        "global": {
            "scrape_interval": format_duration(interval),
            "evaluation_interval": format_duration(evaluation),
        }
    }
    if external_labels:
        tree["global"]["external_labels"] = dict(sorted(external_labels.items()))
    if rule_paths:
        tree["rule_files"] = sorted(rule_paths)
    if alertmanagers:
        tree["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": list(alertmanagers)}]}]}
    tree["scrape_configs"] = [_scrape_job(job) for job in jobs]
    return yaml_text(tree, header=header)


def _scrape_job(job: ScrapeJob) -> dict[str, Any]:
    static: dict[str, Any] = {"targets": list(job.targets)}
    if job.labels:
        static["labels"] = dict(job.labels)
    return {
        "job_name": job.job,
        "scrape_interval": format_duration(job.interval),
        "scrape_timeout": format_duration(job.timeout),
        "metrics_path": job.metrics_path,
        "static_configs": [static],
    }


def provisioning(
    *, dashboards: str = "/var/lib/grafana/dashboards", url: str = "http://prometheus:9090"
) -> dict[str, str]:
    """Grafana's provisioning files: path -> YAML. `dashboards` is the folder where Grafana finds the JSON."""
    provider = {
        "name": "monitorgen",
        "orgId": 1,
        "folder": "monitorgen",
        "type": "file",
        "disableDeletion": False,
        "allowUiUpdates": False,
        "updateIntervalSeconds": 30,
        "options": {"path": dashboards, "foldersFromFilesStructure": False},
    }
    source = {
        "name": "Prometheus",
        "type": "prometheus",
        "access": "proxy",
        "url": url,
        "isDefault": True,
        "jsonData": {"httpMethod": "POST", "timeInterval": "15s"},
    }
    return {
        "provisioning/dashboards/monitorgen.yaml": yaml_text(
            {"apiVersion": 1, "providers": [provider]},
            header="For Grafana's provisioning/dashboards; `path` is where the bundle's dashboards/ lies.",
        ),
        "provisioning/datasources/prometheus.yaml": yaml_text(
            {"apiVersion": 1, "datasources": [source]},
            header="An example: the dashboards take any Prometheus data source that Grafana has.",
        ),
    }
