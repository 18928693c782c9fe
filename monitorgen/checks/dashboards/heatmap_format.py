"""How a heatmap asks for buckets."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check


@check("heatmap-format")
def heatmap_format(context: Context) -> Iterator[Finding]:
    """A heatmap asks for buckets as a heatmap: as time series each bucket holds all the lower ones too."""
    for subject in context.queries:
        query = subject.query
        if subject.panel.kind != "heatmap" or query.format == "heatmap" or query.hidden:
            continue
        if context.tree(subject.expr) is not None and "le" in context.yields(subject.expr).always:
            yield subject.finding(
                f"query {query.ref_id} asks for buckets as {query.format}", "use format: heatmap"
            )
