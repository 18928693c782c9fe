"""What a recorded name says of its expression."""

from __future__ import annotations

import re
from collections.abc import Iterator

from promql_parser import AggregateExpr, BinaryExpr, Call

from monitorgen.checks import tree
from monitorgen.checks.context import Context, RecordSubject
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check
from monitorgen.promql import format_duration, parse_duration

_WORD = re.compile(r"(?P<name>[a-z]+?)?(?P<window>\d+(?:ms|[smhdwy]))$|(?P<plain>[a-z]+\d*)$")
#: Words of operations, and what an expression calls that has them.
_CALLS = {
    "rate": {"rate", "irate"},
    "irate": {"irate"},
    "increase": {"increase"},
    "max": {"max", "max_over_time"},
    "min": {"min", "min_over_time"},
    "avg": {"avg", "avg_over_time", "/"},
    "mean": {"avg", "avg_over_time", "/"},
    "sum": {"sum", "sum_over_time"},
    "count": {"count", "count_over_time"},
    "delta": {"delta"},
    "deriv": {"deriv"},
    "changes": {"changes"},
    "resets": {"resets"},
    "stddev": {"stddev", "stddev_over_time"},
    "last": {"last_over_time"},
    "ratio": {"/"},
    "share": {"/"},
}


@check("record-operation")
def record_operation(context: Context) -> Iterator[Finding]:
    """The operations in a recorded name are those of its expression: quantile, window, rate, max, ..."""
    for subject in context.records:
        parts = subject.rule.record.split(":")
        if len(parts) != 3 or context.tree(subject.expr) is None:
            continue
        words = parts[2].split("_")
        yield from _quantiles(context, subject, words)
        yield from _windows(context, subject, words)
        yield from _operations(context, subject, words)


def _quantiles(context: Context, subject: RecordSubject, words: list[str]) -> Iterator[Finding]:
    """`p90` goes with histogram_quantile(0.9, ...), and the other way round."""
    named = {word: f"0.{word[1:]}" for word in words if re.fullmatch(r"p\d+", word)}
    used = _used_quantiles(context, subject.expr)
    for word, value in named.items():
        if used is not None and float(value) not in used:
            asked = ", ".join(f"{one:g}" for one in sorted(used)) or "no quantile"
            yield subject.finding(f"the name says {word}, the expression has {asked}", f"use {value}")
    own = _own_quantiles(context, subject.expr)
    if own and not named and not {"quantile", "median"} & {word.strip("0123456789smhd") for word in words}:
        listed = ", ".join(f"{one:g}" for one in sorted(own))
        yield subject.finding(f"the expression takes a quantile ({listed}), the name names none", "add it")


def _own_quantiles(context: Context, expr: str) -> set[float]:
    """The constant quantiles that an expression itself takes."""
    found = set()
    for visit in context.visits(expr):
        node = visit.node
        if isinstance(node, Call) and node.func.name in ("histogram_quantile", "quantile_over_time"):
            found.add(tree.number(node.args[0]))
        elif isinstance(node, AggregateExpr) and tree.operator(node) == "quantile":
            found.add(tree.number(node.param) if node.param else None)
    return {value for value in found if value is not None}


def _used_quantiles(context: Context, expr: str) -> set[float]:
    """The constant quantiles of an expression and of the recorded metrics below it."""
    return set().union(*(_own_quantiles(context, source) for source in context.source_exprs(expr)))


def _windows(context: Context, subject: RecordSubject, words: list[str]) -> Iterator[Finding]:
    """`5m` in the name goes with [5m] in the expression, or in the recorded metrics that it reads."""
    said = {found["window"] for word in words if (found := _WORD.match(word)) and found["window"]}
    if not said:
        return
    used = _windows_of(context, subject.expr, frozenset())
    wanted = {parse_duration(window) for window in said}
    if used and wanted != used:
        listed = ", ".join(format_duration(window) for window in sorted(used))
        yield subject.finding(
            f"the name says {', '.join(sorted(said))}, the expression looks back {listed}", "make them agree"
        )


def _windows_of(context: Context, expr: str, seen: frozenset[str]) -> set[float]:
    """The ranges, in seconds, that an expression looks back; where it has none, those of what it reads."""
    read = context.selectors(expr)
    own = {selector.range for selector in read if selector.range}
    if own:
        return own
    below = [(one.name, rule.expr) for one in read for rule in context.recorded.get(one.name, ())]
    return set().union(
        *(_windows_of(context, text, seen | {name}) for name, text in below if name not in seen)
    )


def _operations(context: Context, subject: RecordSubject, words: list[str]) -> Iterator[Finding]:
    """`max`, `rate` and the like go with a call of that name."""
    calls = set().union(*(_calls(context, source) for source in context.source_exprs(subject.expr)))
    for word in words:
        found = _WORD.match(word)
        said = (found["name"] or found["plain"] or "") if found else ""
        wanted = _CALLS.get(said)
        if said in ("ratio", "share") and context.unit(subject.expr) == "ratio":
            continue
        if wanted and not wanted & calls:
            yield subject.finding(f"the name says {said}, the expression has none", "make them agree")


def _calls(context: Context, expr: str) -> set[str]:
    """The functions, aggregations and operators of an expression."""
    return {
        tree.operator(visit.node) if isinstance(visit.node, BinaryExpr) else tree.called(visit.node)
        for visit in context.visits(expr)
    }
