"""Matchers and regular expressions of the reference evaluator: Go's, read by Python's module."""

from __future__ import annotations

import re
from functools import lru_cache

from monitorgen.promql import Matcher
from monitorgen.prove.reference_series import Unsupported


def accepts(matcher: Matcher, value: str) -> bool:
    """Does a matcher accept a label's value; a label that is not there has the empty value."""
    if matcher.op in ("=", "!="):
        return (matcher.value == value) == (matcher.op == "=")
    return (compiled(matcher.value).fullmatch(value) is not None) == (matcher.op == "=~")


# Python reads these differently from Go, or not at all.
_OTHER_DIALECT = re.compile(r"\[\[:|\\[pPQECzZGxuU]|\(\?[a-zA-Z]*[UsmRux]|\(\?P?[<=!>](?<!P<)|[*+?}]\+")


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> re.Pattern[str]:
    """A regular expression; Unsupported where Python may read it differently from Prometheus."""
    if _OTHER_DIALECT.search(pattern):
        raise Unsupported(f"the regular expression {pattern!r}")
    try:
        return re.compile(pattern, re.DOTALL | re.ASCII)
    except re.error as error:
        raise Unsupported(f"the regular expression {pattern!r}: {error}") from None


_REFERENCE = re.compile(r"\$(?:(\w+)|\{(\w+)\}|(\$))", re.ASCII)


def expanded(text: str, match: re.Match[str]) -> str:
    """Go's expansion: $1x is a group named `1x`, and groups that do not exist are empty."""

    def group(reference: re.Match[str]) -> str:
        name = reference[1] or reference[2]
        if name is None:
            return "$"
        key: int | str = int(name) if name.isdigit() else name
        try:
            return match[key] or ""
        except IndexError:
            return ""

    return _REFERENCE.sub(group, text)
