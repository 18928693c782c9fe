"""Recording rules and alerts of a profile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from monitorgen.build.conditions import Condition, join, parse_conditions
from monitorgen.build.expressions import part_expr
from monitorgen.build.jinja import render, render_own
from monitorgen.build.plan import Plan
from monitorgen.bundle import AlertRule, Origin, RecordingRule, RuleGroup, Runbook, pairs
from monitorgen.catalog.units import UNITS
from monitorgen.errors import InputError
from monitorgen.profile import Alert, Loaded, parse_seconds

RECORDING_FILE = "rules/recording.yaml"
ALERT_FILE = "rules/alerts.yaml"


@dataclass(frozen=True, slots=True)
class PlannedAlert:
    """An alert with its meaning: what must hold, and the traffic without which it is silent."""

    name: str
    spec: Alert
    conditions: tuple[Condition, ...]
    traffic: tuple[Condition, ...]
    rule: AlertRule
    labels: tuple[str, ...]
    origin: Origin = field(default_factory=Origin, compare=False)


def recording_groups(plans: Mapping[str, Plan], loaded: Loaded, name: str) -> tuple[RuleGroup, ...]:
    """A group of recording rules per engine; a rule stands after those that it uses."""
    interval = parse_seconds(loaded.profile.interval.evaluate)
    by_engine: dict[str, list[RecordingRule]] = {}
    names: dict[str, Plan] = {}
    for plan in _in_order(plans.values()):
        if not plan.recorded:
            continue
        rules = by_engine.setdefault(plan.engine, [])
        for part in plan.parts:
            if part.record in names:
                raise InputError(
                    f"{plan.name} and {names[part.record].name} both record {part.record}", origin=plan.origin
                )
            names[part.record] = plan
            rules.append(
                RecordingRule(
                    record=part.record,
                    expr=part_expr(plan, part),
                    signal=plan.name,
                    part=part.name,
                    unit=part.unit,
                    help=plan.spec.help,
                    since=plan.spec.since,
                    needs=plan.spec.needs,
                    origin=plan.origin,
                )
            )
    return tuple(
        RuleGroup(f"{name}.{engine}.recording", tuple(rules), interval=interval, file=RECORDING_FILE)
        for engine, rules in by_engine.items()
    )


def _in_order(plans: Iterable[Plan]) -> list[Plan]:
    """Plans of families first, then expressions after what they use."""
    plans = list(plans)
    placed = [plan for plan in plans if not plan.uses]
    rest = [plan for plan in plans if plan.uses]
    names = {plan.name for plan in placed}
    while rest:
        ready = [plan for plan in rest if set(plan.uses) <= names]
        placed += ready
        names |= {plan.name for plan in ready}
        rest = [plan for plan in rest if plan.name not in names]
    return placed


def planned_alerts(
    plans: Mapping[str, Plan], loaded: Loaded, dormant: dict[str, str]
) -> tuple[PlannedAlert, ...]:
    """The alerts; one whose signal is dormant is dormant too and said so in `dormant`."""
    alerts = []
    for name, spec in loaded.profile.alerts.items():
        when = parse_conditions(spec.when, plans, dormant, loaded, loaded.origin("alerts", name, "when"))
        at = loaded.origin("alerts", name, "traffic")
        traffic: tuple[Condition, ...] | str = ()
        if spec.traffic:
            traffic = parse_conditions(spec.traffic, plans, dormant, loaded, at)
        missing = next((c for c in (when, traffic) if isinstance(c, str)), None)
        if missing is not None:
            dormant[name] = f"its signal {missing} is dormant"
            continue
        assert not isinstance(when, str)
        assert not isinstance(traffic, str)
        alerts.append(_alert(name, spec, when, traffic, loaded))
    return tuple(alerts)


def _alert(
    name: str, spec: Alert, when: tuple[Condition, ...], traffic: tuple[Condition, ...], loaded: Loaded
) -> PlannedAlert:
    origin = loaded.origin("alerts", name)
    thresholds = {key: str(value) for key, value in loaded.profile.thresholds.items()}

    def prose(key: str, text: str) -> str:
        return " ".join(render(text, thresholds, loaded.origin("alerts", name, key)).split())

    annotations = {
        "summary": prose("summary", spec.summary),
        "description": prose("description", spec.description) if spec.description else _description(when),
        "runbook_url": f"{loaded.profile.runbooks.url}/{name}",
    }
    annotations["description"] += " " + prose("action", spec.action)
    for label in spec.labels:
        if label == "severity" or label in when[0].plan.labels:
            setter = "severity:" if label == "severity" else "the signal"
            raise InputError(
                f"the label {label} is set already, by {setter}",
                origin=loaded.origin("alerts", name, "labels", label),
                hint="choose another name",
            )
    rule = AlertRule(
        alert=name,
        expr=join([*when, *traffic]),
        hold=parse_seconds(spec.hold),
        labels=pairs({**spec.labels, "severity": spec.severity}),
        annotations=pairs(annotations),
        signals=tuple(dict.fromkeys(c.plan.name for c in (*when, *traffic))),
        since=next((c.plan.spec.since for c in when if c.plan.spec.since), ""),
        needs=next((c.plan.spec.needs for c in when if c.plan.spec.needs), ""),
        origin=origin,
    )
    return PlannedAlert(name, spec, when, traffic, rule, when[0].plan.labels, origin)


_WORDS = {">": "above", ">=": "at or above", "<": "below", "<=": "at or below", "==": "at", "!=": "not at"}


def _description(when: tuple[Condition, ...]) -> str:
    """What is seen, from the first condition: the value, in its unit, against the threshold."""
    first = when[0]
    template = {
        "seconds": "{{ $value | humanizeDuration }}",
        "ratio": "{{ $value | humanizePercentage }}",
        "bytes": "{{ $value | humanize1024 }}B",
        "mebibytes": "{{ $value | humanize }} MiB",
    }.get(first.part.unit, "{{ $value | humanize }}")
    where = ", ".join(f"{label} {{{{ $labels.{label} }}}}" for label in first.plan.labels)
    what = first.plan.spec.help.rstrip(".")
    part = f" ({first.part.name})" if len(first.plan.parts) > 1 else ""
    value = f"{what}{part}: {template}, {_WORDS[first.op]} {first.text}"
    return f"{value}, at {where}." if where else f"{value}."


def alert_group(alerts: Iterable[PlannedAlert], loaded: Loaded, name: str) -> tuple[RuleGroup, ...]:
    """The group of all alerts, after the recording rules in file order."""
    rules = tuple(alert.rule for alert in alerts)
    if not rules:
        return ()
    interval = parse_seconds(loaded.profile.interval.evaluate)
    return (RuleGroup(f"{name}.alerts", rules, interval=interval, file=ALERT_FILE),)


def runbooks(alerts: Iterable[PlannedAlert], loaded: Loaded) -> tuple[Runbook, ...]:
    """A page for each alert, from the template `runbook.md.j2`."""
    from importlib.resources import files

    template = (files("monitorgen.templates") / "runbook.md.j2").read_text(encoding="utf-8")
    pages = []
    for alert in alerts:
        names = {
            "alert": alert,
            "annotations": dict(alert.rule.annotations),
            "profile": loaded.name,
            "queries": [(c.plan.name, c.left, c.plan.spec.help) for c in (*alert.conditions, *alert.traffic)],
            "sources": [
                (family.name, family.type, family.help)
                for c in alert.conditions
                for source in c.plan.sources
                for family in source.families
            ],
            "units": UNITS,
            "words": _WORDS,
        }
        pages.append(Runbook(alert.name, render_own(template, names, alert.origin)))
    return tuple(pages)
