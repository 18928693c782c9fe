"""The variable that chooses a data source."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.checks.context import Context, dashboard_subject
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check


@check("datasource-variable")
def datasource_variable(context: Context) -> Iterator[Finding]:
    """Every dashboard has a template variable for its Prometheus data source."""
    for dashboard in context.bundle.dashboards:
        subject = dashboard_subject(dashboard)
        found = [variable for variable in dashboard.variables if variable.kind == "datasource"]
        if not found:
            yield subject.finding("no datasource variable", 'add one of type "datasource"')
        for variable in found:
            if variable.query != "prometheus":
                yield subject.finding(
                    f"the variable {variable.name} offers {variable.query or 'no'} data sources",
                    "let it offer prometheus",
                )
