"""Which rules and series a unit test needs, so that promtool evaluates these and no others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from monitorgen.bundle import AlertRule, Bundle, RecordingRule, Rule, RuleGroup
from monitorgen.promql import PromQLError, selectors
from monitorgen.prove.unittests import UnitTest


class Rules:
    """The rules of a bundle, and what each of them reads."""

    def __init__(self, bundle: Bundle) -> None:
        self.groups = bundle.groups
        self.records: dict[str, list[RecordingRule]] = {}
        self.alerts: dict[str, list[AlertRule]] = {}
        for rule in bundle.recording_rules:
            self.records.setdefault(rule.record, []).append(rule)
        for alert in bundle.alerts:
            self.alerts.setdefault(alert.alert, []).append(alert)

    def closure(self, names: Iterable[str], alerts: Iterable[str]) -> tuple[set[int], set[str]]:
        """The rules (by id()) behind metric names and alerts, and the raw metric names that they read."""
        rules: set[int] = set()
        raw: set[str] = set()
        todo = list(names)
        for alert in alerts:
            for rule in self.alerts.get(alert, ()):
                rules.add(id(rule))
                todo += reads(rule)
        while todo:
            name = todo.pop()
            found = self.records.get(name)
            if found is None:
                raw.add(name)
                continue
            for record in found:
                if id(record) not in rules:
                    rules.add(id(record))
                    todo += reads(record)
        return rules, raw

    def subset(self, rules: set[int]) -> tuple[RuleGroup, ...]:
        """The groups with only these rules, in their order."""
        kept = (
            replace(group, rules=tuple(rule for rule in group.rules if id(rule) in rules))
            for group in self.groups
        )
        return tuple(group for group in kept if group.rules)


def reads(rule: Rule) -> list[str]:
    """The metric names that a rule selects; none where its expression does not parse."""
    return names_in(rule.expr)


def names_in(expr: str) -> list[str]:
    """The metric names that an expression selects; none where it does not parse."""
    try:
        return [sel.name for sel in selectors(expr)]
    except PromQLError:
        return []


def focused(
    test: UnitTest, rules: Rules, items: set[str] | None = None
) -> tuple[UnitTest, tuple[RuleGroup, ...]]:
    """The test with only the asks of `items` (all by default), the series that these need, and the rules."""
    asks = [ask for ask in test.asks if items is None or ask.item in items]
    fires = [fire for fire in test.fires if items is None or fire.item in items]
    alerts = {fire.alert for fire in fires}
    names = [name for ask in asks for name in names_in(ask.expr) if name != "ALERTS"]
    chosen, raw = rules.closure(names, alerts | {_alert_in(ask.expr) for ask in asks} - {""})
    courses = [course for course in test.courses if course.name in raw]
    return UnitTest(test.name, test.step, courses, asks, fires), rules.subset(chosen)


def _alert_in(expr: str) -> str:
    """The alert that an expression over ALERTS asks for."""
    if not expr.startswith("ALERTS{"):
        return ""
    return next((m.value for sel in selectors(expr) for m in sel.matchers if m.name == "alertname"), "")
