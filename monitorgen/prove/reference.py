"""An evaluator of PromQL of our own: what generated tests expect is computed here, not copied from a server.

It covers the subset that our rules and most others use; everything else raises Unsupported, so that there is
never a wrong value. Where Prometheus 2 and 3 disagree, `left_open` chooses, and `differs` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta

import promql_parser as ast

from monitorgen.promql import Matcher, Node, tree
from monitorgen.promql.grafana import substitute
from monitorgen.promql.selectors import selector_of
from monitorgen.prove.reference_binary import binary_scalars, binary_vectors, binary_with_scalar
from monitorgen.prove.reference_functions import (
    ELEMENTWISE,
    OVER_TIME,
    Window,
    aggregate,
    extrapolated,
    histogram_quantile,
    instant_difference,
    quantile,
)
from monitorgen.prove.reference_match import accepts, compiled, expanded
from monitorgen.prove.reference_series import (
    NAME,
    LabelSet,
    QueryError,
    Series,
    Storage,
    Unsupported,
    Vector,
    collect,
    drop,
    label_set,
)

__all__ = [
    "LabelSet",
    "QueryError",
    "Series",
    "Storage",
    "Unsupported",
    "Vector",
    "differs",
    "evaluate",
    "window_edge_hits",
]

Value = float | Vector


def evaluate(
    expr: str, storage: Storage, t: float, *, left_open: bool = True, zero_first: bool = False
) -> Vector:
    """The value of `expr` at `t` seconds: label set (sorted pairs, `__name__` too) -> value.

    A scalar has no labels. `left_open`: windows leave out a sample at their left edge, as in Prometheus 3.
    `zero_first`: rates extrapolate as in Prometheus 2.42; 2.53 and 3 do not.

    Unsupported where the evaluator does not know; QueryError where Prometheus refuses to answer; PromQLError
    where `expr` does not parse.
    """
    evaluator = _Evaluator(storage, t, left_open, zero_first)
    value = evaluator.value(_root(expr), round(t * 1000))
    return {(): value} if isinstance(value, float) else value


def window_edge_hits(expr: str, storage: Storage, t: float) -> bool:
    """Does a sample lie on the left edge of a range or of the lookback: there versions disagree."""
    evaluator = _Evaluator(storage, t, left_open=False)
    evaluator.value(_root(expr), round(t * 1000))
    return evaluator.edge_hit


def differs(expr: str, storage: Storage, t: float) -> bool:
    """Would versions of Prometheus, or the last bits of a float, give different values for `expr` at `t`.

    Besides window edges: how far a rate reaches back to a counter's zero, and quantiles whose rank is on an
    edge before an empty bucket.
    """
    root = _root(expr)
    results: list[Vector] = []
    for variant in _VARIANTS:
        try:
            value = _Evaluator(storage, t, *variant).value(root, round(t * 1000))
        except QueryError:
            return True
        results.append({(): value} if isinstance(value, float) else value)
    return any(not _alike(results[0], other) for other in results[1:])


# left_open, zero_first, nudge: Prometheus 3, 2.53, 2.42, and 3 with other last bits.
_VARIANTS = (
    (True, False, 0.0),
    (False, False, 0.0),
    (False, True, 0.0),
    (True, False, 1e-12),
    (True, False, -1e-12),
)


def _root(expr: str) -> Node:
    if substitute(expr).variables:
        raise Unsupported("a variable of Grafana")
    return tree(expr).root


def _alike(left: Vector, right: Vector) -> bool:
    return left.keys() == right.keys() and all(
        math.isclose(value, right[labels], rel_tol=1e-9, abs_tol=1e-12)
        or (math.isnan(value) and math.isnan(right[labels]))
        for labels, value in left.items()
    )


def _milliseconds(delta: timedelta | None) -> int:
    return delta // timedelta(milliseconds=1) if delta else 0


class _Evaluator:
    """Evaluates nodes at times in milliseconds. `edge_hit`: a sample lay on a window's left edge."""

    def __init__(
        self, storage: Storage, top: float, left_open: bool, zero_first: bool = False, nudge: float = 0.0
    ) -> None:
        self.storage = storage
        self.top = round(top * 1000)  # the query's own time: @ start() and @ end()
        self.left_open = left_open
        self.zero_first = zero_first
        self.nudge = nudge
        self.edge_hit = False

    def value(self, node: Node, t: int) -> Value:
        expr = node.expr
        if isinstance(expr, ast.NumberLiteral):
            return float(expr.val)
        if isinstance(expr, ast.VectorSelector):
            return {labels: value for labels, _, value in self.instant(node, t)}
        if isinstance(expr, ast.ParenExpr):
            return self.value(node.children[0], t)
        if isinstance(expr, ast.UnaryExpr):
            inner = self.value(node.children[0], t)
            if isinstance(inner, float):
                return -inner
            return collect((drop(labels, NAME), -value) for labels, value in inner.items())
        if isinstance(expr, ast.BinaryExpr):
            return self.binary(node, expr, t)
        if isinstance(expr, ast.AggregateExpr):
            return self.aggregation(node, expr, t)
        if isinstance(expr, ast.Call):
            return self.call(node, expr.func.name, t)
        raise Unsupported(f"{type(expr).__name__} has no value at one instant here")

    def vector(self, node: Node, t: int) -> Vector:
        value = self.value(node, t)
        if isinstance(value, float):
            raise Unsupported("a scalar where a vector is expected")
        return value

    def scalar(self, node: Node, t: int) -> float:
        value = self.value(node, t)
        if not isinstance(value, float):
            raise Unsupported("a vector where a scalar is expected")
        return value

    def reference_time(self, expr: ast.VectorSelector | ast.SubqueryExpr, t: int) -> int:
        """The time that a selector looks from: `@` first, then `offset`."""
        if expr.at is not None:
            t = round(expr.at.at.timestamp() * 1000) if expr.at.at is not None else self.top
        return t - _milliseconds(expr.offset)

    def instant(self, node: Node, t: int) -> Iterator[tuple[LabelSet, int, float]]:
        """Label set, time and value of each series' latest sample within the lookback."""
        expr = node.expr
        if not isinstance(expr, ast.VectorSelector):
            raise Unsupported("timestamp of something that is no selector")
        t = self.reference_time(expr, t)
        oldest = t - self.storage.lookback_ms
        for series in self.selected(node):
            latest = series.latest(t)
            if latest is None or latest[1] is None or latest[0] < oldest:
                continue
            if latest[0] == oldest:
                self.edge_hit = True
                if self.left_open:
                    continue
            yield series.label_set, latest[0], latest[1]

    def windows(self, node: Node, t: int) -> Iterator[Window]:
        """Samples in the range of a matrix selector or a subquery, for each series that has any."""
        expr = node.expr
        while isinstance(expr, ast.ParenExpr):
            node = node.children[0]
            expr = node.expr
        if isinstance(expr, ast.SubqueryExpr):
            yield from self.subquery(node, expr, t)
            return
        if not isinstance(expr, ast.MatrixSelector):
            raise Unsupported(f"{type(expr).__name__} where a range is expected")
        end = self.reference_time(expr.vector_selector, t)
        start = end - _milliseconds(expr.range)
        for series in self.selected(node):
            found = series.between(start, end)
            if found and found[0][0] == start:
                self.edge_hit = True
                found = found[1:] if self.left_open else found
            if found:
                yield Window(series.label_set, found, start, end)

    def subquery(self, node: Node, expr: ast.SubqueryExpr, t: int) -> Iterator[Window]:
        """Evaluates at multiples of the step, not at distances from `t`."""
        if expr.range is None:
            raise Unsupported("a subquery without a range")
        step = _milliseconds(expr.step) if expr.step else round((self.storage.interval or 0) * 1000)
        if step <= 0:
            raise Unsupported("a subquery without a step: Storage.interval is not set")
        end = self.reference_time(expr, t)
        start = end - _milliseconds(expr.range)
        first = -(-start // step) * step
        if first == start:
            self.edge_hit = True
            first += step if self.left_open else 0
        found: dict[LabelSet, list[tuple[int, float]]] = {}
        for moment in range(first, end + 1, step):
            for labels, value in self.vector(node.children[0], moment).items():
                found.setdefault(labels, []).append((moment, value))
        for labels, samples in found.items():
            yield Window(labels, samples, start, end)

    def selected(self, node: Node) -> Sequence[Series]:
        vector = node.expr.vector_selector if isinstance(node.expr, ast.MatrixSelector) else node.expr
        if isinstance(vector, ast.VectorSelector) and vector.matchers.or_matchers:
            raise Unsupported("`or` between matchers")
        selector = selector_of(node, ())
        matchers = selector.matchers
        if selector.name:
            matchers = (*matchers, Matcher(NAME, "=", selector.name))
        return [s for s in self.storage.series if all(accepts(m, s.labels.get(m.name, "")) for m in matchers)]

    def binary(self, node: Node, expr: ast.BinaryExpr, t: int) -> Value:
        if expr.modifier and (expr.modifier.fill_values.lhs, expr.modifier.fill_values.rhs) != (None, None):
            raise Unsupported("a fill modifier")
        left, right = (self.value(child, t) for child in node.children)
        op = str(expr.op)
        if isinstance(left, float) and isinstance(right, float):
            return binary_scalars(op, left, right)
        if isinstance(left, float) or isinstance(right, float):
            return binary_with_scalar(op, left, right, bool(expr.modifier and expr.modifier.return_bool))
        return binary_vectors(op, left, right, expr.modifier)

    def aggregation(self, node: Node, expr: ast.AggregateExpr, t: int) -> Vector:
        operand = self.vector(node.children[-1], t)
        name = str(expr.op)
        parameter = 0.0
        if expr.param is not None:
            if name == "count_values":
                raise Unsupported("count_values")
            parameter = self.scalar(node.children[0], t)
        labels = tuple(expr.modifier.labels) if expr.modifier else ()
        without = bool(expr.modifier and expr.modifier.type == ast.AggModifierType.Without)
        return aggregate(name, operand, parameter, labels, without, self.nudge)

    def call(self, node: Node, name: str, t: int) -> Value:
        arguments = node.children
        if name in _SPECIAL:
            return _SPECIAL[name](self, node, t)
        if name in OVER_TIME or name in (
            "rate",
            "increase",
            "delta",
            "irate",
            "idelta",
            "quantile_over_time",
        ):
            return self.over_time(name, arguments, t)
        if name in ELEMENTWISE:
            parameters = [self.scalar(argument, t) for argument in arguments[1:]]
            values = self.vector(arguments[0], t)
            if name == "clamp" and parameters[1] < parameters[0]:
                return {}
            function = ELEMENTWISE[name]
            return collect((drop(labels, NAME), function(v, *parameters)) for labels, v in values.items())
        raise Unsupported(f"function {name}")

    def over_time(self, name: str, arguments: Sequence[Node], t: int) -> Vector:
        function = self.range_function(name, arguments, t)
        results = []
        for window in self.windows(arguments[-1], t):
            value = function(window)
            if value is not None:
                labels = window.labels if name == "last_over_time" else drop(window.labels, NAME)
                results.append((labels, value))
        return collect(results)

    def range_function(
        self, name: str, arguments: Sequence[Node], t: int
    ) -> Callable[[Window], float | None]:
        if name in ("rate", "increase", "delta"):
            return lambda w: extrapolated(w, name != "delta", name == "rate", zero_first=self.zero_first)
        if name in ("irate", "idelta"):
            return lambda w: instant_difference(w, name == "irate")
        if name == "quantile_over_time":
            q = self.scalar(arguments[0], t)
            return lambda w: quantile(q, w.values, self.nudge)
        function = OVER_TIME[name]
        return lambda w: function(w.values)

    def absent(self, node: Node, t: int) -> Vector:
        argument = node.children[0]
        return {} if self.vector(argument, t) else {_absent_labels(argument): 1.0}

    def absent_over_time(self, node: Node, t: int) -> Vector:
        argument = node.children[0]
        return {} if list(self.windows(argument, t)) else {_absent_labels(argument): 1.0}

    def histogram_quantile(self, node: Node, t: int) -> Vector:
        q = self.scalar(node.children[0], t)
        return histogram_quantile(q, self.vector(node.children[1], t), self.nudge)

    def timestamp(self, node: Node, t: int) -> Vector:
        argument = node.children[0]
        if isinstance(argument.expr, ast.VectorSelector):
            return collect((drop(labels, NAME), at / 1000) for labels, at, _ in self.instant(argument, t))
        if isinstance(argument.expr, ast.ParenExpr):
            raise Unsupported("timestamp of something in brackets")
        return collect((drop(labels, NAME), t / 1000) for labels in self.vector(argument, t))

    def to_scalar(self, node: Node, t: int) -> float:
        values = list(self.vector(node.children[0], t).values())
        return values[0] if len(values) == 1 else math.nan

    def label_replace(self, node: Node, t: int) -> Vector:
        target, text, source, pattern = (_string(child) for child in node.children[1:])
        regex = compiled(pattern)
        results = []
        for labels, value in self.vector(node.children[0], t).items():
            named = dict(labels)
            if match := regex.fullmatch(named.get(source, "")):
                named[target] = expanded(text, match)
            results.append((label_set(named), value))
        return collect(results)

    def label_join(self, node: Node, t: int) -> Vector:
        target, separator, *sources = (_string(child) for child in node.children[1:])
        results = []
        for labels, value in self.vector(node.children[0], t).items():
            named = dict(labels)
            named[target] = separator.join(named.get(source, "") for source in sources)
            results.append((label_set(named), value))
        if len({labels for labels, _ in results}) < len(results):
            raise Unsupported("label_join that makes series collide: 2.53 keeps one of them, others refuse")
        return collect(results)


_SPECIAL: Mapping[str, Callable[[_Evaluator, Node, int], Value]] = {
    "absent": _Evaluator.absent,
    "absent_over_time": _Evaluator.absent_over_time,
    "histogram_quantile": _Evaluator.histogram_quantile,
    "label_join": _Evaluator.label_join,
    "label_replace": _Evaluator.label_replace,
    "pi": lambda evaluator, node, t: math.pi,
    "scalar": _Evaluator.to_scalar,
    "sort": lambda evaluator, node, t: evaluator.vector(node.children[0], t),
    "sort_desc": lambda evaluator, node, t: evaluator.vector(node.children[0], t),
    "time": lambda evaluator, node, t: t / 1000,
    "timestamp": _Evaluator.timestamp,
    "vector": lambda evaluator, node, t: {(): evaluator.scalar(node.children[0], t)},
}


def _string(node: Node) -> str:
    if not isinstance(node.expr, ast.StringLiteral):
        raise Unsupported("a string that is no literal")
    return node.expr.val


def _absent_labels(node: Node) -> LabelSet:
    """The labels that absent() gives: of equality matchers; a later one of the same label undoes it."""
    while isinstance(node.expr, ast.ParenExpr):
        node = node.children[0]
    if not isinstance(node.expr, ast.VectorSelector | ast.MatrixSelector):
        return ()
    labels: dict[str, str] = {}
    seen: set[str] = set()
    for matcher in _without_name(selector_of(node, ()).matchers):
        if matcher.op == "=" and matcher.name not in seen:
            labels[matcher.name] = matcher.value
            seen.add(matcher.name)
        else:
            labels.pop(matcher.name, None)
    return label_set(labels)


def _without_name(matchers: Iterable[Matcher]) -> Iterator[Matcher]:
    return (matcher for matcher in matchers if matcher.name != NAME)
