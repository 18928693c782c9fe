"""How dashboards are known."""

from __future__ import annotations

import re
from collections.abc import Iterator

from monitorgen.checks.context import Context, dashboard_subject
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

_UID = re.compile(r"[a-zA-Z0-9_-]{1,40}")


@check("dashboard-identity")
def dashboard_identity(context: Context) -> Iterator[Finding]:
    """Every dashboard has a title and a uid of its own, and cannot be edited by hand."""
    uids: set[str] = set()
    for dashboard in context.bundle.dashboards:
        subject = dashboard_subject(dashboard)
        if not dashboard.uid:
            yield subject.finding("no uid", "links to it break at each import; give it one")
        elif not _UID.fullmatch(dashboard.uid):
            yield subject.finding(f"{dashboard.uid!r} is no uid", "use up to 40 letters, digits, - and _")
        elif dashboard.uid in uids:
            yield subject.finding("another dashboard has this uid", "give each its own")
        uids.add(dashboard.uid)
        if not dashboard.title.strip():
            yield subject.finding("no title", "give it one")
        if dashboard.editable:
            yield subject.finding(
                "it can be edited by hand, and the next deployment loses that", "set editable to false"
            )
