"""Buckets that are picked by their edge."""

from __future__ import annotations

import re
from collections.abc import Iterator

from monitorgen.catalog import Family
from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check
from monitorgen.promql import Matcher


@check("bucket-edge")
def bucket_edge(context: Context) -> Iterator[Finding]:
    """Values of `le` in matchers are bucket edges, written as servers write them (1.0, not 1)."""
    for subject in context.expressions:
        for selector in context.selectors(subject.expr):
            family = context.family(selector.name)
            if family is None or not family.edges:
                continue
            for matcher in selector.matchers:
                if matcher.name == "le" and (problem := _problem(family, matcher)):
                    yield subject.finding(*problem, span=(selector.start, selector.end))


def _problem(family: Family, matcher: Matcher) -> tuple[str, str] | None:
    texts = [repr(float(edge)) for edge in family.edges] + ["+Inf"]
    if matcher.op in ("=~", "!~"):
        try:
            fits = any(re.fullmatch(matcher.value, text) for text in texts)
        except re.error:
            return None
    else:
        fits = matcher.value in texts
    if fits:
        return None
    wanted = _nearest(matcher.value, family.edges)
    return f"{matcher} is no bucket edge of {family.name}", f"the nearest is {wanted!r}" if wanted else ""


def _nearest(value: str, edges: tuple[float, ...]) -> str:
    try:
        number = float(value)
    except ValueError:
        return ""
    return repr(float(min(edges, key=lambda edge: abs(edge - number))))
