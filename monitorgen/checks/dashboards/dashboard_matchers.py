"""Queries follow the dashboard's variables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from monitorgen.checks import tree
from monitorgen.checks.context import SCRAPE_LABELS, Context, QuerySubject
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check
from monitorgen.promql import Selector


@check("dashboard-matchers")
def dashboard_matchers(context: Context) -> Iterator[Finding]:
    """Every selector of a panel follows the variables job and instance, and of its other labels."""
    for subject in context.queries:
        for selector in context.selectors(subject.expr):
            text = subject.expr[selector.start : selector.end] if selector.start >= 0 else subject.expr
            for label in (*SCRAPE_LABELS, *_others(context, subject, selector)):
                if not _matcher(label).search(text):
                    yield subject.finding(
                        f"{selector.name or 'a selector'} does not follow the variable {label}",
                        f'add {label}=~"${label}"',
                        span=(selector.start, selector.end),
                    )


def _others(context: Context, subject: QuerySubject, selector: Selector) -> list[str]:
    """The other variables that list a label of the series, unless these only filter what is shown."""
    root = context.tree(subject.expr)
    if root is None or selector.name not in tree.main_names(root):
        return []
    labels = context.labels(selector.name)
    listed = (one.name for one in subject.dashboard.variables if one.kind == "query")
    return [name for name in listed if name not in SCRAPE_LABELS and name in labels.always]


@lru_cache(maxsize=64)
def _matcher(label: str) -> re.Pattern[str]:
    """How a matcher of the label against the variable of the same name is written."""
    name = re.escape(label)
    return re.compile(rf'\b{name}\s*=~\s*"(?:\${name}|\$\{{{name}(?::\w+)?\}}|\[\[{name}\]\])"')
