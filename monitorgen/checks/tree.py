"""Walking PromQL trees: what a check needs to know of a node and of what stands around it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from promql_parser import (
    AggModifierType,
    AggregateExpr,
    BinaryExpr,
    Call,
    Expr,
    MatrixSelector,
    NumberLiteral,
    ParenExpr,
    StringLiteral,
    SubqueryExpr,
    UnaryExpr,
    ValueType,
    VectorSelector,
)

from monitorgen.promql import Node

COMPARISONS = frozenset({"==", "!=", ">", "<", ">=", "<="})
SET_OPERATORS = frozenset({"and", "or", "unless"})
#: Functions that turn a counter into what it counts a second, or in a window.
RATES = frozenset({"rate", "irate", "increase"})
#: Functions of a counter that ask for its life, not for its value.
LIFE = frozenset(
    {"absent", "absent_over_time", "present_over_time", "count_over_time", "resets", "changes", "timestamp"}
)


@dataclass(frozen=True, slots=True)
class Visit:
    """A node of a tree, the nodes around it, outermost first, and its place in the written expression.

    `mark` is what to underline when the node itself is at fault: its operator, or the name that it calls.
    """

    node: Expr
    parents: tuple[Expr, ...]
    span: tuple[int, int] = (-1, -1)
    mark: tuple[int, int] = (-1, -1)

    @property
    def calls(self) -> tuple[str, ...]:
        """The names of the functions and aggregations around the node, outermost first."""
        return tuple(name for name in map(called, self.parents) if name)


def placed(node: Node, parents: tuple[Expr, ...] = ()) -> Iterator[Visit]:
    """The node and everything below it with places, outermost first; a range's selector follows the range."""
    span = (node.start, node.end)
    yield Visit(node.expr, parents, span, node.mark)
    below = (*parents, node.expr)
    if isinstance(node.expr, MatrixSelector):
        yield Visit(node.expr.vector_selector, below, span, node.mark)
    for child in node.children:
        yield from placed(child, below)


def children(node: Expr) -> tuple[Expr, ...]:
    """The direct operands of a node."""
    if isinstance(node, BinaryExpr):
        return (node.lhs, node.rhs)
    if isinstance(node, Call):
        return tuple(node.args)
    if isinstance(node, AggregateExpr):
        return (node.expr,) if node.param is None else (node.param, node.expr)
    if isinstance(node, ParenExpr | UnaryExpr | SubqueryExpr):
        return (node.expr,)
    if isinstance(node, MatrixSelector):
        return (node.vector_selector,)
    return ()


def walk(node: Expr) -> Iterator[Expr]:
    """The node and everything below it, outermost first."""
    yield node
    for child in children(node):
        yield from walk(child)


def bare(node: Expr) -> Expr:
    """The node without the parentheses around it."""
    while isinstance(node, ParenExpr):
        node = node.expr
    return node


def operator(node: Expr) -> str:
    """The operator of a binary node or the name of an aggregation, "" for anything else."""
    return str(node.op) if isinstance(node, BinaryExpr | AggregateExpr) else ""


def called(node: Expr) -> str:
    """The name of the function or aggregation that the node calls, "" if it calls none."""
    if isinstance(node, Call):
        return node.func.name
    return str(node.op) if isinstance(node, AggregateExpr) else ""


def is_vector(node: Expr) -> bool:
    """Whether the node yields series (not a number or a string)."""
    node = bare(node)
    if isinstance(node, NumberLiteral | StringLiteral):
        return False
    if isinstance(node, Call):
        return str(node.func.return_type) == str(ValueType.Vector)
    if isinstance(node, BinaryExpr):
        return is_vector(node.lhs) or is_vector(node.rhs)
    return is_vector(node.expr) if isinstance(node, UnaryExpr) else True


def number(node: Expr) -> float | None:
    """The value of a constant scalar expression (`(1 - 0.99) * 14.4`), None if it is not constant."""
    node = bare(node)
    if isinstance(node, NumberLiteral):
        return node.val
    if isinstance(node, UnaryExpr):
        value = number(node.expr)
        return None if value is None else -value
    if not isinstance(node, BinaryExpr):
        return None
    left, right = number(node.lhs), number(node.rhs)
    if left is None or right is None:
        return None
    return _fold(operator(node), left, right)


