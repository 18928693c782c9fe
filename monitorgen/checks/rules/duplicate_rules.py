"""Rules that are there twice."""

from __future__ import annotations

import re
from collections.abc import Iterator

from monitorgen.checks.context import Context, RuleSubject
from monitorgen.checks.finding import Finding, at
from monitorgen.checks.registry import check


@check("duplicate-rules")
def duplicate_rules(context: Context) -> Iterator[Finding]:
    """No rule is there twice: same name and labels, or the same expression under two names."""
    by_name: dict[object, RuleSubject] = {}
    by_expr: dict[object, RuleSubject] = {}
    for subject in context.rules:
        rule = subject.rule
        kind = type(rule).__name__
        root = context.tree(subject.expr)
        text = subject.expr if root is None else root.prettify()
        first = by_name.setdefault((subject.item, rule.labels), subject)
        if first is not subject:
            if kind == "AlertRule" or not _parts_of_one(first.expr, subject.expr):
                yield subject.finding(f"there is another {subject.item}{at(first.origin)}", "remove one")
            continue
        hold = getattr(rule, "hold", 0.0)
        same = by_expr.setdefault((kind, text, rule.labels, hold), subject)
        if same is not subject:
            yield subject.finding(f"{same.item} has the same expression{at(same.origin)}", "keep one of them")


def _parts_of_one(one: str, other: str) -> bool:
    """Whether two expressions differ in their matchers only: they may record different series."""
    return one != other and _MATCHERS.sub("", one) == _MATCHERS.sub("", other)


_MATCHERS = re.compile(r"\{[^{}]*\}|\s+")
