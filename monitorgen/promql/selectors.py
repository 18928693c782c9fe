"""The selectors of an expression: what it reads, under which functions, and where that is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import promql_parser as ast

from monitorgen.promql.durations import format_duration
from monitorgen.promql.lexer import quote
from monitorgen.promql.tree import Node, tree


@dataclass(frozen=True, slots=True)
class Matcher:
    """A label matcher; `op` is `=`, `!=`, `=~` or `!~`."""

    name: str
    op: str
    value: str

    def __str__(self) -> str:
        return f"{self.name}{self.op}{quote(self.value)}"


@dataclass(frozen=True, slots=True)
class Selector:
    """A selector. `range` and `offset` are seconds; `range` is 0 for an instant selector.

    `name` is the metric's, also where it is written as `__name__="..."`; empty where none is fixed.
    `matchers` are in the order written and leave the fixed name out. `functions` are all enclosing functions
    and aggregations, outermost first; `function` is the innermost. `text` is canonical: equal selectors have
    equal texts. `start` and `end` are offsets into the expression as given, -1 where the place is unknown.
    """

    name: str
    matchers: tuple[Matcher, ...]
    range: float
    offset: float
    function: str
    functions: tuple[str, ...]
    text: str
    start: int
    end: int


@lru_cache(maxsize=4096)
def selectors(expr: str) -> tuple[Selector, ...]:
    """All selectors of `expr`, in the order written. PromQLError where it does not parse."""
    parsed = tree(expr)
    return tuple(_walk(parsed.root, (), parsed.placed))


def selector_of(node: Node, functions: tuple[str, ...], placed: bool = True) -> Selector:
    """The selector at a leaf of a tree; `functions` are those around it, outermost first."""
    expr = node.expr
    span = expr.range.total_seconds() if isinstance(expr, ast.MatrixSelector) else 0.0
    vector = expr.vector_selector if isinstance(expr, ast.MatrixSelector) else expr
    if not isinstance(vector, ast.VectorSelector):
        raise TypeError(f"not a selector: {type(expr).__name__}")
    name = vector.name or ""
    matchers = [Matcher(m.name, operator(m.op), m.value) for m in vector.matchers.matchers]
    fixed = [m for m in matchers if m.name == "__name__" and m.op == "="]
    if not name and len(fixed) == 1:
        name = fixed[0].value
        matchers.remove(fixed[0])
    offset = vector.offset.total_seconds() if vector.offset else 0.0
    start, end = (node.start, node.end) if placed else (-1, -1)
    text = _text(name, tuple(matchers), span, offset)
    function = functions[-1] if functions else ""
    return Selector(name, tuple(matchers), span, offset, function, functions, text, start, end)


def operator(op: ast.MatchOp) -> str:
    """A match operator as it is written."""
    if op == ast.MatchOp.Equal:
        return "="
    if op == ast.MatchOp.NotEqual:
        return "!="
    return "=~" if op == ast.MatchOp.Re else "!~"


def function_of(expr: ast.Expr) -> str:
    """The function or aggregation that a node calls; empty where it is neither."""
    if isinstance(expr, ast.Call):
        return expr.func.name
    return str(expr.op) if isinstance(expr, ast.AggregateExpr) else ""


def _walk(node: Node, functions: tuple[str, ...], placed: bool) -> Iterator[Selector]:
    if isinstance(node.expr, ast.VectorSelector | ast.MatrixSelector):
        yield selector_of(node, functions, placed)
        return
    name = function_of(node.expr)
    inner = (*functions, name) if name else functions
    for child in node.children:
        yield from _walk(child, inner, placed)


def _text(name: str, matchers: tuple[Matcher, ...], span: float, offset: float) -> str:
    listed = ",".join(sorted(map(str, matchers)))
    text = f"{name}{{{listed}}}" if listed or not name else name
    if span:
        text += f"[{format_duration(span)}]"
    if offset:
        text += f" offset {'-' if offset < 0 else ''}{format_duration(abs(offset))}"
    return text
