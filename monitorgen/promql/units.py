"""Which unit an expression has: dimension analysis over the units that catalogs use.

A quantity is exponents of base units, a scale (how many base units one of it is) and a kind that tells
dimensionless ones apart. Only contradictions between known units are called problems.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import promql_parser as ast

from monitorgen.promql.errors import Problem
from monitorgen.promql.selectors import Selector, function_of, selector_of
from monitorgen.promql.tree import Node, Tree, tree

Kind: TypeAlias = Literal["quantity", "ratio", "number", "bool", "info", "timestamp", "constant", "unknown"]
Dims: TypeAlias = tuple[tuple[str, int], ...]  # sorted (base unit, exponent), no zeros


@dataclass(frozen=True, slots=True)
class UnitFlow:
    """The unit of an expression (a key of the units table, empty where unknown), and what clashes in it."""

    unit: str
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Quantity:
    """`scale` is None where a factor is not known; `value` is a constant's."""

    kind: Kind
    dims: Dims = ()
    scale: float | None = 1.0
    value: float = math.nan


_UNKNOWN = _Quantity("unknown")
_RATIO = _Quantity("ratio")
_NUMBER = _Quantity("number")
_BOOL = _Quantity("bool")
_TIMESTAMP = _Quantity("timestamp", (("seconds", 1),))

_UNITS: Mapping[str, _Quantity] = {
    "seconds": _Quantity("quantity", (("seconds", 1),)),
    "milliseconds": _Quantity("quantity", (("seconds", 1),), 1e-3),
    "bytes": _Quantity("quantity", (("bytes", 1),)),
    "mebibytes": _Quantity("quantity", (("bytes", 1),), 2.0**20),
    "bytes/s": _Quantity("quantity", (("bytes", 1), ("seconds", -1))),
    "ratio": _RATIO,
    "percent": replace(_RATIO, scale=0.01),
    "tokens": _Quantity("quantity", (("tokens", 1),)),
    "tokens/s": _Quantity("quantity", (("seconds", -1), ("tokens", 1))),
    "requests": _Quantity("quantity", (("requests", 1),)),
    "requests/s": _Quantity("quantity", (("requests", 1), ("seconds", -1))),
    "events": _Quantity("quantity", (("events", 1),)),
    "events/s": _Quantity("quantity", (("events", 1), ("seconds", -1))),
    "1/s": _Quantity("quantity", (("seconds", -1),)),
    "flops": _Quantity("quantity", (("flops", 1),)),
    "flops/s": _Quantity("quantity", (("flops", 1), ("seconds", -1))),
    "bool": _BOOL,
    "timestamp": _TIMESTAMP,
    "info": _Quantity("info"),
    "number": _NUMBER,
}
_SECONDS = _UNITS["seconds"]
_EVENTS = _UNITS["events"]
_COUNTED = frozenset({"tokens", "requests", "events"})  # things that are counted: per thing means an average


def unit_flow(expr: str, unit_of: Callable[[Selector], str]) -> UnitFlow:
    """The unit of what `expr` yields; `unit_of` gives that of a selector's samples, empty where unknown.

    Under histogram_quantile `unit_of` must give the unit of what the histogram measures; elsewhere `x_bucket`
    and `x_count` count events (`Selector.functions` tells which). Problems are of the kind `unit-mismatch`.
    PromQLError where `expr` does not parse.
    """
    parsed = tree(expr)
    walk = _Walk(parsed, unit_of)
    quantity = walk.visit(parsed.root, ())
    return UnitFlow(_unit(quantity), tuple(walk.problems))