def _fold(op: str, left: float, right: float) -> float | None:
    """The constant `left op right`, None for operators that thresholds are not written with."""
    if op == "+":
        return left + right
    if op == "-":
        return left - right
    if op == "*":
        return left * right
    if op == "/":
        return left / right if right else math.nan
    if op == "^":
        return math.pow(left, right)
    return None


def is_lookup(visit: Visit) -> bool:
    """Whether the node only lends labels or a factor to others, on the "one" side of a grouped join."""
    for parent, child in pairwise((*visit.parents, visit.node)):
        card = str(parent.modifier.card) if isinstance(parent, BinaryExpr) and parent.modifier else ""
        if isinstance(parent, BinaryExpr) and (
            ("ManyToOne" in card and parent.rhs is child) or ("OneToMany" in card and parent.lhs is child)
        ):
            return True
    return False


def is_bool(node: Expr) -> bool:
    """Whether a comparison has the `bool` modifier: it then yields 0 or 1 and filters nothing."""
    return isinstance(node, BinaryExpr) and node.modifier is not None and node.modifier.return_bool


def is_comparison(node: Expr) -> bool:
    """Whether the node compares (`>`, `==`, ...), with or without `bool`."""
    return isinstance(node, BinaryExpr) and operator(node) in COMPARISONS


def grouping(node: AggregateExpr) -> tuple[str, tuple[str, ...]]:
    """How an aggregation groups: ("by" or "without", labels); no clause is `by ()`."""
    if node.modifier is None:
        return "by", ()
    kind = "by" if node.modifier.type == AggModifierType.By else "without"
    return kind, tuple(node.modifier.labels)


def names(node: Expr) -> tuple[str, ...]:
    """The metric names that the node selects, in order of appearance."""
    return tuple(one.name for one in walk(node) if isinstance(one, VectorSelector) and one.name)


def main_names(node: Expr) -> Iterator[str]:
    """The metrics that give the node its labels: not those that filter it or lend it a label."""
    node = bare(node)
    if isinstance(node, VectorSelector):
        if node.name:
            yield node.name
    elif isinstance(node, Call) and node.func.name in _ANONYMOUS:
        return
    elif isinstance(node, BinaryExpr):
        card = str(node.modifier.card) if node.modifier else ""
        if "OneToMany" not in card:
            yield from main_names(node.lhs)
        if operator(node) not in ("and", "unless") and "ManyToOne" not in card:
            yield from main_names(node.rhs)
    else:
        for child in children(node):
            yield from main_names(child)


#: Functions whose result has no labels of its argument's series.
_ANONYMOUS = frozenset({"absent", "absent_over_time", "scalar", "vector"})


def condition(node: Expr) -> Expr:
    """The part of an alert's expression that is asked first: what stands left of `and` and `unless`."""
    node = bare(node)
    while isinstance(node, BinaryExpr) and operator(node) in ("and", "unless"):
        node = bare(node.lhs)
    return node


@dataclass(frozen=True, slots=True)
class Comparison:
    """Series compared with a constant, written as if the series stood left.

    A guard stands right of `and` or `unless`, or inside a function or an arithmetic operand: it narrows the
    condition, it is not the condition.
    """

    series: Expr
    op: str
    value: float
    guard: bool
    visit: Visit


def comparisons(visits: Iterable[Visit]) -> Iterator[Comparison]:
    """The comparisons of series with constants among these nodes."""
    for visit in visits:
        here = visit.node
        if not isinstance(here, BinaryExpr) or operator(here) not in COMPARISONS:
            continue
        op = operator(here)
        for side, other, as_left in ((here.lhs, here.rhs, op), (here.rhs, here.lhs, _MIRRORED.get(op, op))):
            value = number(other)
            if value is not None and number(side) is None:
                yield Comparison(bare(side), as_left, value, _guards(visit), visit)


_MIRRORED = {">": "<", "<": ">", ">=": "<=", "<=": ">="}


def _guards(visit: Visit) -> bool:
    """Whether the visited comparison only narrows another condition."""
    chain = (*visit.parents, visit.node)
    for parent, child in pairwise(chain):
        if isinstance(parent, ParenExpr):
            continue
        if not isinstance(parent, BinaryExpr):
            return True
        op = operator(parent)
        if op not in SET_OPERATORS or (op != "or" and parent.rhs is child):
            return True
    return False
