"""Between which numbers the values of an expression lie, as far as catalogs and arithmetic tell.

A threshold outside of them is never crossed, or always. What is not known is unbounded, so nothing that is
said here rests on a guess, except one: a recorded division declared as a share (`ratio`, `percent`) is one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isnan

from promql_parser import AggregateExpr, BinaryExpr, Call, Expr, MatrixSelector, UnaryExpr, VectorSelector

from monitorgen.catalog.units import UNITS
from monitorgen.checks import tree
from monitorgen.checks.context import Context


@dataclass(frozen=True, slots=True)
class Bounds:
    """The lowest and the highest value, and what makes it the highest (`the highest bucket edge of x`)."""

    low: float = -inf
    high: float = inf
    reason: str = ""

    def hull(self, other: Bounds) -> Bounds:
        """What holds values of either."""
        wider = self if self.high >= other.high else other
        return Bounds(min(self.low, other.low), wider.high, wider.reason)


ANY = Bounds()
POSITIVE = Bounds(0.0)
_SHARES = frozenset({"ratio", "percent"})
_BOUNDED = _SHARES | {"bool"}
#: Aggregations and functions that yield some value between the lowest and the highest of their operand.
_WITHIN = frozenset(
    {"min", "max", "avg", "quantile", "topk", "bottomk", "limitk", "min_over_time", "max_over_time"}
    | {"avg_over_time", "quantile_over_time", "last_over_time", "sort", "sort_desc", "scalar", "vector"}
    | {"label_replace", "label_join"}
)
_FROM_ZERO = (
    tree.RATES
    | {"count", "group", "count_over_time", "present_over_time", "absent", "absent_over_time", "changes"}
    | {"resets", "stddev", "stdvar", "stddev_over_time", "stdvar_over_time", "abs", "sqrt", "time"}
    | {"timestamp", "count_values"}
)
_SUMS = frozenset({"sum", "sum_over_time"})


def bounds(context: Context, node: Expr, seen: frozenset[str] = frozenset()) -> Bounds:
    """Between which numbers the node's values lie."""
    node = tree.bare(node)
    value = tree.number(node)
    if value is not None:
        return Bounds(value, value)
    if isinstance(node, VectorSelector):
        return _metric(context, node.name or "", seen)
    if isinstance(node, MatrixSelector):
        return bounds(context, node.vector_selector, seen)
    if isinstance(node, BinaryExpr):
        return _operator(context, node, seen)
    if isinstance(node, UnaryExpr):
        inner = bounds(context, node.expr, seen)
        return Bounds(-inner.high, -inner.low)
    if isinstance(node, AggregateExpr | Call):
        return _called(context, node, seen)
    below = tree.children(node)
    return bounds(context, below[0], seen) if below else ANY


def _metric(context: Context, name: str, seen: frozenset[str]) -> Bounds:
    if name in context.recorded:
        return _recorded(context, name, seen)
    family = context.family(name)
    if family is None:
        return ANY
    if family.type in ("counter", "histogram", "summary"):
        return POSITIVE if family.type == "counter" or family.edges else ANY
    unit = UNITS.get(family.unit)
    if unit is None or unit.name in ("number", "info"):
        return ANY
    reason = f"{name} is a {unit.name}" if unit.name in _BOUNDED else ""
    return Bounds(unit.low, unit.high if unit.name in _BOUNDED else inf, reason)


def _recorded(context: Context, name: str, seen: frozenset[str]) -> Bounds:
    if name in seen:
        return ANY
    found: Bounds | None = None
    for rule in context.recorded[name]:
        root = context.tree(rule.expr)
        one = ANY if root is None else bounds(context, root, seen | {name})
        if root is not None and rule.unit in _SHARES and tree.operator(_value(root)) == "/":
            high = min(one.high, UNITS[rule.unit].high)
            one = Bounds(
                one.low, high, f"{name} is declared as a {rule.unit}; if it may exceed {high:g}, it is none"
            )
        found = one if found is None else found.hull(one)
    return found or ANY


def _value(node: Expr) -> Expr:
    """The node that makes the values: without parentheses, aggregations and filters around it."""
    node = tree.bare(node)
    while True:
        if isinstance(node, AggregateExpr) and tree.operator(node) in _WITHIN:
            node = tree.bare(node.expr)
        elif isinstance(node, BinaryExpr) and tree.operator(node) in ("or", "and", "unless"):
            node = tree.bare(node.lhs)
        else:
            return node


