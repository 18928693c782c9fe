"""Queries follow the dashboard's variables."""

from __future__ import annotations

import re
from collections.abc import Iterator

from monitorgen.checks.context import SCRAPE_LABELS, Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

_MATCHERS = {
    label: re.compile(rf'\b{label}\s*=~\s*"(?:\${label}|\$\{{{label}(?::\w+)?\}}|\[\[{label}\]\])"')
    for label in SCRAPE_LABELS
}


@check("dashboard-matchers")
def dashboard_matchers(context: Context) -> Iterator[Finding]:
    """Every selector of a panel follows the variables job and instance."""
    for subject in context.queries:
        for selector in context.selectors(subject.expr):
            text = subject.expr[selector.start : selector.end] if selector.start >= 0 else subject.expr
            for label, pattern in _MATCHERS.items():
                if not pattern.search(text):
                    yield subject.finding(
                        f"{selector.name or 'a selector'} does not follow the variable {label}",
                        f'add {label}=~"${label}"',
                        span=(selector.start, selector.end),
                    )
