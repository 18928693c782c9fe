"""Labels that rules must keep."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.checks import tree
from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check


@check("keep-labels")
def keep_labels(context: Context) -> Iterator[Finding]:
    """Rules keep job, instance and the bundle's own labels where the series that they read have them."""
    for subject in context.rules:
        root = context.tree(subject.expr)
        if root is None or not context.keep:
            continue
        yields = context.yields(subject.expr)
        if yields.open:
            continue
        read = [context.labels(name) for name in tree.main_names(root)]
        has = yields.always | yields.maybe
        for label in context.keep:
            if label not in has and any(label in labels.always | labels.maybe for labels in read):
                yield subject.finding(
                    f"the label {label} is lost on the way", f"add {label} to by (...), or aggregate without"
                )