def _called(context: Context, node: AggregateExpr | Call, seen: frozenset[str]) -> Bounds:
    name = tree.called(node)
    if name == "histogram_quantile" and isinstance(node, Call):
        return _quantile(context, node.args[1])
    if name in _FROM_ZERO:
        return POSITIVE
    vectors = [child for child in tree.children(node) if tree.is_vector(child)]
    if not vectors:
        return ANY
    inner = bounds(context, vectors[-1], seen)
    if name in _WITHIN:
        return inner
    if name in _SUMS:
        return Bounds(
            min(inner.low, 0.0) if inner.low < 0 else inner.low, inf if inner.high > 0 else inner.high
        )
    if name in ("clamp_min", "clamp_max", "clamp") and isinstance(node, Call):
        limits = [tree.number(argument) for argument in node.args[1:]]
        low = limits[0] if name != "clamp_max" else None
        high = limits[-1] if name != "clamp_min" else None
        return Bounds(
            inner.low if low is None else max(inner.low, low),
            inner.high if high is None else min(inner.high, high),
        )
    return ANY


def _quantile(context: Context, buckets: Expr) -> Bounds:
    """A quantile never exceeds the highest finite edge, whatever was measured."""
    found: Bounds | None = None
    for name in tree.names(buckets):
        families = [family for _, family in context.families(name)]
        edges = [family.edges for family in families if family.edges]
        if not edges or name in context.recorded:
            return ANY
        base = families[-1].name
        highest = max(one[-1] for one in edges)
        low = 0.0 if min(one[0] for one in edges) > 0 else -inf
        one = Bounds(low, highest, f"{highest:g} is the highest bucket edge of {base}")
        found = one if found is None else found.hull(one)
    return found or ANY


def _operator(context: Context, node: BinaryExpr, seen: frozenset[str]) -> Bounds:
    op = tree.operator(node)
    left, right = bounds(context, node.lhs, seen), bounds(context, node.rhs, seen)
    if op in tree.COMPARISONS:
        if tree.is_bool(node):
            return Bounds(0.0, 1.0)
        return _filtered(op, left, right) if tree.is_vector(node.lhs) else right
    if op in ("and", "unless"):
        return left
    if op == "or":
        return left.hull(right)
    if op == "/" and _is_share(node.lhs, node.rhs):
        return Bounds(0.0, 1.0, "it is a share")
    arithmetic = _ARITHMETIC.get(op)
    return arithmetic(left, right) if arithmetic else ANY


def _filtered(op: str, left: Bounds, right: Bounds) -> Bounds:
    """What a comparison lets through."""
    low, high = left.low, left.high
    if op in (">", ">=", "=="):
        low = max(low, right.low)
    if op in ("<", "<=", "=="):
        high = min(high, right.high)
    return Bounds(low, high, left.reason) if low <= high else left


def _is_share(part: Expr, whole: Expr) -> bool:
    """Whether what is divided is the same metric, or one of several that add up to the divisor."""
    while isinstance(tree.bare(whole), BinaryExpr) and tree.operator(tree.bare(whole)) in tree.COMPARISONS:
        whole = tree.bare(whole).lhs  # type: ignore[attr-defined]
    parts, wholes = set(tree.names(part)), set(tree.names(whole))
    adds = all(tree.operator(one) in ("", "+", "or", "sum") for one in tree.walk(whole))
    takes = all(tree.operator(one) in ("", "or", "sum") for one in tree.walk(part))
    return bool(parts) and parts <= wholes and adds and takes and _rated(part) and _rated(whole)


def _rated(node: Expr) -> bool:
    return any(tree.called(one) in tree.RATES for one in tree.walk(node))


def _products(left: Bounds, right: Bounds, combine: Callable[[float, float], float]) -> Bounds:
    values = [combine(a, b) for a in (left.low, left.high) for b in (right.low, right.high)]
    if any(isnan(value) for value in values):
        return POSITIVE if left.low >= 0 and right.low >= 0 else ANY
    return Bounds(min(values), max(values), left.reason or right.reason)


def _divided(left: Bounds, right: Bounds) -> Bounds:
    if right.low > 0 and right.high < inf:
        return _products(left, right, lambda a, b: a / b)
    return POSITIVE if left.low >= 0 and right.low >= 0 else ANY


_ARITHMETIC: dict[str, Callable[[Bounds, Bounds], Bounds]] = {
    "+": lambda a, b: Bounds(a.low + b.low, a.high + b.high, a.reason or b.reason),
    "-": lambda a, b: Bounds(a.low - b.high, a.high - b.low, a.reason or b.reason),
    "*": lambda a, b: _products(a, b, lambda x, y: x * y),
    "/": _divided,
}
