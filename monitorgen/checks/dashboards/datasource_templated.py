"""Which data source panels ask."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.bundle import Dashboard
from monitorgen.checks.context import Context, Subject, dashboard_subject
from monitorgen.checks.dashboards.panel_target import needs_targets
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check


@check("datasource-templated")
def datasource_templated(context: Context) -> Iterator[Finding]:
    """Panels, queries and variables ask the data source that the datasource variable chooses."""
    for dashboard in context.bundle.dashboards:
        for variable in dashboard.variables:
            if variable.kind == "query":
                yield from _asks(
                    dashboard_subject(dashboard),
                    dashboard,
                    f"the variable {variable.name}",
                    variable.datasource,
                )
    for panel in context.panels:
        if needs_targets(panel.panel):
            yield from _asks(panel, panel.dashboard, "the panel", panel.panel.datasource)
    for query in context.queries:
        yield from _asks(query, query.dashboard, f"query {query.query.ref_id}", query.query.datasource)


def _asks(subject: Subject, dashboard: Dashboard, who: str, uid: str) -> Iterator[Finding]:
    names = [variable.name for variable in dashboard.variables if variable.kind == "datasource"] or [
        "datasource"
    ]
    if uid not in {text for name in names for text in (f"${name}", f"${{{name}}}")}:
        said = f"asks the data source {uid!r}" if uid else "names no data source"
        yield subject.finding(f"{who} {said}", f"write ${{{names[0]}}}")
