"""Binary operators of the reference evaluator: arithmetic, comparisons, sets, and how vectors are matched."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import promql_parser as ast

from monitorgen.prove.reference_functions import divide
from monitorgen.prove.reference_series import (
    NAME,
    LabelSet,
    QueryError,
    Unsupported,
    Vector,
    collect,
    drop,
    keep,
    label_set,
)


def _modulo(left: float, right: float) -> float:
    """The remainder with the sign of the dividend."""
    if not right or math.isinf(left) or math.isnan(left) or math.isnan(right):
        return math.nan
    return math.fmod(left, right)


def _power(left: float, right: float) -> float:
    try:
        return math.pow(left, right)
    except OverflowError:
        return -math.inf if left < 0 and right % 2 == 1 else math.inf
    except ValueError:
        if left == 0:  # to a negative power; an odd one keeps the sign of zero
            return math.copysign(math.inf, left) if right % 2 == 1 else math.inf
        return math.nan


_ARITHMETIC: Mapping[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": divide,
    "%": _modulo,
    "^": _power,
}
_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}


def binary_scalars(op: str, left: float, right: float) -> float:
    """Two scalars; a comparison gives 0 or 1."""
    if op in _COMPARISONS:
        return float(_COMPARISONS[op](left, right))
    if op not in _ARITHMETIC:  # atan2 keeps the metric's name in Prometheus 2.42 and drops it in 2.53
        raise Unsupported(f"operator {op}")
    return _ARITHMETIC[op](left, right)


def binary_with_scalar(op: str, left: float | Vector, right: float | Vector, returns_bool: bool) -> Vector:
    """A vector and a scalar; a comparison keeps the vector's value, whichever side it is on."""
    vector = left if isinstance(left, dict) else right
    if not isinstance(vector, dict):
        raise Unsupported("two scalars")
    results = []
    for labels, value in vector.items():
        a = value if isinstance(left, dict) else left
        b = value if isinstance(right, dict) else right
        if op in _COMPARISONS and not returns_bool:
            if _COMPARISONS[op](a, b):
                results.append((labels, value))
        else:
            results.append((drop(labels, NAME), binary_scalars(op, a, b)))
    return collect(results)


@dataclass(frozen=True, slots=True)
class _Matching:
    """How series of two vectors find each other; `swapped`: the left side is the one that is unique."""

    on: bool
    labels: tuple[str, ...]
    grouped: bool
    swapped: bool
    include: tuple[str, ...]
    returns_bool: bool

    def signature(self, labels: LabelSet) -> LabelSet:
        return keep(labels, self.labels) if self.on else drop(labels, NAME, *self.labels)

    def result(self, op: str, many: LabelSet, one: LabelSet) -> LabelSet:
        labels = dict(many)
        if op in _ARITHMETIC or self.returns_bool:
            labels.pop(NAME, None)
        if not self.grouped:
            kept = keep if self.on else lambda ls, names: drop(ls, *names)
            labels = dict(kept(label_set(labels), self.labels))
        copied = dict(one)
        for name in self.include:
            labels[name] = copied.get(name, "")
        return label_set(labels)


def _matching(modifier: ast.BinModifier | None) -> _Matching:
    if modifier is None:
        return _Matching(False, (), False, False, (), False)
    matching = modifier.matching
    many = modifier.card == ast.VectorMatchCardinality.ManyToOne
    swapped = modifier.card == ast.VectorMatchCardinality.OneToMany
    return _Matching(
        on=matching is not None and matching.type == ast.LabelModifierType.Include,
        labels=tuple(matching.labels) if matching else (),
        grouped=many or swapped,
        swapped=swapped,
        include=tuple(modifier.group_labels or ()),
        returns_bool=modifier.return_bool,
    )


def binary_vectors(op: str, left: Vector, right: Vector, modifier: ast.BinModifier | None) -> Vector:
    """Two vectors: sets, or one-to-one, many-to-one and one-to-many matching."""
    matching = _matching(modifier)
    if op in ("and", "or", "unless"):
        return _sets(op, left, right, matching)
    if op not in _ARITHMETIC and op not in _COMPARISONS:
        raise Unsupported(f"operator {op}")
    if not left or not right:
        return {}
    many, one = (right, left) if matching.swapped else (left, right)
    unique: dict[LabelSet, tuple[LabelSet, float]] = {}
    for labels, value in one.items():
        signature = matching.signature(labels)
        if signature in unique:
            raise QueryError(f"found duplicate series for the match group {dict(signature)}")
        unique[signature] = (labels, value)
    return _matched(op, many, unique, matching)


def _matched(
    op: str, many: Vector, unique: Mapping[LabelSet, tuple[LabelSet, float]], matching: _Matching
) -> Vector:
    results, seen = [], set()
    for labels, value in many.items():
        signature = matching.signature(labels)
        if signature not in unique:
            continue
        one_labels, one_value = unique[signature]
        result = matching.result(op, labels, one_labels)
        # Strict, as newer versions are: older ones forgive where a comparison takes one of the two away.
        key = (signature, result) if matching.grouped else (signature, ())
        if key in seen:
            raise QueryError(f"multiple matches for labels {dict(signature)}")
        seen.add(key)
        a, b = (one_value, value) if matching.swapped else (value, one_value)
        if op in _COMPARISONS and not matching.returns_bool:
            if _COMPARISONS[op](a, b):
                results.append((result, a))
        else:
            results.append((result, binary_scalars(op, a, b)))
    return collect(results)


def _sets(op: str, left: Vector, right: Vector, matching: _Matching) -> Vector:
    signature = matching.signature
    if op == "or":
        present = {signature(labels) for labels in left}
        added = [(ls, value) for ls, value in right.items() if signature(ls) not in present]
        return collect([*left.items(), *added])
    present = {signature(labels) for labels in right}
    return {labels: v for labels, v in left.items() if (signature(labels) in present) == (op == "and")}
