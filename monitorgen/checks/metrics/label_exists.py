"""Labels in matchers."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check


@check("label-exists")
def label_exists(context: Context) -> Iterator[Finding]:
    """Every label in a matcher is one that the metric, or its target, has."""
    for subject in context.expressions:
        for selector in context.selectors(subject.expr):
            labels = context.labels(selector.name)
            for matcher in selector.matchers:
                if labels.possible(matcher.name):
                    continue
                known = sorted((labels.always | labels.maybe) - {"__name__"})
                near = difflib.get_close_matches(matcher.name, known, 1)
                yield subject.finding(
                    f"{selector.name} has no label {matcher.name}",
                    f"did you mean {near[0]}?" if near else f"it has {', '.join(known) or 'none'}",
                    span=(selector.start, selector.end),
                )
