"""Alerts over a ranking."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.checks import tree
from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

_RANKINGS = frozenset({"topk", "bottomk", "limitk", "limit_ratio"})


@check("alert-flapping")
def alert_flapping(context: Context) -> Iterator[Finding]:
    """No alert asks topk or its like: who is on top changes, so the alert would flap."""
    for subject in context.alerts:
        for visit in context.visits(subject.expr):
            name = tree.called(visit.node)
            if name in _RANKINGS and not tree.is_lookup(visit):
                yield subject.finding(
                    f"{name} changes its series with the ranks", "compare all", span=visit.mark
                )
