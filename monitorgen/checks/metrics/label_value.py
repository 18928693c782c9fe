"""Values in matchers."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from monitorgen.checks import tree
from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check
from monitorgen.promql import Matcher

#: Labels whose values a deployment chooses, so that the recorded ones are only examples.
_FREE = frozenset({"handler", "method", "path", "le", "quantile"})
_ALTERNATIVES = re.compile(r"[\w:./-]+(?:\|[\w:./-]+)*")


@check("label-value")
def label_value(context: Context) -> Iterator[Finding]:
    """Values in matchers are among those that the newest version exports, and jobs are those scraped."""
    for subject in context.expressions:
        for selector in context.selectors(subject.expr):
            for matcher in selector.matchers:
                if matcher.name in _FREE:
                    continue
                values = _values(context, selector.name, matcher.name, frozenset())
                for value in _missing(matcher, values) if values else ():
                    near = difflib.get_close_matches(value, values, 1)
                    yield subject.finding(
                        f"{selector.name} never has {matcher.name}={value!r}",
                        f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(values))}",
                        span=(selector.start, selector.end),
                    )


def _values(context: Context, name: str, label: str, seen: frozenset[str]) -> frozenset[str]:
    """The values that a label of a metric can have, nothing where they cannot be listed."""
    if label == "job":
        return frozenset(job.job for job in context.bundle.scrape_jobs)
    if name not in context.recorded:
        family = context.family(name)
        return frozenset(family.values.get(label, ())) if family else frozenset()
    if name in seen:
        return frozenset()
    found: set[str] = set()
    for rule in context.recorded[name]:
        root = context.tree(rule.expr)
        own = dict(rule.labels).get(label)
        if own is not None:
            found.add(own)
        elif root is None or any(tree.called(node).startswith("label_") for node in tree.walk(root)):
            return frozenset()
        else:
            below = [_values(context, one, label, seen | {name}) for one in tree.main_names(root)]
            if not all(below):
                return frozenset()
            found.update(*below)
    return frozenset(found)


def _missing(matcher: Matcher, values: frozenset[str]) -> Iterator[str]:
    """The values that a matcher asks for and that do not exist."""
    numbers = all(value.isdigit() for value in values)  # positions and the like go on counting
    asked: tuple[str, ...]
    if matcher.op in ("=", "!="):
        asked = (matcher.value,)
    elif _ALTERNATIVES.fullmatch(matcher.value) and "." not in matcher.value:
        asked = tuple(matcher.value.split("|"))
    else:
        try:
            pattern = re.compile(matcher.value)
        except re.error:
            return
        if not any(pattern.fullmatch(value) for value in (*values, "")):
            yield matcher.value
        return
    yield from (
        value for value in asked if value and value not in values and not (numbers and value.isdigit())
    )
