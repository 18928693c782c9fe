"""Units that do not go together."""

from __future__ import annotations

from collections.abc import Iterator

from promql_parser import BinaryExpr

from monitorgen.checks import tree
from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

_OPERATORS = tree.COMPARISONS | {"+", "-", "or"}
#: Units that say only that something is counted, so they go with any other count.
_VAGUE = frozenset({"", "number", "info", "events", "events/s", "1/s"})


@check("unit-mismatch")
def unit_mismatch(context: Context) -> Iterator[Finding]:
    """What is added, subtracted, compared or alternated has the same unit."""
    for subject in context.expressions:
        for visit in context.visits(subject.expr):
            node = visit.node
            if not isinstance(node, BinaryExpr) or tree.operator(node) not in _OPERATORS:
                continue
            if not (tree.names(node.lhs) and tree.names(node.rhs)):
                continue
            left, right = context.unit(node.lhs.prettify()), context.unit(node.rhs.prettify())
            if left != right and not {left, right} & _VAGUE:
                yield subject.finding(
                    f"{left} {tree.operator(node)} {right}: the units differ", "convert one of them", span=visit.mark
                )
