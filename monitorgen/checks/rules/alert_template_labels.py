"""Labels that an alert's texts use."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen import gotemplate
from monitorgen.checks.context import AlertSubject, Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check


@check("alert-template-labels")
def alert_template_labels(context: Context) -> Iterator[Finding]:
    """Annotations and labels use only labels that the alert's expression yields."""
    for subject in context.alerts:
        if context.tree(subject.expr) is not None:
            yield from _missing(context, subject)


def _missing(context: Context, subject: AlertSubject) -> Iterator[Finding]:
    yields = context.yields(subject.expr)
    if yields.open:
        return
    there = yields.always | yields.maybe
    # Prometheus expands templates before it adds the rule's own labels.
    for name, text in (*subject.rule.annotations, *subject.rule.labels):
        for label in gotemplate.read(text).labels:
            if label not in there:
                listed = ", ".join(sorted(there)) or "none"
                yield subject.finding(
                    f"{name} uses $labels.{label}, which the expression does not yield",
                    f"it yields: {listed}",
                )