class _Walk:
    """One pass over a tree; `problems` collects what clashes, `visit` returns a node's quantity."""

    def __init__(self, parsed: Tree, unit_of: Callable[[Selector], str]) -> None:
        self.parsed = parsed
        self.unit_of = unit_of
        self.problems: list[Problem] = []

    def visit(self, node: Node, functions: tuple[str, ...]) -> _Quantity:
        expr = node.expr
        if isinstance(expr, ast.NumberLiteral):
            return _Quantity("constant", value=expr.val)
        if isinstance(expr, ast.VectorSelector | ast.MatrixSelector):
            selector = selector_of(node, functions, self.parsed.placed)
            return _UNITS.get(self.unit_of(selector), _UNKNOWN)
        if isinstance(expr, ast.BinaryExpr):
            left, right = (self.visit(child, functions) for child in node.children)
            return self.binary(node, expr, left, right)
        if isinstance(expr, ast.AggregateExpr | ast.Call):
            name = function_of(expr)
            if name == "histogram_quantile":
                return self.histogram(node, (*functions, name))
            found = [self.visit(child, (*functions, name)) for child in node.children]
            return _called(name, found)
        if isinstance(expr, ast.UnaryExpr):
            inner = self.visit(node.children[0], functions)
            return replace(inner, value=-inner.value)
        return self.visit(node.children[0], functions) if node.children else _UNKNOWN

    def histogram(self, node: Node, functions: tuple[str, ...]) -> _Quantity:
        """A quantile has the unit of what the buckets measure, whatever is done to their counts."""
        found = list(self.measured(node, functions))
        first = found[0] if found else _UNKNOWN
        for other in found[1:]:
            self.compare(node, "are mixed in one histogram", first, other)
        return first if all(q == first for q in found) else _UNKNOWN

    def measured(self, node: Node, functions: tuple[str, ...]) -> list[_Quantity]:
        if isinstance(node.expr, ast.VectorSelector | ast.MatrixSelector):
            return [self.visit(node, functions)]
        name = function_of(node.expr)
        inner = (*functions, name) if name and name != functions[-1] else functions
        return [quantity for child in node.children for quantity in self.measured(child, inner)]

    def binary(self, node: Node, expr: ast.BinaryExpr, left: _Quantity, right: _Quantity) -> _Quantity:
        op = str(expr.op)
        if op in ("and", "unless"):
            return left
        if op == "or":
            return self.same(node, "are joined by or", left, right)
        if op in ("==", "!=", ">", "<", ">=", "<="):
            self.compare(node, "are compared", left, right)
            if expr.modifier and expr.modifier.return_bool:
                return _BOOL
            return right if left.kind == "constant" else left
        if left.kind == right.kind == "constant":
            return _folded(op, left.value, right.value)
        if op in ("+", "-"):
            return self.sum(node, op, left, right)
        if op == "*":
            return _product(left, right, 1)
        if op == "/":
            return _product(left, right, -1)
        if op == "%":
            return left
        return _power(left, right) if op == "^" else _NUMBER

    def sum(self, node: Node, op: str, left: _Quantity, right: _Quantity) -> _Quantity:
        times = (left.kind == "timestamp", right.kind == "timestamp")
        if any(times) and not _free(left) and not _free(right):
            if all(times):
                if op == "+":
                    self.clash(node, "are added", left, right)
                return _SECONDS
            other = right if times[0] else left
            if other.dims != _SECONDS.dims or (op == "-" and times[1]):
                self.clash(node, "are added" if op == "+" else "are subtracted", left, right)
            return _TIMESTAMP
        return self.same(node, "are added" if op == "+" else "are subtracted", left, right)

    def same(self, node: Node, what: str, left: _Quantity, right: _Quantity) -> _Quantity:
        """The common quantity of two that should be of one unit."""
        self.compare(node, what, left, right)
        if left.kind == "constant" or right.kind == "constant":
            return right if left.kind == "constant" else left
        if "unknown" in (left.kind, right.kind):
            return _UNKNOWN
        if left.kind == "number" and right.kind != "number":
            return right
        if left.scale != right.scale:
            known = left if right.scale is None else right
            return known if None in (left.scale, right.scale) else replace(left, scale=None)
        return left

    def compare(self, node: Node, what: str, left: _Quantity, right: _Quantity) -> None:
        """Say where two known units cannot stand side by side."""
        if _free(left) or _free(right):
            return
        times = (left.kind == "timestamp") + (right.kind == "timestamp")
        if left.dims == right.dims and times != 1:
            names = (_unit(left), _unit(right))
            if left.scale == right.scale or not all(names) or names[0] == names[1]:
                return
        elif _countable(left, right) or _countable(right, left):
            return
        self.clash(node, what, left, right)

    def clash(self, node: Node, what: str, left: _Quantity, right: _Quantity) -> None:
        message = f"{_spelled(left)} and {_spelled(right)} {what}"
        self.problems.append(Problem("unit-mismatch", message, *node.mark))


