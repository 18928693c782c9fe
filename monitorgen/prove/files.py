"""All files of a profile's bundle: what the targets write, and the unit tests that prove it."""

from __future__ import annotations

from functools import partial
from typing import Any

from monitorgen.aside import Aside
from monitorgen.build import Built
from monitorgen.profile import parse_seconds
from monitorgen.prove.scenarios import bound, plan_alert_tests, test_files
from monitorgen.prove.unittests import UnitTest
from monitorgen.prove.value_tests import value_tests
from monitorgen.targets.files import about, bundle_files
from monitorgen.targets.grafana import Drawing


def profile_files(built: Built, drawing: Drawing | None = None) -> tuple[dict[str, str], dict[str, Any]]:
    """The files by name, and what the manifest says of them.

    Unit tests take most of the time: those of values are made aside. So are the dashboards, by `drawing`.
    """
    interval = built.loaded.profile.interval
    with Aside(partial(_value_files, built)) as values:
        values.send()
        if drawing:
            drawing.send(built.bundle.dashboards)
        tests = _rendered(built, plan_alert_tests(built).tests)
        files = bundle_files(
            built.bundle,
            interval=parse_seconds(interval.scrape),
            evaluation=parse_seconds(interval.evaluate),
            dashboards=drawing.result() if drawing else None,
        )
        files |= tests | values.result()
    return files, about(built.bundle, profile=built.loaded.name)


def _value_files(built: Built) -> dict[str, str]:
    return _rendered(built, value_tests(built))


def _rendered(built: Built, tests: list[UnitTest]) -> dict[str, str]:
    """The files of unit tests of one kind; a file holds tests of values, or of alerts, never both."""
    return test_files(bound(tests, built.bundle)[0], built.bundle.groups)
