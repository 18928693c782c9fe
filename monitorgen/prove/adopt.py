"""A bundle that was read, with what files have no place for: versions, units, signals, the groups' order.

Rules and panels are matched by their ids. What the profile says of expressions is not looked at: what the
files say is what gets proven.
"""

from __future__ import annotations

from dataclasses import replace

from monitorgen.bundle import AlertRule, Bundle, Dashboard, RecordingRule, Rule


def adopted(read: Bundle, meant: Bundle) -> Bundle:
    """The bundle `read`, with what only the profile's bundle `meant` knows of the same items."""
    order = {group.name: number for number, group in enumerate(meant.groups)}
    rules = {rule.id: rule for group in meant.groups for rule in group.rules}
    engines = {job.job: job.engine for job in meant.scrape_jobs}
    groups = [
        replace(g, rules=tuple(_rule(rule, rules.get(rule.id)) for rule in g.rules)) for g in read.groups
    ]
    return replace(
        read,
        name=meant.name,
        engines=meant.engines,
        keep=meant.keep,
        dormant=meant.dormant,
        groups=tuple(sorted(groups, key=lambda group: order.get(group.name, len(order)))),
        dashboards=tuple(_dashboard(dashboard, meant) for dashboard in read.dashboards),
        scrape_jobs=tuple(replace(job, engine=engines.get(job.job, "")) for job in read.scrape_jobs),
    )


def _rule(rule: Rule, meant: Rule | None) -> Rule:
    if isinstance(rule, RecordingRule) and isinstance(meant, RecordingRule):
        return replace(
            rule,
            signal=meant.signal,
            part=meant.part,
            unit=meant.unit,
            help=meant.help,
            since=meant.since,
            needs=meant.needs,
        )
    if isinstance(rule, AlertRule) and isinstance(meant, AlertRule):
        return replace(
            rule, signals=meant.signals, since=meant.since, needs=meant.needs, silences=meant.silences
        )
    return rule


def _dashboard(read: Dashboard, meant: Bundle) -> Dashboard:
    signals = {d.panel_item(panel): panel.signal for d in meant.dashboards for panel in d.panels}
    rows = (
        replace(
            row,
            panels=tuple(
                replace(panel, signal=signals.get(read.panel_item(panel), "")) for panel in row.panels
            ),
        )
        for row in read.rows
    )
    return replace(read, rows=tuple(rows))
