"""Which alerts another one makes needless: a page for a full cache says what the warning before it said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import get_args

from monitorgen.build.conditions import Condition
from monitorgen.build.rules import PlannedAlert
from monitorgen.profile.model import Severity

_URGENCY = get_args(Severity)  # the most urgent first
_DIRECTIONS = {">": "up", ">=": "up", "<": "down", "<=": "down"}


def with_silences(alerts: Iterable[PlannedAlert], keep: Iterable[str]) -> tuple[PlannedAlert, ...]:
    """The alerts; each rule names those that it silences while both fire with the same kept labels."""
    alerts = tuple(alerts)
    kept = frozenset(keep)
    return tuple(
        replace(
            alert,
            rule=replace(alert.rule, silences=tuple(o.name for o in alerts if silences(alert, o, kept))),
        )
        for alert in alerts
    )


def silences(alert: PlannedAlert, other: PlannedAlert, keep: frozenset[str]) -> bool:
    """Whether `other` says nothing while `alert` fires that is not said more urgently already.

    Only where that is certain: it is less urgent, it complains of the same signals in the same direction and
    of no more, and both have the same labels, all of them kept, so that they mean the same target.
    """
    if _URGENCY.index(alert.spec.severity) >= _URGENCY.index(other.spec.severity):
        return False
    if set(alert.labels) != set(other.labels) or not set(other.labels) <= keep:
        return False
    complaints = {_complaint(condition) for condition in other.conditions}
    return None not in complaints and complaints <= {_complaint(c) for c in alert.conditions}


def _complaint(condition: Condition) -> tuple[str, str] | None:
    """The signal and the direction in which it went; None where the comparison has none (== and !=)."""
    direction = _DIRECTIONS.get(condition.op)
    return (condition.plan.name, direction) if direction else None
