"""The order in which recorded metrics are made and read."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check


@check("record-order")
def record_order(context: Context) -> Iterator[Finding]:
    """A recorded metric is made before it is read, and no rule reads itself."""
    place = {
        id(rule): (group, index) for group in context.bundle.groups for index, rule in enumerate(group.rules)
    }
    order = {id(group): index for index, group in enumerate(context.bundle.groups)}
    for subject in context.rules:
        here, index = place[id(subject.rule)]
        own = getattr(subject.rule, "record", "")
        for selector in context.selectors(subject.expr):
            makers = context.recorded.get(selector.name, ())
            if selector.name == own or own in _reads(context, selector.name):
                if own:
                    yield subject.finding(f"it reads itself through {selector.name}", "break the circle")
                continue
            for maker in makers:
                group, position = place[id(maker)]
                if group is here and position > index:
                    yield subject.finding(
                        f"it reads {selector.name}, which its group makes later",
                        f"move {maker.id} up",
                    )
                elif order[id(group)] > order[id(here)]:
                    yield subject.finding(
                        f"it reads {selector.name}, which is made in a later group, {group.name}",
                        f"move {maker.id} into its group, or that group up",
                        severity="warning",
                    )


def _reads(context: Context, name: str) -> set[str]:
    """All metrics that the recorded metric `name` rests on."""
    found: set[str] = set()
    todo = [name]
    while todo:
        for rule in context.recorded.get(todo.pop(), ()):
            below = {selector.name for selector in context.selectors(rule.expr)} - found
            found |= below
            todo.extend(below)
    return found