def _free(quantity: _Quantity) -> bool:
    """A constant takes any unit, and of an unknown one nothing can be said."""
    return quantity.kind in ("constant", "unknown")


def _countable(number: _Quantity, other: _Quantity) -> bool:
    """A plain number beside things that are counted: `count(x) < requests`."""
    return number.kind == "number" and len(other.dims) == 1 and other.dims[0][0] in _COUNTED


_KEEP = frozenset(
    {
        *("min", "max", "topk", "bottomk", "stddev", "min_over_time", "max_over_time", "last_over_time"),
        *(
            "first_over_time",
            "stddev_over_time",
            "abs",
            "ceil",
            "floor",
            "round",
            "clamp",
            "clamp_min",
            "clamp_max",
        ),
        *(
            "sort",
            "sort_desc",
            "label_replace",
            "label_join",
            "scalar",
            "vector",
            "delta",
            "idelta",
            "increase",
        ),
        *("limitk", "limit_ratio", "mad_over_time", "quantile", "quantile_over_time", "predict_linear"),
        *("holt_winters", "double_exponential_smoothing", "sort_by_label", "sort_by_label_desc", "info"),
    }
)
_PER_SECOND = frozenset({"rate", "irate", "deriv"})
_NUMBERS = frozenset(
    {
        *(
            "count",
            "count_values",
            "count_over_time",
            "changes",
            "resets",
            "sgn",
            "minute",
            "hour",
            "day_of_week",
        ),
        *("day_of_month", "day_of_year", "days_in_month", "month", "year", "pi"),
    }
)
_OPERAND_LAST = frozenset({"topk", "bottomk", "quantile", "quantile_over_time", "limitk", "limit_ratio"})


def _called(name: str, found: list[_Quantity]) -> _Quantity:
    """What a function or aggregation makes of its operand."""
    operand = (found[-1] if name in _OPERAND_LAST else found[0]) if found else _UNKNOWN
    if name in ("time", "timestamp"):
        return _TIMESTAMP
    if name in _NUMBERS:
        return _NUMBER
    if name in ("absent", "absent_over_time", "present_over_time", "group"):
        return _BOOL
    if name in _KEEP:
        return operand
    if name in ("sum", "sum_over_time"):
        return _NUMBER if operand.kind in ("bool", "info") else operand
    if name in ("avg", "avg_over_time"):
        return _RATIO if operand.kind == "bool" else operand
    if name in _PER_SECOND:
        return _product(operand, _SECONDS, -1)
    if name in ("stdvar", "stdvar_over_time"):
        return _product(operand, operand, 1)
    return _power(operand, _Quantity("constant", value=0.5)) if name == "sqrt" else _UNKNOWN


_ARITHMETIC: Mapping[str, Callable[[float, float], object]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "^": operator.pow,
}


def _folded(op: str, left: float, right: float) -> _Quantity:
    """A constant from two constants, where that is easy."""
    try:
        value: object = _ARITHMETIC[op](left, right)
    except (KeyError, ArithmeticError):
        value = math.nan
    return _Quantity("constant", value=value if isinstance(value, float | int) else math.nan)


