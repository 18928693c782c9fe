"""How often a group is evaluated."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.checks.context import Context, Subject
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check
from monitorgen.promql import format_duration

_LOW, _HIGH = 5.0, 600.0


@check("group-interval")
def group_interval(context: Context) -> Iterator[Finding]:
    """A group's interval lies between 5 seconds and 10 minutes, or is the server's own."""
    for group in context.bundle.groups:
        if group.interval and not _LOW <= group.interval <= _HIGH:
            yield Subject(f"group/{group.name}", group.origin).finding(
                f"it is evaluated every {format_duration(group.interval)}",
                f"use {format_duration(_LOW)} to {format_duration(_HIGH)}",
            )
        if not group.rules:
            yield Subject(f"group/{group.name}", group.origin).finding("the group is empty", "remove it")
