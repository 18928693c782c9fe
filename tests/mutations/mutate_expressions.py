"""Mistakes in a PromQL text. Each function yields (kind, note, new text), from the text alone.

Numbers and durations change by what a slip makes of them: double, half, a wrong unit, one digit; never by a
per cent or two, which nobody does by mistake.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

Change = tuple[str, str, str]
_NAME = re.compile(r'(?<![\w:"$.])(?:[a-z_]+:[\w:]+|\w+_total|up)(?![\w:"(])')
_WORD = {"and", "or", "unless"}
_OPEN, _CLOSE = "([{", ")]}"
_LABELS = {"job": "service", "instance": "host", "model_name": "model", "le": "bucket"}
_AGGREGATES = {
    "sum": ("max", "avg", "count"),
    "max": ("min", "sum"),
}
_FUNCTIONS = {
    "rate": ("increase", "irate", "delta"),
    "increase": ("rate",),
    "max_over_time": ("avg_over_time", "last_over_time"),
    "avg_over_time": ("max_over_time", "sum_over_time"),
    "changes": ("resets",),
    "histogram_quantile": ("quantile",),
    "absent": ("present_over_time",),
}


def variants(expr: str) -> Iterator[Change]:
    """All mistakes that are known here, wherever they can be made."""
    for find in (
        metrics,
        groupings,
        matchers,
        comparisons,
        numbers,
        windows,
        aggregates,
        functions,
        guards,
        operands,
        arithmetic,
        quantile_series,
    ):
        yield from find(expr)


def _at(expr: str, match: re.Match[str], new: str, group: int | str = 0) -> str:
    start, end = match.span(group)
    return expr[:start] + new + expr[end:]


def _numbered(changes: Iterator[Change]) -> Iterator[Change]:
    """The same change at several places gets a number, so that every mutation has a name of its own."""
    seen: dict[tuple[str, str], int] = {}
    for kind, note, text in changes:
        count = seen[kind, note] = seen.get((kind, note), 0) + 1
        yield kind, note if count == 1 else f"{note} (place {count})", text


def metrics(expr: str) -> Iterator[Change]:
    """A metric misspelt, without its suffix, or with the underscore that other exporters have."""

    def found() -> Iterator[Change]:
        for match in _NAME.finditer(expr):
            name = match[0]
            yield "metric renamed", f"{name} misspelt", _at(expr, match, name[:-2] + name[-1:])
            for suffix in ("_total", "_bucket", "_sum", "_count"):
                if name.endswith(suffix):
                    new = name.removesuffix(suffix)
                    yield "metric renamed", f"{name} without {suffix}", _at(expr, match, new)
            if name.startswith("vllm:"):
                new = name.replace(":", "_")
                yield "metric renamed", f"{name} with an underscore", _at(expr, match, new)

    return _numbered(found())


def groupings(expr: str) -> Iterator[Change]:
    """A label of by() gone, or under another name."""

    def found() -> Iterator[Change]:
        for match in re.finditer(r"\bby \(([^)]*)\)", expr):
            labels = match[1].split(", ")
            for label in labels:
                rest = ", ".join(other for other in labels if other != label)
                yield "grouping label removed", f"by ({label})", _at(expr, match, rest, 1)
                new = ", ".join(_LABELS.get(label, label + "s") if one == label else one for one in labels)
                yield "grouping label renamed", f"by ({label})", _at(expr, match, new, 1)

    return _numbered(found())


def matchers(expr: str) -> Iterator[Change]:
    """A matcher gone, with another operator, value or label."""

    def found() -> Iterator[Change]:
        for match in re.finditer(r'(,?)(\w+)(=~|!~|!=|=)("[^"]*")(,?)', expr):
            lead, label, op, value, tail = match.groups()
            text = f"{label}{op}{value}"
            yield "matcher removed", text, _at(expr, match, "," if lead and tail else "")
            for new in {"=": ("!=",), "=~": ("!~", "=")}.get(op, ()):
                yield "matcher operator", f"{text} to {new}", _at(expr, match, new, 3)
            yield "matcher value", text, _at(expr, match, _other_value(value), 4)
            yield "matcher label", text, _at(expr, match, _LABELS.get(label, label + "s"), 2)

    return _numbered(found())


def _other_value(value: str) -> str:
    if "|" in value:
        return value.split("|", 1)[0] + '"'
    return {'"$job"': '"$instance"', '"$instance"': '"$job"', '"5xx"': '"4xx"'}.get(value, value[:-1] + 's"')


def comparisons(expr: str) -> Iterator[Change]:
    """A comparison the other way round, or one that lets the limit itself pass."""
    others = {">": ("<", ">="), "<": (">", "<="), "==": ("!=",)}

    def found() -> Iterator[Change]:
        for match in re.finditer(r"(?<=\s)(>|<|==)(?=\s+[\d.]+)", expr):
            number = expr[match.end() :].split(")")[0].split()[0]
            for new in others[match[0]]:
                kind = (
                    "comparison lets the limit pass" if "=" in new and new != "!=" else "comparison flipped"
                )
                yield kind, f"{match[0]} {number} to {new}", _at(expr, match, new)

    return _numbered(found())


_NUMBER = re.compile(r"(?<![\w:.\[\"$])\d+(?:\.\d+)?(?![\w.:\"])")


def numbers(expr: str) -> Iterator[Change]:
    """A threshold doubled, halved or a tenth; another quantile; another constant."""

    def found() -> Iterator[Change]:
        for match in _NUMBER.finditer(expr):
            before, text = expr[: match.start()].rstrip(), match[0]
            if before.endswith("histogram_quantile("):
                for new in {"0.5": ("0.9",), "0.9": ("0.95", "0.09"), "0.99": ("0.999", "0.9")}[text]:
                    yield "quantile changed", f"{text} to {new}", _at(expr, match, new)
            elif before.endswith((">", "<", "=")):
                for new in _other_numbers(float(text)):
                    yield "threshold changed", f"{text} to {new}", _at(expr, match, new)
            else:
                new = {"0": "1", "1048576": "1000000"}.get(text, f"{float(text) * 2:g}")
                yield "constant changed", f"{text} to {new}", _at(expr, match, new)

    return _numbered(found())


def _other_numbers(value: float) -> list[str]:
    if not value:
        return ["1", "0.5"]
    return [f"{value * factor:g}" for factor in (2, 0.5, 1.5, 10)]


def windows(expr: str) -> Iterator[Change]:
    """A window twice as long, a fifth, or with another unit; Grafana's own interval fixed."""

    def found() -> Iterator[Change]:
        for match in re.finditer(r"\[(\d+)m\]", expr):
            number = int(match[1])
            for new in (f"{number * 2}m", f"{number // 5}m", f"{number}s", f"{number}h"):
                yield "window changed", f"{number}m to {new}", _at(expr, match, f"[{new}]")
        for match in re.finditer(r"\$__rate_interval", expr):
            for new in ("5m", "$__interval"):
                yield "rate interval replaced", f"by {new}", _at(expr, match, new)

    return _numbered(found())


