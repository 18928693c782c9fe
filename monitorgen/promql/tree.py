"""Parsed expressions whose nodes know their place: promql-parser's nodes, aligned with our tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import promql_parser as ast

from monitorgen.promql.errors import PromQLError
from monitorgen.promql.grafana import substitute
from monitorgen.promql.lexer import END, Token, lex, quote, unquote
from monitorgen.promql.places import place

# promql-parser recurses on the machine's stack without a limit; a longer chain would kill the process.
MAX_DEPTH = 100
MAX_OPERATORS = 250
_CACHED = 4096

# Prometheus 2 has it and the parser lacks it: rules that use it parse; `portable` tells that 3 lacks it.
_OLD = ("holt_winters", [ast.ValueType.Matrix, ast.ValueType.Scalar, ast.ValueType.Scalar])
ast.register_extra_functions([ast.Function(*_OLD, ast.ValueType.Vector)])

_DEEPER = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}
_OPERATORS = frozenset({"+", "-", "*", "/", "%", "^", "==", "!=", "<", ">", "<=", ">="})
_WORD_OPERATORS = frozenset({"and", "or", "unless", "atan2"})
_MODIFIERS = ("bool", "on", "ignoring", "group_left", "group_right", "fill", "fill_left", "fill_right")


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A node with its place in the written expression, as character offsets.

    `mark` is what to underline when the node itself is at fault: the operator with its modifiers, or the
    function's name with its grouping. `first` and `last` bound its tokens. Selectors with a range are leaves.
    """

    expr: ast.Expr
    start: int
    end: int
    mark: tuple[int, int]
    children: tuple[Node, ...]
    first: int
    last: int


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """An expression: as written, with variables replaced (`text`), its tokens (placed as written) and root.

    `placed` is False where tokens and nodes could not be aligned; places then cover the whole expression.
    """

    expr: str
    text: str
    tokens: tuple[Token, ...]
    root: Node
    placed: bool


def parse(expr: str) -> ast.Expr:
    """promql-parser's node for `expr`, Grafana's variables replaced. PromQLError where it does not parse."""
    return tree(expr).root.expr


@lru_cache(maxsize=_CACHED)
def tree(expr: str) -> Tree:
    """The placed tree of `expr`, Grafana's variables replaced first. PromQLError where it does not parse."""
    substituted = substitute(expr)
    text = substituted.text
    tokens = lex(text)
    _guard(expr, tokens)
    try:
        root = ast.parse(_plain(text, tokens))
    except ValueError as error:
        message, start, end = place(text, tokens, str(error), _fails)
        raise PromQLError(message, expr, substituted.start(start), substituted.end(end)) from None
    if substituted.edits:
        tokens = tuple(
            Token(kind, piece, substituted.start(start), substituted.end(end))
            for kind, piece, start, end in tokens
        )
    aligner = _Aligner(tokens, len(expr))
    node = aligner.node(root)
    return Tree(expr, text, tokens, node, not aligner.lost and aligner.index == len(tokens))


def _fails(text: str) -> str:
    """The parser's word on a part of an expression; empty where it parses."""
    try:
        ast.parse(_plain(text, lex(text)) if "`" in text else text)
    except ValueError as error:
        return str(error)
    return ""


def _guard(expr: str, tokens: tuple[Token, ...]) -> None:
    depth = operators = 0
    for token in tokens:
        if token.kind == "op":
            depth += _DEEPER.get(token.text, 0)
            operators += token.text in _OPERATORS
        elif token.kind == "ident":
            operators += token.text.lower() in _WORD_OPERATORS
        if depth > MAX_DEPTH or operators > MAX_OPERATORS:
            what = (
                f"over {MAX_OPERATORS} operators" if depth <= MAX_DEPTH else f"over {MAX_DEPTH} brackets deep"
            )
            raise PromQLError(f"{what}: split it into recording rules", expr, token.start, token.end)


def _plain(text: str, tokens: tuple[Token, ...]) -> str:
    """Raw strings as quoted ones: Prometheus takes no escapes in `...`, promql-parser does."""
    if "`" not in text:
        return text
    pieces, done = [], 0
    for token in tokens:
        if token.kind == "string" and token.text[0] == "`":
            pieces += [text[done : token.start], quote(unquote(token.text))]
            done = token.end
    return "".join([*pieces, text[done:]])


