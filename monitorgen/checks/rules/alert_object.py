"""Alerts that say what is affected."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen import gotemplate
from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check


@check("alert-object")
def alert_object(context: Context) -> Iterator[Finding]:
    """The summary or the description names the affected object by a label that the expression yields."""
    for subject in context.alerts:
        if context.tree(subject.expr) is None:
            continue
        yields = context.yields(subject.expr)
        identity = (yields.always | yields.maybe) - {"le", "quantile"}
        if not identity:
            continue
        texts = dict(subject.rule.annotations)
        used = {
            label
            for name in ("summary", "description")
            for label in gotemplate.read(texts.get(name, "")).labels
        }
        if not (used if yields.open else used & identity):
            best = min(yields.always & identity or identity)
            yield subject.finding(
                "neither summary nor description names the affected object",
                f"use one of {', '.join(sorted(identity))}, such as {{{{ $labels.{best} }}}}",
            )
