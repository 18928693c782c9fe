"""Metrics that nobody exports."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from monitorgen.catalog import nearest
from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check


@check("metric-exists")
def metric_exists(context: Context) -> Iterator[Finding]:
    """Every metric is recorded by the bundle, or exported by an engine in some version in range."""
    if not context.informed:
        return
    near: dict[str, tuple[str, ...]] = {}
    for subject in context.expressions:
        for selector in context.selectors(subject.expr):
            name = selector.name
            if not name or name in context.recorded or context.families(name):
                continue
            if name not in near:
                near[name] = _nearest(context, name)
            yield subject.finding(
                f"no catalog has the metric {name}, and no rule records it",
                f"nearest: {', '.join(near[name])}" if near[name] else "",
                span=(selector.start, selector.end),
            )


def _nearest(context: Context, name: str) -> tuple[str, ...]:
    """Recorded names that look like it, else exported ones; none for those of another world."""
    recorded = tuple(difflib.get_close_matches(name, context.recorded, 2, 0.8))
    catalogs = [one for found in context.catalogs.values() for one in found]
    worlds = {_world(series) for one in catalogs for series in one.series}
    if recorded or not difflib.get_close_matches(_world(name), worlds, 1, 0.7):
        return recorded
    return nearest(name, catalogs)


def _world(name: str) -> str:
    """The first word of a name: `vllm`, `process`."""
    return re.split("[:_]", name, maxsplit=1)[0]
