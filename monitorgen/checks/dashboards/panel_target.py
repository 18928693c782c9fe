"""Panels that ask nothing."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.bundle import Panel
from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

#: Kinds that show something else than series.
_WITHOUT = frozenset(
    {"text", "row", "news", "dashlist", "alertlist", "annolist", "welcome", "gettingstarted"}
)


def needs_targets(panel: Panel) -> bool:
    """Whether a panel of this kind shows what queries yield."""
    return panel.kind not in _WITHOUT


@check("panel-target")
def panel_target(context: Context) -> Iterator[Finding]:
    """Every panel has at least one query, and none of them is empty or has another's refId."""
    for subject in context.panels:
        queries = subject.panel.queries
        if not queries and needs_targets(subject.panel):
            yield subject.finding("no query", "give it one, or remove it")
        ids = [query.ref_id for query in queries]
        for ref_id in sorted({one for one in ids if ids.count(one) > 1}):
            yield subject.finding(f"several queries have the refId {ref_id!r}", "name them A, B, C")
        if queries and all(query.hidden for query in queries):
            yield subject.finding("all its queries are hidden", "show one")