class _Aligner:
    """Walks a parsed node and the tokens side by side, as the grammar says they follow each other."""

    def __init__(self, tokens: tuple[Token, ...], length: int) -> None:
        self.tokens = tokens
        self.length = length
        self.index = 0
        self.lost = False

    def peek(self, ahead: int = 0) -> Token:
        index = self.index + ahead
        return self.tokens[index] if index < len(self.tokens) else END

    def expect(self, *ops: str) -> None:
        if self.peek().is_op(*ops):
            self.index += 1
        else:
            self.lost = True

    def word(self) -> None:
        if self.peek().kind == "ident":
            self.index += 1
        else:
            self.lost = True

    def enclosed(self, close: str) -> None:
        """Everything up to and with the closing bracket of a flat pair, if one opens here."""
        if not self.peek().is_op("(", "{", "["):
            return
        while self.peek() is not END:
            self.index += 1
            if self.tokens[self.index - 1].is_op(close):
                return

    def node(self, expr: ast.Expr) -> Node:
        if not isinstance(expr, ast.BinaryExpr):
            while self.peek().is_op("+"):  # the parser drops a leading plus
                self.index += 1
        first = self.index
        mark = (0, 0)
        if isinstance(expr, ast.BinaryExpr):
            children, mark = self.binary(expr)
        elif isinstance(expr, ast.AggregateExpr):
            children, mark = self.aggregation(expr)
        elif isinstance(expr, ast.Call):
            children, mark = self.call(expr)
        elif isinstance(expr, ast.VectorSelector | ast.MatrixSelector):
            children = self.selector(expr)
        else:
            children = self.simple(expr)
        start, end = self.span(first, self.index)
        return Node(expr, start, end, mark if mark[1] else (start, end), children, first, self.index)

    def span(self, first: int, last: int) -> tuple[int, int]:
        if self.lost or first >= last:
            return 0, self.length
        return self.tokens[first].start, self.tokens[last - 1].end

    def simple(self, expr: ast.Expr) -> tuple[Node, ...]:
        if isinstance(expr, ast.ParenExpr):
            self.expect("(")
            inner = self.node(expr.expr)
            self.expect(")")
            return (inner,)
        if isinstance(expr, ast.UnaryExpr):
            self.expect("-")
            return (self.node(expr.expr),)
        if isinstance(expr, ast.SubqueryExpr):
            inner = self.node(expr.expr)
            self.enclosed("]")
            self.modifiers()
            return (inner,)
        while self.peek().is_op("+", "-"):  # a number's signs are part of it
            self.index += 1
        self.index += 1
        return ()

    def binary(self, expr: ast.BinaryExpr) -> tuple[tuple[Node, ...], tuple[int, int]]:
        left = self.node(expr.lhs)
        first = self.index
        if str(expr.op) != self.peek().text.lower():
            self.lost = True
        self.index += 1
        while self.peek().is_word(*_MODIFIERS):
            listed = not self.peek().is_word("bool")  # after group_left a bracket is always its list
            self.index += 1
            if listed:
                self.enclosed(")")
        mark = self.span(first, self.index)
        return (left, self.node(expr.rhs)), mark

    def aggregation(self, expr: ast.AggregateExpr) -> tuple[tuple[Node, ...], tuple[int, int]]:
        first = self.index
        self.word()
        marked = self.grouping()
        mark = self.span(first, self.index)
        self.expect("(")
        children: tuple[Node, ...] = ()
        if expr.param is not None:
            children = (self.node(expr.param),)
            self.expect(",")
        children = (*children, self.node(expr.expr))
        self.expect(")")
        if not marked:
            first = self.index
            if self.grouping():
                mark = self.span(first, self.index)
        return children, mark

    def grouping(self) -> bool:
        if not self.peek().is_word("by", "without"):
            return False
        self.index += 1
        self.enclosed(")")
        return True

    def call(self, expr: ast.Call) -> tuple[tuple[Node, ...], tuple[int, int]]:
        first = self.index
        self.word()
        mark = self.span(first, self.index)
        self.expect("(")
        children = []
        for number, argument in enumerate(expr.args):
            if number:
                self.expect(",")
            children.append(self.node(argument))
        self.expect(")")
        return tuple(children), mark

    def selector(self, expr: ast.Expr) -> tuple[Node, ...]:
        if self.peek().kind == "ident":
            self.index += 1
        elif not self.peek().is_op("{"):
            self.lost = True
        self.enclosed("}") if self.peek().is_op("{") else None
        if isinstance(expr, ast.MatrixSelector):
            self.enclosed("]")
        self.modifiers()
        return ()

    def modifiers(self) -> None:
        """`offset -5m`, `@ 123`, `@ start()`, in any order."""
        while True:
            if self.peek().is_word("offset"):
                self.index += 1
            elif self.peek().is_op("@"):
                self.index += 1
                if self.peek().kind == "ident" and self.peek(1).is_op("("):
                    self.index += 3
                    continue
            else:
                return
            while self.peek().is_op("+", "-"):
                self.index += 1
            self.index += 1
