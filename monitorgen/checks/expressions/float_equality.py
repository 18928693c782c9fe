"""Equality of numbers that are measured."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.checks import tree
from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

_MEASURED = frozenset({"seconds", "milliseconds", "ratio", "percent", "bytes/s", "flops/s"})


@check("float-equality")
def float_equality(context: Context) -> Iterator[Finding]:
    """Measured numbers are not compared with == or !=, except with 0 and 1."""
    for subject in context.expressions:
        for one in tree.comparisons(context.visits(subject.expr)):
            if one.op not in ("==", "!=") or one.value in (0, 1):
                continue
            unit = context.unit(one.series.prettify())
            if not one.value.is_integer() or unit in _MEASURED or unit.endswith("/s"):
                yield subject.finding(
                    f"{one.op} {one.value:g} holds only for exactly that number",
                    "use >, >=, < or <=",
                    span=one.visit.mark,
                )
