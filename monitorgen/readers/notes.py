"""Puts back what the manifest knows and the files do not: signals, units, engines, the bundle's name.

A manifest may be old or edited: what does not fit the files is left out, silently, for the files are what
counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from monitorgen.bundle import Bundle, Dashboard, Pairs, RecordingRule, Rule, RuleGroup, pairs


def restored(bundle: Bundle, manifest: Mapping[str, Any]) -> Bundle:
    """The bundle with the manifest's notes."""
    notes = _mapping(manifest.get("bundle"))
    rules, panels, engines = (_mapping(notes.get(key)) for key in ("rules", "panels", "jobs"))
    return replace(
        bundle,
        name=_text(notes.get("name")) or bundle.name,
        title=_text(notes.get("title")),
        engines=_pairs(notes.get("engines")),
        keep=tuple(_texts(notes.get("keep"))),
        dormant=_pairs(notes.get("dormant")),
        groups=tuple(
            _group(group, _mapping(rules.get(group.file)).get(group.name)) for group in bundle.groups
        ),
        dashboards=tuple(_dashboard(d, _mapping(panels.get(d.file))) for d in bundle.dashboards),
        scrape_jobs=tuple(replace(job, engine=_text(engines.get(job.job))) for job in bundle.scrape_jobs),
    )


def _group(group: RuleGroup, notes: Any) -> RuleGroup:
    if not isinstance(notes, list) or len(notes) != len(group.rules):
        return group
    rules = tuple(_rule(rule, _mapping(note)) for rule, note in zip(group.rules, notes, strict=True))
    return replace(group, rules=rules)


def _rule(rule: Rule, note: Mapping[str, Any]) -> Rule:
    if isinstance(rule, RecordingRule):
        signal, part, unit, words = (_text(note.get(key)) for key in ("signal", "part", "unit", "help"))
        return replace(rule, signal=signal, part=part, unit=unit, help=words)
    signals, silences = (tuple(_texts(note.get(key))) for key in ("signals", "silences"))
    return replace(rule, signals=signals, silences=silences)


def _dashboard(dashboard: Dashboard, signals: Mapping[str, Any]) -> Dashboard:
    rows = tuple(
        replace(row, panels=tuple(replace(p, signal=_text(signals.get(str(p.panel_id)))) for p in row.panels))
        for row in dashboard.rows
    )
    return replace(dashboard, rows=rows)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _pairs(value: Any) -> Pairs:
    return pairs({key: item for key, item in _mapping(value).items() if isinstance(item, str)})
