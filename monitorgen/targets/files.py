"""A bundle as the set of its files (path -> text), and what the manifest says beyond them.

Rules and dashboards have no place for everything that a bundle knows (the signal of a rule, its unit, which
engine versions it must hold for). The manifest carries that, so a written bundle reads back as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from monitorgen import __version__
from monitorgen.bundle import Bundle, RecordingRule, Rule
from monitorgen.targets.alertmanager import ALERTMANAGER_FILE, alertmanager_config
from monitorgen.targets.grafana import as_written as dashboard_as_written
from monitorgen.targets.grafana import dashboard_texts
from monitorgen.targets.prometheus import groups_as_written, provisioning, rule_files, scrape_config

SCRAPE_FILE = "prometheus.yml"
GENERATOR = "monitorgen"


def bundle_files(
    bundle: Bundle,
    *,
    interval: float = 15.0,
    evaluation: float = 15.0,
    dashboards: Sequence[str] | None = None,
) -> dict[str, str]:
    """All files of the bundle but the manifest. Intervals are prometheus.yml's, in seconds.

    `dashboards` are the texts of the bundle's dashboards, where they are there already.
    """
    files = prometheus_files(bundle, interval=interval, evaluation=evaluation)
    if any(bundle.alerts):
        files[ALERTMANAGER_FILE] = alertmanager_config(bundle, header=_header(bundle))
    texts = dashboard_texts(bundle.dashboards) if dashboards is None else dashboards
    for dashboard, text in zip(bundle.dashboards, texts, strict=True):
        files[dashboard_as_written(dashboard).file] = text
    if bundle.dashboards:
        files.update(provisioning())
    for runbook in bundle.runbooks:
        files[f"runbooks/{runbook.alert}.md"] = runbook.markdown
    return dict(sorted(files.items()))


def prometheus_files(bundle: Bundle, *, interval: float = 15.0, evaluation: float = 15.0) -> dict[str, str]:
    """Those files that Prometheus reads: rules, and its configuration."""
    header = _header(bundle)
    files = rule_files(bundle.groups, header=header)
    files[SCRAPE_FILE] = scrape_config(
        bundle.scrape_jobs, tuple(files), interval=interval, evaluation=evaluation, header=header
    )
    return files


def _header(bundle: Bundle) -> str:
    return f"Made by {GENERATOR} from the profile {bundle.name!r}. Change the profile, not this file."


def as_written(bundle: Bundle) -> Bundle:
    """The bundle as its files and its manifest say it: what reading them gives."""
    return replace(
        bundle,
        groups=groups_as_written(bundle.groups),
        dashboards=tuple(
            sorted((dashboard_as_written(d) for d in bundle.dashboards), key=lambda dashboard: dashboard.file)
        ),
        runbooks=tuple(sorted(bundle.runbooks, key=lambda runbook: runbook.alert)),
    )


def about(bundle: Bundle, *, profile: str = "") -> dict[str, Any]:
    """What the manifest says of the bundle: who made it from what, and what its files have no place for."""
    written = as_written(bundle)
    return {
        "generator": {"name": GENERATOR, "version": __version__},
        "profile": profile or bundle.name,
        "bundle": {
            "name": bundle.name,
            "title": bundle.title,
            "engines": dict(bundle.engines),
            "keep": list(bundle.keep),
            "dormant": dict(bundle.dormant),
            "rules": _rule_notes(written),
            "panels": _panel_notes(written),
            "jobs": {job.job: job.engine for job in bundle.scrape_jobs if job.engine},
        },
    }


def _rule_notes(bundle: Bundle) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """File -> group -> a note for each rule, in the order of the rules."""
    notes: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for group in bundle.groups:
        notes.setdefault(group.file, {})[group.name] = [_rule_note(rule) for rule in group.rules]
    return notes


def _rule_note(rule: Rule) -> dict[str, Any]:
    note: Mapping[str, Any]
    if isinstance(rule, RecordingRule):
        note = {"signal": rule.signal, "part": rule.part, "unit": rule.unit, "help": rule.help}
    else:
        note = {"signals": list(rule.signals), "silences": list(rule.silences)}
    return {key: value for key, value in note.items() if value}


def _panel_notes(bundle: Bundle) -> dict[str, dict[str, str]]:
    """File -> panel id -> the panel's signal."""
    return {
        dashboard.file: {str(panel.panel_id): panel.signal for panel in dashboard.panels if panel.signal}
        for dashboard in bundle.dashboards
    }
