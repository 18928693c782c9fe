"""Rewriting expressions where they stand: only the pieces in question change, the rest keeps its form.

promql-parser can print a tree, but it reflows the text and does not escape newlines in strings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import promql_parser as ast

from monitorgen.promql.durations import format_duration, parse_duration
from monitorgen.promql.lexer import Token, number, quote, unquote
from monitorgen.promql.tree import Node, Tree, tree

Edit = tuple[int, int, str]  # start, end, new text


def scale_durations(expr: str, factor: float) -> str:
    """`expr` with every range, offset and subquery duration divided by `factor`.

    Results are whole milliseconds, at least one.
    Numbers that happen to mean seconds (`predict_linear`'s horizon, `time() - x > 300`) stay as they are.
    PromQLError where `expr` does not parse, ValueError where the factor is not positive.
    """
    if not 0 < factor < float("inf"):
        raise ValueError(f"not a factor to divide durations by: {factor!r}")
    tokens = tree(expr).tokens
    return _edited(expr, ((t.start, t.end, _scaled(t.text, factor)) for t in _durations(tokens)))


def rename(expr: str, mapping: Mapping[str, str]) -> str:
    """`expr` with metrics renamed, also where it says `__name__="..."`. PromQLError as `parse`."""
    parsed = tree(expr)
    return _edited(expr, _renamed(parsed, mapping))


def add_matchers(expr: str, matchers: Iterable[tuple[str, str, str]]) -> str:
    """`expr` with matchers (name, operator, value) added to every selector. PromQLError as `parse`."""
    added = ",".join(f"{name}{op}{quote(value)}" for name, op, value in matchers)
    if not added:
        return expr
    parsed = tree(expr)
    return _edited(expr, (_with(parsed, leaf, added) for leaf in leaves(parsed.root)))


def leaves(node: Node) -> Iterator[Node]:
    """The selectors of a tree, in the order written."""
    if isinstance(node.expr, ast.VectorSelector | ast.MatrixSelector):
        yield node
    for child in node.children:
        yield from leaves(child)


def _edited(expr: str, edits: Iterable[Edit]) -> str:
    pieces, done = [], 0
    for start, end, text in sorted(edits):
        pieces += [expr[done:start], text]
        done = end
    return "".join([*pieces, expr[done:]])


def _durations(tokens: tuple[Token, ...]) -> Iterator[Token]:
    """The durations inside brackets and after `offset`."""
    inside = after_offset = False
    for token in tokens:
        if token.is_op("[", "]"):
            inside = token.text == "["
        elif token.kind in ("duration", "number"):
            if inside or after_offset:
                yield token
            after_offset = False
        elif not token.is_op("-", "+"):
            after_offset = token.is_word("offset")


def _scaled(text: str, factor: float) -> str:
    try:
        seconds = parse_duration(text)
    except ValueError:  # a plain number of seconds, as Prometheus 3 has it
        seconds = number(text)
    return format_duration(max(seconds / factor, 0.001))


def _renamed(parsed: Tree, mapping: Mapping[str, str]) -> Iterator[Edit]:
    for leaf in leaves(parsed.root):
        tokens = parsed.tokens[leaf.first : leaf.last]
        if tokens[0].kind == "ident":
            if tokens[0].text in mapping:
                yield tokens[0].start, tokens[0].end, mapping[tokens[0].text]
            continue
        for name, op, value in zip(tokens, tokens[1:], tokens[2:], strict=False):
            if name.text == "__name__" and op.is_op("=") and unquote(value.text) in mapping:
                yield value.start, value.end, quote(mapping[unquote(value.text)])


def _with(parsed: Tree, leaf: Node, added: str) -> Edit:
    tokens = parsed.tokens[leaf.first : leaf.last]
    closing = next((i for i, token in enumerate(tokens) if token.is_op("}")), None)
    if closing is None:
        return tokens[0].end, tokens[0].end, f"{{{added}}}"
    comma = "" if tokens[closing - 1].is_op("{", ",") else ","
    return tokens[closing].start, tokens[closing].start, comma + added
