"""The runbook that an alert points to."""

from __future__ import annotations

import re
from collections.abc import Iterator

from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

_END = re.compile(r"[/#]([^/#]+?)(?:\.(?:md|html?))?/?$")


@check("alert-runbook")
def alert_runbook(context: Context) -> Iterator[Finding]:
    """The runbook_url ends in the alert's name, and a bundle with runbooks has that page."""
    pages = {page.alert for page in context.bundle.runbooks}
    for subject in context.alerts:
        alert = subject.rule.alert
        url = dict(subject.rule.annotations).get("runbook_url", "").strip()
        if not url:
            continue
        found = _END.search(f"/{url}")
        if re.search(r"\s", url) or found is None or not _names(found[1], alert):
            yield subject.finding(
                f"the runbook_url {url!r} does not end in the alert's name", f"let it end in /{alert}"
            )
        if pages and alert not in pages:
            yield subject.finding("the bundle has no runbook page for it", "add its causes and actions")


def _names(end: str, alert: str) -> bool:
    """Whether the end of an address is the alert's name, or an anchor that ends in it (`alert-name-x`)."""
    end, name = end.lower(), alert.lower()
    return end == name or end.endswith(f"-{name}")
