"""Names that Prometheus accepts everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator

from monitorgen.checks.context import Context, RuleSubject
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_ALERT = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
#: Labels that Prometheus sets itself.
_RESERVED = frozenset({"alertname", "alertstate"})


@check("names-valid")
def names_valid(context: Context) -> Iterator[Finding]:
    """Names of metrics, alerts and labels are valid on every Prometheus server, without UTF-8 names."""
    for record in context.records:
        if not _METRIC.fullmatch(record.rule.record):
            yield record.finding(
                f"{record.rule.record!r} is not a metric name", "use letters, digits, _ and :"
            )
        yield from _labels(record)
    for alert in context.alerts:
        if not _ALERT.fullmatch(alert.rule.alert):
            yield alert.finding(f"{alert.rule.alert!r} is not an alert name", "write it LikeThis")
        yield from _labels(alert)


def _labels(subject: RuleSubject) -> Iterator[Finding]:
    for name, value in subject.rule.labels:
        if not _LABEL.fullmatch(name):
            yield subject.finding(f"{name!r} is not a label name", "use letters, digits and _")
        elif name in _RESERVED:
            yield subject.finding(f"the label {name} is set by Prometheus", "choose another name")
        if not value:
            yield subject.finding(f"the label {name} is empty, which drops it", "give it a value")
