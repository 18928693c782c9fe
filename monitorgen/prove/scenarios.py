"""All unit tests of a profile, generated, and the files that they go into.

The tests belong to the profile; the rules and panels that they are run against may be any bundle's. So the
same tests that prove a bundle catch what somebody changed in its files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from monitorgen.build import Built, PlannedAlert
from monitorgen.bundle import Bundle, RuleGroup
from monitorgen.prove.alert_tests import Scenario
from monitorgen.prove.solve import CannotProvokeError
from monitorgen.prove.unittests import Ask, UnitTest, clock, render_file, substituted
from monitorgen.prove.value_tests import value_tests
from monitorgen.prove.world import sources_of
from monitorgen.targets.prometheus import rule_files


@dataclass
class TestPlan:
    """All unit tests of a profile, and the reason for each item that got none."""

    __test__ = False  # not a pytest class

    tests: list[UnitTest]
    reasons: dict[str, str] = field(default_factory=dict)


def plan_tests(built: Built) -> TestPlan:
    """Generate the unit tests of a profile: values of all records and panels, a scenario for each alert."""
    alerts = plan_alert_tests(built)
    return TestPlan([*value_tests(built), *alerts.tests], alerts.reasons)


def plan_alert_tests(built: Built) -> TestPlan:
    """Those of its alerts alone."""
    plan = TestPlan([])
    for alert in built.alerts:
        for side in range(_sides(alert, built)):
            try:
                plan.tests.append(Scenario(built, alert, side).build())
            except CannotProvokeError as error:
                plan.reasons[alert.rule.id] = f"no scenario was found: {error}"
    return plan


def _sides(alert: PlannedAlert, built: Built) -> int:
    sources = [s for c in (*alert.conditions, *alert.traffic) for s in sources_of(c.plan, built.plans)]
    return max((len(source.families) for source in sources), default=1)


def bound(tests: Iterable[UnitTest], bundle: Bundle) -> tuple[list[UnitTest], dict[str, str]]:
    """The tests with each panel's query taken from `bundle`; and the items that lack theirs."""
    queries = {
        (dashboard.panel_item(panel), query.ref_id): query.expr
        for dashboard in bundle.dashboards
        for panel in dashboard.panels
        for query in panel.queries
    }
    missing: dict[str, str] = {}
    result = []
    for test in tests:
        asks: list[Ask] = []
        for ask in test.asks:
            if not ask.query:
                asks.append(ask)
                continue
            expr = queries.get((ask.item, ask.query))
            if expr is None:
                missing[ask.item] = f"the dashboard has no such panel with a query {ask.query}"
                continue
            asks.append(replace(ask, expr=substituted(expr, dict(ask.variables))))
        result.append(UnitTest(test.name, test.step, test.courses, asks, test.fires))
    return result, missing


def test_files(tests: Iterable[UnitTest], groups: Iterable[RuleGroup]) -> dict[str, str]:
    """Unit test files by name: one for the values, one for the alerts of each evaluation interval."""
    grouped: dict[tuple[str, float], list[UnitTest]] = {}
    for test in tests:
        grouped.setdefault(("alerts" if test.fires else "values", test.step), []).append(test)
    groups = list(groups)
    rules = [f"../{file}" for file in rule_files(groups)]
    names = [group.name for group in groups]
    return {
        f"tests/{kind}_{clock(step)}.yaml": render_file(chosen, rules, names, step)
        for (kind, step), chosen in sorted(grouped.items())
    }


test_files.__test__ = False  # type: ignore[attr-defined]
