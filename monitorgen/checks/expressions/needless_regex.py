"""Matchers that do nothing, or do it in a roundabout way."""

from __future__ import annotations

import re
from collections.abc import Iterator

from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check
from monitorgen.promql import Matcher

_META = re.compile(r"[.*+?()|\[\]{}^$\\]")


@check("needless-regex")
def needless_regex(context: Context) -> Iterator[Finding]:
    """Regex matchers are regular expressions, unanchored, and exclude something."""
    for subject in context.expressions:
        for selector in context.selectors(subject.expr):
            for matcher in selector.matchers:
                if problem := _problem(matcher):
                    yield subject.finding(*problem, span=(selector.start, selector.end))


def _problem(matcher: Matcher) -> tuple[str, str] | None:
    """What is wrong with a matcher and what to do, None if nothing."""
    if matcher.op not in ("=~", "!~"):
        return None
    written = f'{matcher.name}{matcher.op}"{matcher.value}"'
    plain = matcher.op[0] + ("=" if matcher.op == "!~" else "")
    if matcher.value in (".*", "^.*$", ""):
        return f"{written} excludes nothing, or everything", "drop it"
    if not _META.search(matcher.value):
        return f"{written} needs no regex", f'write {matcher.name}{plain}"{matcher.value}"'
    if matcher.value.startswith("^") or re.search(r"(?<!\\)\$$", matcher.value):
        return f"{written} has needless anchors: matchers are anchored", "drop ^ and $"
    return None
