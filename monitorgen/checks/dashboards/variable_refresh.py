"""When variables are looked up again."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.checks.context import Context, dashboard_subject
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

_ON_TIME_CHANGE = 2


@check("variable-refresh")
def variable_refresh(context: Context) -> Iterator[Finding]:
    """Query variables are looked up again when the time range changes."""
    for dashboard in context.bundle.dashboards:
        for variable in dashboard.variables:
            if variable.kind == "query" and variable.refresh != _ON_TIME_CHANGE:
                yield dashboard_subject(dashboard).finding(
                    f"the variable {variable.name} is not refreshed when the time range changes",
                    f"set refresh to {_ON_TIME_CHANGE}",
                )
