"""Axes and steps of panels."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import inf

from monitorgen.catalog.units import UNITS
from monitorgen.checks.context import Context, PanelSubject
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

_BOUNDED = {
    name: (unit.low, unit.high) for unit in UNITS.values() if unit.high < inf for name in unit.grafana[:1]
}


@check("panel-range")
def panel_range(context: Context) -> Iterator[Finding]:
    """A panel's axis rises, its steps rise from minus infinity, and both lie where its unit has values."""
    for subject in context.panels:
        yield from _axis(subject)
        yield from _steps(subject)


def _axis(subject: PanelSubject) -> Iterator[Finding]:
    low, high = subject.panel.minimum, subject.panel.maximum
    if low is not None and high is not None and low >= high:
        yield subject.finding(f"its axis runs from {low:g} to {high:g}", "swap min and max")
        return
    unit_low, unit_high = _BOUNDED.get(subject.panel.unit, (-inf, inf))
    for name, value in (("min", low), ("max", high)):
        if value is not None and not unit_low <= value <= unit_high:
            yield subject.finding(
                f"{name} is {value:g}, but {subject.panel.unit} runs from {unit_low:g} to {unit_high:g}",
                f"use {unit_low:g} to {unit_high:g}",
            )


def _steps(subject: PanelSubject) -> Iterator[Finding]:
    steps = subject.panel.steps
    if not steps:
        return
    if steps[0].value:  # newer versions of Grafana export the first as 0, and read it as minus infinity
        yield subject.finding("its first step starts at a number", "let it start at null, minus infinity")
    values = [-inf if step.value is None else step.value for step in steps]
    if any(left >= right for left, right in pairwise(values)):
        yield subject.finding("its steps do not rise", "sort them")
    unit_low, unit_high = _BOUNDED.get(subject.panel.unit, (-inf, inf))
    for step in steps:
        if step.value is not None and not unit_low <= step.value <= unit_high:
            yield subject.finding(
                f"a step stands at {step.value:g}, but {subject.panel.unit} ends at {unit_high:g}",
                "write it in the unit of the values",
            )
