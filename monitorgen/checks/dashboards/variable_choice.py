"""What variables offer, beside what queries do with the choice."""

from __future__ import annotations

import re
from collections.abc import Iterator

from monitorgen.bundle import Dashboard, Variable
from monitorgen.checks.context import SCRAPE_LABELS, Context, dashboard_subject
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

_LISTS = re.compile(r"\s*label_values\(\s*(?:.+\s*,)?\s*(\w+)\s*\)\s*", re.DOTALL)
_USED = re.compile(r'(\w+)\s*=~\s*"\$(?:\{(\w+)(?::\w+)?\}|(\w+))"')


@check("variable-choice")
def variable_choice(context: Context) -> Iterator[Finding]:
    """A variable lists the label that queries match with it; one for a kept label offers several, and all."""
    own = set(context.keep) - set(SCRAPE_LABELS)
    for dashboard in context.bundle.dashboards:
        subject = dashboard_subject(dashboard)
        used = _used(dashboard)
        for variable in dashboard.variables:
            if variable.kind != "query":
                continue
            problems = [*_listed(variable, used.get(variable.name, set()))]
            if variable.name in own:
                problems += choice_problems(variable)
            for problem in problems:
                yield subject.finding(f"the variable {variable.name} {problem}", "mend the variable")


def _used(dashboard: Dashboard) -> dict[str, set[str]]:
    """Variable -> the labels that queries match with it."""
    found: dict[str, set[str]] = {}
    for panel in dashboard.panels:
        for query in panel.queries:
            for label, braced, plain in _USED.findall(query.expr):
                found.setdefault(braced or plain, set()).add(label)
    return found


def _listed(variable: Variable, matched: set[str]) -> Iterator[str]:
    if not variable.query.strip().startswith("label_values"):
        return
    lists = _LISTS.fullmatch(variable.query)
    if lists is None:
        yield f"has a query that Grafana does not understand: {variable.query}"
    elif matched and lists[1] not in matched and not variable.regex:
        yield f"lists {lists[1]}, but queries match {', '.join(sorted(matched))} with it"


def choice_problems(variable: Variable) -> Iterator[str]:
    """What keeps a person from choosing among all values of a variable, several at once, by its name."""
    if not variable.label:
        yield "has no label"
    if not variable.multi:
        yield "takes only one value"
    if not variable.include_all or variable.all_value != ".+":
        yield "does not offer all values as .+"
