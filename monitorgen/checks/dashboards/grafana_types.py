"""The JSON of dashboards against Grafana's own types."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.checks.context import Context, Subject, dashboard_subject
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

#: One broken type says as much as fifty.
_AT_MOST = 5


@check("grafana-types")
def grafana_types(context: Context) -> Iterator[Finding]:
    """A dashboard's JSON has the types that Grafana's schema has."""
    from monitorgen.checks import grafana_schema  # its data is read only if there is JSON

    for dashboard in context.bundle.dashboards:
        if dashboard.raw is not None:
            yield from _findings(dashboard_subject(dashboard), grafana_schema.dashboard_errors(dashboard.raw))
    for subject in context.panels:
        if subject.panel.raw is not None and subject.dashboard.raw is None:
            yield from _findings(subject, grafana_schema.schema_errors(subject.panel.raw))


def _findings(subject: Subject, errors: list[tuple[str, str]]) -> Iterator[Finding]:
    for path, message in errors[:_AT_MOST]:
        yield subject.finding(f"{path}: {message}", "see Grafana's schema")
