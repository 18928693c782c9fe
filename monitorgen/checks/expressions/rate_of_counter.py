"""What may be rated."""

from __future__ import annotations

from collections.abc import Iterator

from promql_parser import Call, MatrixSelector

from monitorgen.checks import tree
from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

_FOR_GAUGES = frozenset({"delta", "idelta", "deriv", "predict_linear", "holt_winters"})


@check("rate-of-counter")
def rate_of_counter(context: Context) -> Iterator[Finding]:
    """rate, irate, increase and resets read counters, delta and deriv read gauges."""
    for subject in context.expressions:
        for visit in context.visits(subject.expr):
            node = visit.node
            if not isinstance(node, Call) or not node.args or not isinstance(node.args[0], MatrixSelector):
                continue
            name = node.args[0].vector_selector.name or ""
            if problem := _problem(context, node.func.name, name):
                yield subject.finding(*problem, span=visit.mark)


def _problem(context: Context, function: str, name: str) -> tuple[str, str] | None:
    """What is wrong with this function over this metric, and what to do; None if nothing."""
    grows = context.counts(name)
    if function in tree.RATES or function == "resets":
        if name in context.recorded and not _records_counter(context, name):
            return f"{function}() over {name}, which is recorded and no counter", "record the rate itself"
        if grows is False:
            return f"{function}() over {name}, which is a gauge", "use delta(), deriv() or avg_over_time()"
    elif function in _FOR_GAUGES and grows:
        return f"{function}() over {name}, which is a counter", "use increase() or rate()"
    return None


def _records_counter(context: Context, name: str) -> bool:
    """Whether a recorded metric may still be a counter: it only sums counters."""
    for rule in context.recorded[name]:
        root = context.tree(rule.expr)
        if root is None:
            return True
        called = {tree.called(node) for node in tree.walk(root)} - {"", "sum"}
        if called or any(context.counts(one) is False for one in tree.names(root)):
            return False
    return True