def _product(left: _Quantity, right: _Quantity, sign: int) -> _Quantity:
    """left * right, or left / right where `sign` is -1."""
    if right.kind == "constant" and left.kind != "constant":
        return _scaled(left, right.value, -sign)
    if left.kind == "constant":
        if sign > 0:
            return _scaled(right, left.value, -1)
        right = _scaled(right, 1 / left.value if left.value else math.nan, -1)
        left = _NUMBER
    if "unknown" in (left.kind, right.kind):
        return _UNKNOWN
    exponents = dict(left.dims)
    for base, exponent in right.dims:
        exponents[base] = exponents.get(base, 0) + sign * exponent
    dims = tuple(sorted((base, exponent) for base, exponent in exponents.items() if exponent))
    scale = None if left.scale is None or right.scale is None else left.scale * right.scale**sign
    if dims:
        return _Quantity("quantity", dims, scale)
    return _Quantity(_dimensionless(left, right, sign), (), scale)


def _dimensionless(left: _Quantity, right: _Quantity, sign: int) -> Kind:
    if sign < 0 or left.dims:
        return "ratio"
    if "number" in (left.kind, right.kind) or "ratio" in (left.kind, right.kind):
        return "number" if "number" in (left.kind, right.kind) else "ratio"
    # Multiplying by 0/1 series selects; what they select keeps its kind.
    return left.kind if right.kind in ("info", "bool") else right.kind


def _scaled(quantity: _Quantity, factor: float, sign: int) -> _Quantity:
    """The same thing in numbers that are `factor` times as large (`sign` -1), or as small (1)."""
    if _free(quantity) or quantity.kind == "number":
        return quantity
    if factor == 1:
        return quantity
    kind = "number" if quantity.kind in ("bool", "info") else quantity.kind
    if kind == "timestamp":
        kind = "quantity"
    known = quantity.scale is not None and math.isfinite(factor) and factor > 0
    scale = quantity.scale * float(factor) ** sign if known and quantity.scale is not None else None
    return _Quantity(kind, quantity.dims, scale)


def _power(base: _Quantity, exponent: _Quantity) -> _Quantity:
    if exponent.kind != "constant" or base.kind == "unknown":
        return _UNKNOWN
    dims = [(name, power * exponent.value) for name, power in base.dims]
    if base.scale is None or not all(power.is_integer() for _, power in dims):
        return _UNKNOWN
    whole = tuple((name, int(power)) for name, power in dims if power)
    return _Quantity("quantity" if whole else base.kind, whole, base.scale**exponent.value)


def _unit(quantity: _Quantity) -> str:
    """The word of a quantity's unit; empty where there is none."""
    if _free(quantity):
        return "number" if quantity.kind == "constant" else ""
    for name, unit in _UNITS.items():
        same = unit.kind == quantity.kind and unit.dims == quantity.dims
        if (
            same
            and quantity.scale is not None
            and math.isclose(unit.scale or 1, quantity.scale, rel_tol=1e-9)
        ):
            return name
    averaged = _averaged(quantity)
    return _unit(averaged) if averaged else ""


def _averaged(quantity: _Quantity) -> _Quantity | None:
    """An amount per counted thing is an average: seconds a request are seconds, errors a request a ratio."""
    counted = [base for base, exponent in quantity.dims if exponent == -1 and base in _COUNTED]
    rest = tuple(pair for pair in quantity.dims if pair != ((counted or [""])[0], -1))
    if len(counted) != 1 or not rest:
        return None
    if len(rest) == 1 and rest[0][1] == 1 and rest[0][0] in ("events", "requests") and counted[0] != "tokens":
        return replace(_RATIO, scale=quantity.scale)
    return replace(quantity, dims=rest)


def _spelled(quantity: _Quantity) -> str:
    """A quantity for a message."""
    if unit := _unit(quantity):
        return unit
    spelled = " ".join(base if exponent == 1 else f"{base}^{exponent}" for base, exponent in quantity.dims)
    return f"{spelled or quantity.kind} (scaled)" if quantity.scale != 1 else spelled or quantity.kind
