"""What a newer parser accepts and Prometheus 2.42, the oldest server that we write for, does not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from monitorgen.promql.durations import parse_duration
from monitorgen.promql.errors import Problem
from monitorgen.promql.grafana import substitute
from monitorgen.promql.lexer import END, Token, number, unquote
from monitorgen.promql.selectors import function_of
from monitorgen.promql.tree import Node, Tree, tree

# Every function and aggregation that 2.42 and 3.5 both have.
FUNCTIONS = frozenset(
    {
        *("abs", "absent", "absent_over_time", "acos", "acosh", "asin", "asinh", "atan", "atanh", "avg"),
        *("avg_over_time", "bottomk", "ceil", "changes", "clamp", "clamp_max", "clamp_min", "cos"),
        *("cosh", "count", "count_over_time", "count_values", "day_of_month", "day_of_week"),
        *("day_of_year", "days_in_month", "deg", "delta", "deriv", "exp", "floor", "group"),
        *("histogram_count", "histogram_fraction", "histogram_quantile", "histogram_sum", "hour"),
        *("idelta", "increase", "irate", "label_join", "label_replace", "last_over_time", "ln", "log10"),
        *("log2", "max", "max_over_time", "min", "min_over_time", "minute", "month", "pi"),
        *("predict_linear", "present_over_time", "quantile", "quantile_over_time", "rad", "rate"),
        *("resets", "round", "scalar", "sgn", "sin", "sinh", "sort", "sort_desc", "sqrt", "stddev"),
        *("stddev_over_time", "stdvar", "stdvar_over_time", "sum", "sum_over_time", "tan", "tanh"),
        *("time", "timestamp", "topk", "vector", "year"),
    }
)

# What Rust's regular expressions allow and Go's do not.
_REGEX = (
    (re.compile(r"(?<!\\)(?:\\\\)*[*+?}][*+]"), "a repetition of a repetition"),
    (re.compile(r"\(\?[a-zA-Z]*-?[a-zA-Z]*[xuR]"), "a flag that Go's regular expressions lack"),
    (re.compile(r"\(\?<[A-Za-z_]"), "a named group (?<n>...), write (?P<n>...)"),
    (re.compile(r"(?<!\\)(?:\\\\)*\\[uU]"), r"an escape \u, write \x{...}"),
    (re.compile(r"\[(?:[^\]\\]|\\.)*--"), "a set operation on a character class"),
    (re.compile(r"\[\[:(?!(?:alnum|alpha|ascii|blank|cntrl|digit|graph|lower|print|punct|space|upper|word|xdigit):)"),
     "an unknown character class"),
)  # fmt: skip
_BRACKETS = {"[": "[", "{": "{", "]": "", "}": ""}
_LATEST = 9.2e15  # seconds; later times overflow the milliseconds of an @ modifier
_REPEAT = re.compile(r"\{(\d+)(?:,(\d*))?\}")


def portable(expr: str, *, grafana: bool = False) -> tuple[Problem, ...]:
    """What Prometheus 2.42 or 3.5 would refuse in an expression that parses; PromQLError where none does.

    Kinds: `not-portable` (a newer or removed feature), `regex`, and, unless `grafana`, `grafana-variable`:
    only Grafana knows variables, so one in a rule is read as it stands.
    """
    parsed = tree(expr)
    found = [*_tokens(parsed), *_functions(parsed, parsed.root)]
    if not grafana:
        found += _variables(expr)
    return tuple(sorted(found, key=lambda problem: (problem.start, problem.end, problem.message)))


def _variables(expr: str) -> Iterator[Problem]:
    for start, end, *_ in substitute(expr).edits:
        message = f"{expr[start:end]} is a variable of Grafana, Prometheus has no value for it"
        yield Problem("grafana-variable", message, start, end)


def _functions(parsed: Tree, node: Node) -> Iterator[Problem]:
    name = function_of(node.expr)
    if name and name not in FUNCTIONS:
        newer = "Prometheus 3 lacks it" if name == "holt_winters" else "Prometheus 2.42 lacks it"
        yield Problem("not-portable", f"function {name}: {newer}", *node.mark)
    for child in node.children:
        yield from _functions(parsed, child)


def _tokens(parsed: Tree) -> Iterator[Problem]:
    tokens = parsed.tokens
    inside = ""
    for index, token in enumerate(tokens):
        if token.kind == "op" and token.text in _BRACKETS:
            inside = _BRACKETS[token.text]
        elif message := _refused(tokens, index, inside):
            yield Problem("not-portable", message, token.start, token.end)
        elif token.kind == "string" and index and tokens[index - 1].is_op("=~", "!~"):
            yield from _regex(token)
    if any(token.kind == "string" for token in tokens):
        yield from _groupings(tokens)


def _refused(tokens: Sequence[Token], index: int, inside: str) -> str:
    """Why 2.42 refuses a token here; empty where it does not."""
    token = tokens[index]
    before = tokens[index - 1] if index else END
    if token.kind in ("number", "duration"):
        if before.is_op("@") and token.kind == "number":
            return "a time out of bounds" if number(token.text) > _LATEST else ""
        return _duration(token, inside == "[" or _after_offset(tokens, index))
    if token.kind == "string" and inside == "{" and not before.is_op("=", "!=", "=~", "!~"):
        return "a quoted name: Prometheus 2.42 knows no UTF-8 names"
    if token.kind == "ident":
        if inside == "{" and token.is_word("or") and before.kind == "string":
            return "`or` between matchers: only VictoriaMetrics knows it"
        if token.is_word("fill", "fill_left", "fill_right") and index + 1 < len(tokens):
            return "a fill modifier: Prometheus lacks it" if tokens[index + 1].is_op("(") else ""
    elif token.text == "+" and before.is_word("offset"):
        return "a plus before an offset: Prometheus 2.42 takes none"
    return ""


def _after_offset(tokens: Sequence[Token], index: int) -> bool:
    before = tokens[max(0, index - 2) : index]
    return bool(before) and (
        before[-1].is_word("offset") or (before[0].is_word("offset") and before[-1].is_op("-", "+"))
    )


def _duration(token: Token, expected: bool) -> str:
    """Why a number or duration is wrong where a duration is `expected` or is not."""
    if expected != (token.kind == "duration"):
        if expected:
            return "a duration without a unit: Prometheus 2.42 wants one, as in 5m"
        return "a duration as a number: Prometheus 2.42 wants seconds" if token.kind == "duration" else ""
    try:
        parse_duration(token.text if expected else "0")
    except ValueError as error:
        return str(error)
    return ""


def _groupings(tokens: Sequence[Token]) -> Iterator[Problem]:
    """Quoted labels in `by ("a.b")` and the like."""
    listing = False
    for before, token in pairwise(tokens):
        if token.is_op("(") and before.is_word(
            "by", "without", "on", "ignoring", "group_left", "group_right"
        ):
            listing = True
        elif token.is_op(")"):
            listing = False
        elif listing and token.kind == "string":
            message = "a quoted label: Prometheus 2.42 knows no UTF-8 names"
            yield Problem("not-portable", message, token.start, token.end)


def _regex(token: Token) -> Iterator[Problem]:
    value = unquote(token.text)
    for pattern, what in _REGEX:
        if pattern.search(value):
            yield Problem("regex", f"{what}: Prometheus refuses it", token.start, token.end)
            return
    if any(int(count or 0) > 1000 for match in _REPEAT.finditer(value) for count in match.groups()):
        message = "a repeat count over 1000: Prometheus refuses it"
        yield Problem("regex", message, token.start, token.end)
