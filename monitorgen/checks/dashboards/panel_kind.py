"""Kinds of panels."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

#: What Grafana brings with it, today and in old exports; other plugins are called `author-name-panel`.
_KINDS = frozenset(
    {"alertlist", "annolist", "barchart", "bargauge", "candlestick", "canvas", "dashlist", "datagrid"}
    | {"debug", "flamegraph", "gauge", "geomap", "gettingstarted", "graph", "heatmap", "histogram"}
    | {"live", "logs", "news", "nodeGraph", "piechart", "pluginlist", "row", "singlestat", "stat"}
    | {"state-timeline", "status-history", "table", "table-old", "text", "timeseries", "traces", "trend"}
    | {"welcome", "xychart", "library-panel-ref"}
)


@check("panel-kind")
def panel_kind(context: Context) -> Iterator[Finding]:
    """Every panel is of a kind that Grafana, or one of its plugins, draws."""
    for subject in context.panels:
        kind = subject.panel.kind
        if kind and kind not in _KINDS and kind.count("-") < 2:
            near = difflib.get_close_matches(kind, sorted(_KINDS), 1)
            hint = f"did you mean {near[0]}?" if near else "timeseries is the usual one"
            yield subject.finding(f"Grafana has no panels of the kind {kind!r}", hint)
