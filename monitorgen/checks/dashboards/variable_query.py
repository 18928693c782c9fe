"""What variables list."""

from __future__ import annotations

import re
from collections.abc import Iterator

from monitorgen.bundle import Dashboard, Variable
from monitorgen.checks.context import Context, Subject, dashboard_subject
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check
from monitorgen.promql import PromQLError, grafana_substitute, selectors

_LABEL_VALUES = re.compile(r"\s*label_values\(\s*(?:(?P<series>.+)\s*,)?\s*(?P<label>\w+)\s*\)\s*", re.DOTALL)


@check("variable-query")
def variable_query(context: Context) -> Iterator[Finding]:
    """Variables list labels that exist, of metrics that exist, and follow the variables before them."""
    for dashboard in context.bundle.dashboards:
        earlier: list[str] = []
        for variable in dashboard.variables:
            if variable.kind == "query":
                yield from _problems(context, dashboard, variable, earlier)
                earlier.append(variable.name)


def _problems(
    context: Context, dashboard: Dashboard, variable: Variable, earlier: list[str]
) -> Iterator[Finding]:
    subject = dashboard_subject(dashboard)
    found = _LABEL_VALUES.fullmatch(variable.query)
    if found is None or not found["series"]:
        if not variable.query.strip():
            yield subject.finding(f"the variable {variable.name} has no query", "list the values of a label")
        elif found is not None:
            yield subject.finding(
                f"the variable {variable.name} lists the {found['label']} of everything in the data source",
                f"write label_values(METRIC, {found['label']})",
                severity="warning",
            )
        return
    try:
        read = selectors(grafana_substitute(found["series"]))
    except PromQLError as error:
        yield subject.finding(f"the query of the variable {variable.name} does not parse: {error.message}")
        return
    for selector in read:
        names = [selector.name] if selector.name else _named(selector.text)
        for name in names:
            yield from _metric(context, subject, variable, name, found["label"])
        chosen = {matcher.name for matcher in selector.matchers}
        for label in earlier:
            if label not in chosen and any(context.labels(name).possible(label) for name in names):
                yield subject.finding(
                    f"the variable {variable.name} does not follow the variable {label} before it",
                    f'add {label}=~"${label}"',
                    severity="warning",
                )


def _named(text: str) -> list[str]:
    """The names of a selector such as {__name__=~"a|b"}."""
    found = re.search(r'__name__=~"([\w:|]+)"', text)
    return found[1].split("|") if found else []


def _metric(
    context: Context, subject: Subject, variable: Variable, name: str, label: str
) -> Iterator[Finding]:
    if context.informed and name not in context.recorded and not context.families(name):
        yield subject.finding(f"the variable {variable.name} asks for {name}, which no catalog has")
    elif not context.labels(name).possible(label):
        yield subject.finding(f"the variable {variable.name} lists {label}, which {name} does not have")
