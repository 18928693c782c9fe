"""Rules that are there twice."""

from __future__ import annotations

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
        first = by_name.setdefault((subject.item, rule.labels), subject)
        if first is not subject:
            yield subject.finding(f"there is another {subject.item}{at(first.origin)}", "remove one")
            continue
        root = context.tree(subject.expr)
        text = subject.expr if root is None else root.prettify()
        hold = getattr(rule, "hold", 0.0)
        same = by_expr.setdefault((kind, text, rule.labels, hold), subject)
        if same is not subject:
            yield subject.finding(f"{same.item} has the same expression{at(same.origin)}", "keep one of them")