def aggregates(expr: str) -> Iterator[Change]:
    """Another aggregation."""

    def found() -> Iterator[Change]:
        for match in re.finditer(r"\b(sum|max)(?= by )", expr):
            for new in _AGGREGATES[match[0]]:
                yield "aggregation changed", f"{match[0]} to {new}", _at(expr, match, new)

    return _numbered(found())


def functions(expr: str) -> Iterator[Change]:
    """Another function of the same family."""

    def found() -> Iterator[Change]:
        for match in re.finditer(r"\b(\w+)(?=\()", expr):
            for new in _FUNCTIONS.get(match[0], ()):
                yield "function changed", f"{match[0]} to {new}", _at(expr, match, new)

    return _numbered(found())


def guards(expr: str) -> Iterator[Change]:
    """A comparison with 0 left out."""

    def found() -> Iterator[Change]:
        for match in re.finditer(r"\s+>\s+0(?=\s*(\)|$))", expr):
            yield "guard dropped", "> 0", _at(expr, match, "")

    return _numbered(found())


def operands(expr: str) -> Iterator[Change]:
    """One side of or, and, unless left out or in the other's place; a quotient upside down."""

    def found() -> Iterator[Change]:
        for start, end, operators in _chains(expr):
            edges = [(start, start), *operators, (end, end)]
            parts = [expr[before[1] : after[0]] for before, after in pairwise(edges)]
            words = [expr[low:high].strip() for low, high in operators]
            for number, word in enumerate(words):
                left, right = parts[number], parts[number + 1]
                yield from _side_changes(expr, edges[number][1], edges[number + 2][0], word, left, right)

    return _numbered(found())


def _side_changes(expr: str, low: int, high: int, word: str, left: str, right: str) -> Iterator[Change]:
    def put(new: str) -> str:
        return expr[:low] + new + expr[high:]

    if word == "/":
        yield "quotient upside down", _short(left), put(f"{right} / {left}")
        return
    yield f"{word}: right side dropped", _short(right), put(left)
    yield f"{word}: left side dropped", _short(left), put(right)
    yield f"{word}: sides swapped", _short(left), put(f"{right} {word} {left}")
    other = {"or": "and", "and": "or", "unless": "and"}[word]
    yield "set operator changed", f"{word} to {other}", put(f"{left} {other} {right}")


def _short(text: str) -> str:
    names = _NAME.findall(text)
    return names[0] if names else " ".join(text.split())[:30]


def _chains(expr: str) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """(start, end, places of the operators) of what set operators, or `/`, join inside one bracket."""
    stack: list[tuple[int, list[tuple[int, int]]]] = [(0, [])]
    for match in re.finditer(r'"[^"]*"|\$\w+|[\w:.]+|[(\[{,)\]}]|\s/\s', expr):
        text = match[0]
        if text in _OPEN:
            stack.append((match.end(), []))
        elif text in _CLOSE:
            start, operators = stack.pop()
            if operators:
                yield start, match.start(), operators
        elif text == ",":
            stack[-1] = (match.end(), [])
        elif text in _WORD or text.strip() == "/":
            stack[-1][1].append(match.span())
    if stack[0][1]:
        yield 0, len(expr), stack[0][1]


def arithmetic(expr: str) -> Iterator[Change]:
    """Another arithmetic operator."""

    def found() -> Iterator[Change]:
        for match in re.finditer(r"(?<=\s)([/+*])(?=\s)", expr):
            new = {"/": "*", "+": "-", "*": "+"}[match[0]]
            yield "arithmetic operator", f"{match[0]} to {new}", _at(expr, match, new)

    return _numbered(found())


def quantile_series(expr: str) -> Iterator[Change]:
    """The recorded series of another quantile."""

    def found() -> Iterator[Change]:
        for match in re.finditer(r":p(50|90|99)_", expr):
            for new in {"50": ("90",), "90": ("50", "99"), "99": ("90",)}[match[1]]:
                yield "other quantile read", f"p{match[1]} to p{new}", _at(expr, match, new, 1)

    return _numbered(found())
