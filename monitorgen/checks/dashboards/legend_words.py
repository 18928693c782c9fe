"""Legends of panels with several queries."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.checks.context import Context
from monitorgen.checks.dashboards.legend_labels import LEGEND_LABEL
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check


@check("legend-words")
def legend_words(context: Context) -> Iterator[Finding]:
    """Where some queries of a panel say in their legends what they show, all of them do."""
    for subject in context.panels:
        shown = [query for query in subject.panel.queries if query.legend and not query.hidden]
        silent = [query.ref_id for query in shown if not LEGEND_LABEL.sub("", query.legend).strip(" -,:/|()")]
        if silent and len(silent) < len(shown):
            yield subject.finding(
                f"the legend of query {silent[0]} has labels only, and others say what they show",
                "begin it with a word, as the others do",
                severity="warning",
            )
