"""Steps of panels and thresholds of alerts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from promql_parser import AggregateExpr, BinaryExpr, Expr, VectorSelector

from monitorgen.checks import tree
from monitorgen.checks.context import Context, PanelSubject
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

_TOLERANCE = 1e-9


@dataclass(slots=True)
class _Thresholds:
    """What alerts compare a metric with: in their condition, by direction, and anywhere."""

    above: set[float] = field(default_factory=set)
    below: set[float] = field(default_factory=set)
    anywhere: set[float] = field(default_factory=set)


@check("panel-steps")
def panel_steps(context: Context) -> Iterator[Finding]:
    """The steps of a panel are the thresholds of the alerts on what it shows, all of them."""
    thresholds = _by_metric(context)
    for subject in context.panels:
        shown = [thresholds[name] for name in _shown(context, subject) if name in thresholds]
        if shown and subject.panel.steps:
            yield from _compare(subject, shown)


def _by_metric(context: Context) -> dict[str, _Thresholds]:
    """The thresholds of all alerts by the metric, or expression, that they compare."""
    found: dict[str, _Thresholds] = {}
    for subject in context.alerts:
        for one in tree.comparisons(context.visits(subject.expr)):
            if one.op in ("==", "!="):
                continue
            metric = found.setdefault(_plain(one.series), _Thresholds())
            metric.anywhere.add(one.value)
            if not one.guard:
                (metric.above if one.op[0] == ">" else metric.below).add(one.value)
    return {name: metric for name, metric in found.items() if name}


def _plain(node: Expr) -> str:
    """The one metric whose values the node yields as they are, "" where it computes."""
    node = tree.bare(node)
    if isinstance(node, VectorSelector):
        return node.name or ""
    if isinstance(node, AggregateExpr) and tree.operator(node) in ("max", "min", "avg"):
        return _plain(node.expr)
    if isinstance(node, BinaryExpr) and tree.operator(node) in ("and", "unless"):
        return _plain(node.lhs)
    return ""


def _shown(context: Context, subject: PanelSubject) -> list[str]:
    roots = (context.tree(query.expr) for query in subject.panel.queries if not query.hidden)
    return [name for root in roots if root is not None and (name := _plain(root))]


def _compare(subject: PanelSubject, shown: list[_Thresholds]) -> Iterator[Finding]:
    steps = [step.value for step in subject.panel.steps[1:] if step.value is not None]
    known = {value for metric in shown for value in metric.anywhere}
    above = {value for metric in shown for value in metric.above if value}  # a step at 0 would colour all
    below = {value for metric in shown for value in metric.below}
    # Steps have one direction: where alerts have both, one of them is enough.
    wanted = [side for side in (above, below) if side]
    listed = ", ".join(f"{value:g}" for value in sorted(known))
    for step in steps:
        if not _near(step, known):
            yield subject.finding(
                f"a step stands at {step:g}, where no alert has a threshold", f"alerts compare with {listed}"
            )
    yield from _colors(subject, above - below, below - above)
    missing = [[value for value in sorted(side) if not _near(value, steps)] for side in wanted]
    if missing and all(missing):
        yield subject.finding(
            f"an alert compares with {missing[0][0]:g}, where the panel has no step", "add the step"
        )


#: How bad a colour is; shades (`dark-red`) count as their colour, and other colours say nothing.
_BADNESS = {"green": 0, "blue": 0, "yellow": 1, "orange": 2, "red": 3}


def _colors(subject: PanelSubject, above: set[float], below: set[float]) -> Iterator[Finding]:
    """The side of a step on which an alert fires has the worse colour."""
    for before, step in pairwise(subject.panel.steps):
        low, high = (_BADNESS.get(one.color.rpartition("-")[2]) for one in (before, step))
        if step.value is None or low is None or high is None:
            continue
        for side, fires, wrong in ((above, "above", high <= low), (below, "below", low <= high)):
            if wrong and _near(step.value, side):
                yield subject.finding(
                    f"an alert fires {fires} {step.value:g}, where {before.color} turns into {step.color}",
                    "swap the colours, or the comparison",
                )


def _near(value: float, others: set[float] | list[float]) -> bool:
    return any(abs(value - other) <= _TOLERANCE * max(1.0, abs(value)) for other in others)
