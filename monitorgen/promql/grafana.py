"""Grafana's variables in expressions: `$job`, `${job:regex}`, `[[job]]`, `$__rate_interval`.

Substitution keeps a map of places: what is found in the substituted text is reported in the written one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_VARIABLE = re.compile(
    r"\$([A-Za-z_]\w*)|\$\{([A-Za-z_]\w*)(?:\.[^:}]+)?(?::[^}]*)?\}|\[\[([A-Za-z_]\w*)(?::\w+)?\]\]", re.ASCII
)
# `[[name]]` is Grafana's old syntax; a range whose variable is written plainly, as in [[x]], does not occur.
_BUILT_IN: Mapping[str, str] = {
    "__rate_interval": "1m",
    "__interval": "15s",
    "__range": "1h",
    "__interval_ms": "15000",
    "__rate_interval_ms": "60000",
    "__range_s": "3600",
    "__range_ms": "3600000",
    "__from": "1700000000000",
    "__to": "1700003600000",
}
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"?|\'(?:\\.|[^\'\\])*\'?|`[^`]*`?', re.DOTALL)
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^()]*$", re.IGNORECASE)
_IN_BRACES = re.compile(r"\{(?:[^{}\"']|\"[^\"]*\"|'[^']*')*$")
_MATCHED = re.compile(r"[=~]\s*$")
_WORD = re.compile(r"[A-Za-z0-9_:]")


@dataclass(frozen=True, slots=True)
class Substituted:
    """A text with its variables replaced; an edit is (start, end, new start, new end) of a replacement."""

    text: str
    variables: tuple[str, ...]
    edits: tuple[tuple[int, int, int, int], ...]

    def start(self, offset: int) -> int:
        """The place in the written text where a piece that begins at `offset` of `text` begins."""
        shift = 0
        for old_start, old_end, new_start, new_end in self.edits:
            if offset < new_start:
                break
            if offset < new_end:
                return old_start
            shift = old_end - new_end
        return offset + shift

    def end(self, offset: int) -> int:
        """The place in the written text where a piece that ends at `offset` of `text` ends."""
        shift = 0
        for _, old_end, new_start, new_end in self.edits:
            if offset <= new_start:
                break
            if offset <= new_end:
                return old_end
            shift = old_end - new_end
        return offset + shift


def substitute(expr: str) -> Substituted:
    """Replace variables by values that fit: durations in ranges, `.+` in matchers, else names or numbers."""
    if "$" not in expr and "[[" not in expr:
        return Substituted(expr, (), ())
    strings = [match.span() for match in _QUOTED.finditer(expr)]
    pieces, names, edits = [], [], []
    done = length = 0
    for match in _VARIABLE.finditer(expr):
        start, end = match.span()
        quote = next((low for low, high in strings if low < start < high), None)
        if quote is not None and not _MATCHED.search(expr[:quote]):
            continue  # "$name" may be a group of label_replace's pattern
        name = match[1] or match[2] or match[3]
        value = _value(name, expr, start, end, quote is not None)
        pieces += [expr[done:start], value]
        length += start - done
        edits.append((start, end, length, length + len(value)))
        length += len(value)
        done = end
        names.append(name)
    return Substituted("".join([*pieces, expr[done:]]), tuple(names), tuple(edits))


def grafana_substitute(expr: str) -> str:
    """`expr` with Grafana's variables replaced, so that it parses; other text stays as it is."""
    return substitute(expr).text


def _value(name: str, expr: str, start: int, end: int, quoted: bool) -> str:
    """A value that fits the place: what Grafana would put there is unknown, its syntax is not."""
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    if quoted:
        return ".+"
    before, after = expr[:start], expr[end:]
    if before.rfind("[") > before.rfind("]") or re.search(r"\boffset\s+-?\s*$", before, re.IGNORECASE):
        return "1m"
    glued = bool(_WORD.match(before[-1:]) or _WORD.match(after[:1]))
    if glued or _GROUPING.search(before) or _IN_BRACES.search(before):
        return name
    follows = after.lstrip()[:1]
    return name if follows in ("{", "[", "(") and follows else "1"
