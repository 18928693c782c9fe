"""Windows that hold too few samples."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.checks import tree
from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check
from monitorgen.promql import format_duration

#: A rate needs two samples; four scrapes let one fail and the clocks drift.
_SCRAPES = 4


@check("rate-window")
def rate_window(context: Context) -> Iterator[Finding]:
    """Windows of rates hold at least four scrapes, and no window is shorter than two."""
    for subject in context.rules:
        for selector in context.selectors(subject.expr):
            if not selector.range:
                continue
            interval = context.scrape_interval(selector.name)
            rated = selector.function in tree.RATES
            wanted = (_SCRAPES if rated else 2) * interval
            if selector.range < wanted and selector.name not in context.recorded:
                yield subject.finding(
                    f"the window of {format_duration(selector.range)} is short for a scrape every"
                    f" {format_duration(interval)}",
                    f"use at least {format_duration(wanted)}",
                    span=(selector.start, selector.end),
                )
