"""The variables that choose targets."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.bundle import Variable
from monitorgen.checks.context import SCRAPE_LABELS, Context, dashboard_subject
from monitorgen.checks.dashboards.variable_choice import choice_problems
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check


@check("job-instance-variables")
def job_instance_variables(context: Context) -> Iterator[Finding]:
    """Every dashboard has variables job and instance: labelled, several at once, and all of them as `.+`."""
    for dashboard in context.bundle.dashboards:
        subject = dashboard_subject(dashboard)
        by_name = {variable.name: variable for variable in dashboard.variables}
        for name in SCRAPE_LABELS:
            if name not in by_name:
                yield subject.finding(f"no variable {name}", f"add one that lists the values of {name}")
            else:
                for problem in _problems(by_name[name]):
                    yield subject.finding(f"the variable {name} {problem}", "mend the variable")


def _problems(variable: Variable) -> Iterator[str]:
    """What is wrong with a variable that chooses targets."""
    if variable.kind != "query":
        yield f"is a {variable.kind} variable, not a query"
    yield from choice_problems(variable)
