"""Units of recorded metrics."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.catalog.units import UNITS
from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

_SUFFIXES = {unit.suffix: unit.name for unit in UNITS.values() if unit.suffix}
#: Units that say no more than that something is counted.
_VAGUE = frozenset({"number", "info", ""})


@check("record-unit")
def record_unit(context: Context) -> Iterator[Finding]:
    """The unit in a recorded name, and the one declared for it, are what the expression yields."""
    for subject in context.records:
        if context.tree(subject.expr) is None:
            continue
        yields = context.unit(subject.expr)
        if yields in _VAGUE:
            continue
        metric = subject.rule.record.split(":")[1] if ":" in subject.rule.record else subject.rule.record
        named = _SUFFIXES.get(metric.rpartition("_")[2], "")
        if named and named != yields:
            yield subject.finding(
                f"the name ends in _{UNITS[named].suffix}, but the values are {yields}", "rename it"
            )
        declared = subject.rule.unit
        if declared not in _VAGUE and declared != yields:
            yield subject.finding(
                f"its unit is declared as {declared}, but the values are {yields}", "declare that"
            )
