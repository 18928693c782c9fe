"""The bundle in quick motion: every duration of its rules divided by one factor.

A rate stays what it is a second, so thresholds hold unchanged; what counts over a window (`increase`,
`changes`) sees a window that is shorter by the factor. Recorded names keep the window that they are named
for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from monitorgen.bundle import AlertRule, Rule, RuleGroup
from monitorgen.errors import InputError
from monitorgen.promql import format_duration, scale_durations, selectors

LOOKBACK = 300.0  # Prometheus' default --query.lookback-delta, in seconds
SCRAPE_INTERVAL = 15.0
QUICKEST = 0.25  # seconds between scrapes: below, scraping itself becomes the load
USUAL, FEWEST = 5.0, 4.0  # samples in the shortest window; with four, a rate has two when a scrape is late


def scale_groups(groups: Iterable[RuleGroup], factor: float) -> tuple[RuleGroup, ...]:
    """The groups with windows, offsets, `for`, `keep_firing_for` and intervals divided by `factor`.

    A group's own interval is left out: all are evaluated at the server's.
    """

    def scaled(rule: Rule) -> Rule:
        expr = scale_durations(rule.expr, factor)
        if isinstance(rule, AlertRule):
            hold, keep = _whole(rule.hold / factor), _whole(rule.keep_firing_for / factor)
            return replace(rule, expr=expr, hold=hold, keep_firing_for=keep)
        return replace(rule, expr=expr)

    return tuple(
        replace(group, interval=0.0, rules=tuple(scaled(rule) for rule in group.rules)) for group in groups
    )


def scrape_every(groups: Iterable[RuleGroup], factor: float) -> float:
    """Seconds between two scrapes under which the shortest window holds five samples, or four.

    Raises InputError for a factor that makes the shortest window too short to scrape for.
    """
    windows = [s.range for group in groups for rule in group.rules for s in selectors(rule.expr) if s.range]
    shortest = min(windows, default=LOOKBACK)
    if shortest / factor / FEWEST < QUICKEST:
        most = shortest / FEWEST / QUICKEST
        raise InputError(
            f"--time-scale {factor:g} makes the window {format_duration(shortest)} too short to scrape for",
            hint=f"give at most {most:g}",
        )
    return _whole(min(SCRAPE_INTERVAL, max(QUICKEST, shortest / factor / USUAL)))


def lookback(factor: float, interval: float) -> float:
    """The lookback of instant selectors in quick motion, in seconds; never less than three scrapes."""
    return _whole(max(LOOKBACK / factor, 3 * interval))


def _whole(seconds: float) -> float:
    """Whole milliseconds, as Prometheus has durations; what is not 0 stays above it."""
    return max(round(seconds, 3), 0.001) if seconds else 0.0
