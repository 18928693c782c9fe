"""Variables that queries use."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check
from monitorgen.promql.grafana import substitute


@check("variable-defined")
def variable_defined(context: Context) -> Iterator[Finding]:
    """Queries use only variables that their dashboard, or Grafana, defines."""
    for subject in context.queries:
        known = [variable.name for variable in subject.dashboard.variables]
        for name in dict.fromkeys(substitute(subject.expr).variables):
            if name not in known and not name.startswith("__"):
                near = difflib.get_close_matches(name, known, 1)
                yield subject.finding(
                    f"${name} is not a variable of the dashboard",
                    f"did you mean ${near[0]}?" if near else f"it has {', '.join(known) or 'none'}",
                )
