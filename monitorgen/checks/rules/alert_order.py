"""The same condition at two severities."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from monitorgen.checks import tree
from monitorgen.checks.context import AlertSubject, Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check
from monitorgen.checks.rules.alert_severity import SEVERITIES


@check("alert-order")
def alert_order(context: Context) -> Iterator[Finding]:
    """Where two alerts watch the same series, the more severe one has the more extreme threshold."""
    found: dict[str, list[tuple[int, str, float, AlertSubject]]] = {}
    for subject in context.alerts:
        severity = dict(subject.rule.labels).get("severity", "")
        if severity not in SEVERITIES:
            continue
        rank = SEVERITIES.index(severity)
        for one in tree.comparisons(context.visits(subject.expr)):
            if not one.guard and one.op in ("<", "<=", ">", ">="):
                row = (rank, one.op[0], one.value, subject)
                found.setdefault(one.series.prettify(), []).append(row)
    for same in found.values():
        same.sort(key=lambda row: row[0])
        for (rank, op, value, subject), (milder, other_op, other, mild) in combinations(same, 2):
            if rank == milder or op != other_op:
                continue
            if (value < other) if op == ">" else (value > other):
                yield subject.finding(
                    f"its threshold {value:g} is crossed before the {other:g} of the milder {mild.item}",
                    "swap the thresholds",
                )
