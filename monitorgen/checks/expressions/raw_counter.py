"""Counters that are read as they stand."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from promql_parser import BinaryExpr, VectorSelector

from monitorgen.checks import tree
from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

#: Around any of these, a counter's value does not matter; over delta and deriv another check complains.
_FINE = tree.RATES | tree.LIFE | {"count", "group", "delta", "idelta", "deriv", "predict_linear"}


@check("raw-counter")
def raw_counter(context: Context) -> Iterator[Finding]:
    """Counters are read only through rate, irate or increase: their value depends on the last restart."""
    for subject in context.expressions:
        for visit in context.visits(subject.expr):
            name = visit.node.name if isinstance(visit.node, VectorSelector) else None
            if name and _grows(context, name) and not _FINE & set(visit.calls) and not _only_asked(visit):
                yield subject.finding(
                    f"{name} is a counter and is read without rate()",
                    f"use rate({name}[5m])",
                    span=visit.span,
                )


def _grows(context: Context, name: str) -> bool:
    """Whether it is a counter; where no catalog knows the name, its suffix is all that there is."""
    if name in context.recorded:
        return False
    known = context.counts(name)
    return name.endswith("_total") if known is None and not context.families(name) else bool(known)


def _only_asked(visit: tree.Visit) -> bool:
    """Whether only the counter's presence matters: it stands right of `and` or `unless`, uncompared."""
    for parent, child in pairwise(reversed((*visit.parents, visit.node))):
        parent, child = child, parent
        if isinstance(parent, BinaryExpr):
            return tree.operator(parent) in ("and", "unless") and parent.rhs is child
    return False
