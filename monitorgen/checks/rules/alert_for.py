"""How long an alert's condition must hold."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.checks.context import AlertSubject, Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check
from monitorgen.promql import format_duration

_DAY = 86400.0


@check("alert-for")
def alert_for(context: Context) -> Iterator[Finding]:
    """An alert's `for` is there, shorter than a day, and a whole number of evaluations."""
    for subject in context.alerts:
        hold, interval = subject.rule.hold, subject.group.interval
        if hold <= 0:
            yield subject.finding("no `for`: a single bad evaluation pages", "add for: 5m")
        elif hold >= _DAY:
            yield subject.finding(
                f"`for` is {format_duration(hold)}: a problem stays unseen for a day", "shorten it"
            )
        elif interval and hold % interval:
            yield subject.finding(
                f"`for` of {format_duration(hold)} is no multiple of the group's interval"
                f" of {format_duration(interval)}, so it takes longer than it says",
                f"use a multiple of {format_duration(interval)}",
            )
        yield from _keep_firing(subject)


def _keep_firing(subject: AlertSubject) -> Iterator[Finding]:
    """`keep_firing_for` has the same sane range."""
    kept = subject.rule.keep_firing_for
    if kept < 0 or kept >= _DAY:
        yield subject.finding(
            f"`keep_firing_for` is {format_duration(abs(kept))}: nobody learns that it is over", "shorten it"
        )
