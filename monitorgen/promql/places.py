"""Where a syntax error is. promql-parser says what is wrong but not where, so the place is searched for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from monitorgen.promql.lexer import Token, unquote

Fails = Callable[[str], str]  # the parser's message for a text, empty where it parses
Place = tuple[str, int, int]  # message, start, end
_PAIRS = {"(": ")", "[": "]", "{": "}"}
_CLOSING = {close: opening for opening, close in _PAIRS.items()}
_SYNTAX = "invalid promql query"  # the parser's word for a grammar error


def place(text: str, tokens: Sequence[Token], said: str, fails: Fails) -> Place:
    """The message and the offsets into `text` of an error of which the parser `said` something."""
    if not tokens:
        return "the expression is empty", 0, len(text)
    return (
        _broken_token(tokens)
        or _unbalanced(tokens)
        or _named(tokens, said)
        or _smallest_part(text, tokens, said, fails)
        or _first_misfit(text, tokens, said, fails)
        or (said, 0, len(text))
    )


def _broken_token(tokens: Sequence[Token]) -> Place | None:
    for token in tokens:
        if token.kind == "open":
            return f"this quote {token.text[0]} is never closed", token.start, token.end
        if token.kind == "bad":
            return f"unexpected character {token.text!r}", token.start, token.end
    return None


def _unbalanced(tokens: Sequence[Token]) -> Place | None:
    opened: list[Token] = []
    for token in tokens:
        if token.is_op(*_PAIRS):
            opened.append(token)
        elif token.is_op(*_CLOSING):
            if not opened:
                return f"unexpected {token.text!r}: nothing opened it", token.start, token.end
            opening = opened.pop()
            if opening.text != _CLOSING[token.text]:
                wanted = _PAIRS[opening.text]
                return (
                    f"unexpected {token.text!r}: {wanted!r} must close {opening.text!r} first",
                    token.start,
                    token.end,
                )
    if opened:
        token = opened[-1]
        return f"this {token.text!r} is never closed", token.start, token.end
    return None


def _named(tokens: Sequence[Token], said: str) -> Place | None:
    """The place of what the message names, where only one token can be meant."""
    if match := re.match(r"unknown function with name '(.+)'", said):
        return _only(said, (t for t, after in pairwise(tokens) if t.text == match[1] and after.is_op("(")))
    if match := re.match(r"illegal regex for (.*)", said, re.DOTALL):
        return _only(said, (t for t in tokens if t.kind == "string" and unquote(t.text) == match[1]))
    if match := re.match(r"unknown escape sequence '(.)'", said, re.DOTALL):
        return _only(said, (t for t in tokens if t.kind == "string" and f"\\{match[1]}" in t.text))
    if match := re.match(r"(?:set operator|no grouping allowed for) '(\w+)'", said):
        return _only(said, (t for t in tokens if t.is_word(match[1].lower())))
    if said.startswith("bool modifier"):
        return _only(said, (t for t in tokens if t.is_word("bool")))
    return None


def _only(said: str, found: Iterator[Token]) -> Place | None:
    all_found = list(found)
    return (said, all_found[0].start, all_found[0].end) if len(all_found) == 1 else None


def _smallest_part(
    text: str, tokens: Sequence[Token], said: str, fails: Callable[[str], str]
) -> Place | None:
    """The smallest bracketed part, with the name before it, that fails with the same words."""
    parts = sorted(_parts(tokens), key=lambda part: part[1] - part[0])
    for start, end in parts:
        if (start, end) != (tokens[0].start, tokens[-1].end) and fails(text[start:end]) == said != _SYNTAX:
            return said, start, end
    if said != _SYNTAX and said.startswith(
        ("expected", "comparisons", "label", "metric name", "vector selector")
    ):
        return said, tokens[0].start, tokens[-1].end
    return None


def _parts(tokens: Sequence[Token]) -> Iterator[tuple[int, int]]:
    """Spans of `name(...)`, `name{...}[...]`, and of what stands inside each bracket."""
    opened: list[int] = []
    for index, token in enumerate(tokens):
        if token.is_op(*_PAIRS):
            opened.append(index)
        elif token.is_op(*_CLOSING) and opened:
            first = opened.pop()
            if token.text == ")":
                yield from _inner_parts(tokens, first, index)
            while first and (tokens[first - 1].kind == "ident" or tokens[first - 1].is_op(")", "}")):
                if tokens[first - 1].kind == "ident":
                    first -= 1
                    break
                first = _opening(tokens, first - 1)
            yield tokens[first].start, token.end


def _inner_parts(tokens: Sequence[Token], opening: int, closing: int) -> Iterator[tuple[int, int]]:
    """Spans between the commas inside a bracket."""
    start, depth = opening + 1, 0
    for index in range(opening + 1, closing + 1):
        if tokens[index].is_op(*_PAIRS):
            depth += 1
        elif index < closing and tokens[index].is_op(*_CLOSING):
            depth -= 1
        if (index == closing or (not depth and tokens[index].is_op(","))) and start < index:
            yield tokens[start].start, tokens[index - 1].end
            start = index + 1


def _opening(tokens: Sequence[Token], closing: int) -> int:
    depth = 0
    for index in range(closing, -1, -1):
        if tokens[index].is_op(*_CLOSING):
            depth += 1
        elif tokens[index].is_op(*_PAIRS):
            depth -= 1
            if not depth:
                return index
    return 0


# What may follow a beginning of an expression to make it whole; closing brackets are added to each.
_ENDINGS = (
    "",
    "x",
    "1",
    "(x)",
    '="x"',
    '"x"',
    "5m",
    "x[5m]",
    "[5m]",
    ",x[5m]",
    ",x",
    ",1",
    ",1,1",
    ',"x"',
    "[5m],1",
)
_ENDINGS_MORE = (
    ',"x","x","x"',
    '"x","x","x","x"',
    'x,"x","x","x","x"',
    "1,x",
    '"x",x',
    "x)(x",
    "(x)(x",
    ")(x",
    ")x",
    ") (1,x",
)


def _first_misfit(text: str, tokens: Sequence[Token], said: str, fails: Fails) -> Place | None:
    """The first token after which nothing makes the text whole; the last, where it only stops early."""
    low = 0
    for index in range(len(tokens)):
        if not _can_go_on(text[: tokens[index].end], tokens[: index + 1], fails):
            break
        low = index + 1
    if low == len(tokens):
        last = tokens[-1]
        if said != _SYNTAX:  # the grammar is kept, a type is not
            return said, tokens[0].start, last.end
        return f"the expression stops too early, after {last.text!r}", last.start, last.end
    token = tokens[low]
    if said != _SYNTAX:
        return said, token.start, token.end
    return f"unexpected {token.text!r}", token.start, token.end


def _can_go_on(text: str, tokens: Sequence[Token], fails: Fails) -> bool:
    """Can some ending make `text` whole, as far as grammar goes (types may still be wrong)."""
    opened: list[str] = []
    for token in tokens:
        if token.is_op(*_PAIRS):
            opened.append(_PAIRS[token.text])
        elif token.is_op(*_CLOSING) and opened:
            opened.pop()
    closing = "".join(reversed(opened))
    for ending in (*_ENDINGS, *_ENDINGS_MORE):
        # An ending may close a bracket itself, as in `by (a` + `)(x`.
        rest = closing[1:] + ")" if ending.startswith(")") and closing else closing
        rest = rest + ")" if ending.count("(") > ending.count(")") and not ending.startswith(")") else rest
        if _grammatical(fails(f"{text} {ending}{rest}")):
            return True
    return False


_TYPE_ERRORS = (
    "expected type",
    "expected ",
    "comparisons between",
    "label '",
    "set operator",
    "no grouping",
    "unary",
    "binary",
)


def _grammatical(said: str) -> bool:
    if said.startswith("expected") and "identifier" in said:
        return False
    return not said or said.startswith(_TYPE_ERRORS)
