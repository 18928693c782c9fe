"""Which labels an expression yields: label sets carried through functions, aggregations and joins.

Only what is certain is called a problem: a label that one side always has and the other never.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import promql_parser as ast

from monitorgen.promql.errors import Problem
from monitorgen.promql.labelset import NAME, Labels
from monitorgen.promql.selectors import Matcher, Selector, function_of, selector_of
from monitorgen.promql.tree import Node, Tree, tree


@dataclass(frozen=True, slots=True)
class Flow:
    """An expression's labels, what is wrong on the way, and the label values that matchers pin down."""

    labels: Labels
    problems: tuple[Problem, ...]
    values: Mapping[str, frozenset[str]] = field(default_factory=dict)


def label_flow(expr: str, labels_of: Callable[[Selector], Labels]) -> Flow:
    """The labels that `expr` yields; `labels_of` gives those of a selector's series, target labels included.

    What its equality matchers say is added here. Problems are of the kinds `join-mismatch` (no pair of series
    can match), `group-missing` (group_left copies a label that is not there), `missing-label` (a grouping, or
    `le`, that the operand never has), `impossible-branch` (label values that contradict each other) and
    `duplicate-labels` (a label listed twice). PromQLError where `expr` does not parse.
    """
    parsed = tree(expr)
    walk = _Walk(parsed, labels_of)
    state = walk.visit(parsed.root, ())
    return Flow(state.labels, tuple(walk.problems), state.values)


@dataclass(frozen=True, slots=True)
class _State:
    """The labels of a node's series, and for some of them all values. Scalars have no series."""

    labels: Labels = field(default_factory=Labels)
    values: Mapping[str, frozenset[str]] = field(default_factory=dict)
    scalar: bool = False

    def keep(self, labels: Labels) -> _State:
        """Other labels, and the values of those that remain."""
        return _State(labels, {k: v for k, v in self.values.items() if labels.possible(k)})


_SCALAR = _State(scalar=True)
_KEEP_NAME = frozenset(
    {"last_over_time", "first_over_time", "sort", "sort_desc", "sort_by_label", "sort_by_label_desc"}
)
_KEEP_SERIES = frozenset({"topk", "bottomk", "limitk", "limit_ratio"})
_COMPARISONS = frozenset({"==", "!=", ">", "<", ">=", "<="})


class _Walk:
    """One pass over a tree; `problems` collects what is wrong, `visit` returns what a node yields."""

    def __init__(self, parsed: Tree, labels_of: Callable[[Selector], Labels]) -> None:
        self.parsed = parsed
        self.labels_of = labels_of
        self.problems: list[Problem] = []

    def problem(self, kind: str, message: str, place: tuple[int, int]) -> None:
        self.problems.append(Problem(kind, message, *place))

    def place_of(self, node: Node, label: str) -> tuple[int, int]:
        """Where a label is written in the marked part of a node."""
        for token in self.parsed.tokens[node.first : node.last] if self.parsed.placed else ():
            if node.mark[0] < token.start and token.end <= node.mark[1] and token.text.strip("\"'") == label:
                return token.start, token.end
        return node.mark

    def visit(self, node: Node, functions: tuple[str, ...]) -> _State:
        expr = node.expr
        if isinstance(expr, ast.VectorSelector | ast.MatrixSelector):
            return self.selector(node, functions)
        if isinstance(expr, ast.BinaryExpr):
            left, right = (self.visit(child, functions) for child in node.children)
            return self.binary(node, expr, left, right)
        if isinstance(expr, ast.AggregateExpr):
            return self.aggregation(node, expr, functions)
        if isinstance(expr, ast.Call):
            return self.call(node, expr, functions)
        if isinstance(expr, ast.ParenExpr | ast.SubqueryExpr):
            return self.visit(node.children[0], functions)
        if isinstance(expr, ast.UnaryExpr):
            inner = self.visit(node.children[0], functions)
            return inner if inner.scalar else inner.keep(inner.labels.drop([NAME]))
        return _SCALAR

    def selector(self, node: Node, functions: tuple[str, ...]) -> _State:
        selector = selector_of(node, functions, self.parsed.placed)
        labels = self.labels_of(selector)
        labels = labels.with_always(NAME)
        values: dict[str, frozenset[str]] = {}
        for matcher in selector.matchers:
            if matcher.name == NAME:
                continue
            labels = _matched(labels, matcher)
            if (allowed := _literals(matcher)) is not None:
                before = values.get(matcher.name)
                values[matcher.name] = allowed if before is None else before & allowed
        for matcher in selector.matchers:
            if matcher.name in values:
                values[matcher.name] = frozenset(v for v in values[matcher.name] if _accepts(matcher, v))
        for label in sorted(label for label, allowed in values.items() if not allowed):
            place = (node.start, node.end)
            self.problem("impossible-branch", f"the matchers of {label!r} exclude each other", place)
            del values[label]
        return _State(labels, {label: allowed for label, allowed in values.items() if allowed != {""}})

    def aggregation(self, node: Node, expr: ast.AggregateExpr, functions: tuple[str, ...]) -> _State:
        name = function_of(expr)
        inner = (*functions, name)
        if expr.param is not None:
            self.visit(node.children[0], inner)
        operand = self.visit(node.children[-1], inner)
        grouping = list(expr.modifier.labels) if expr.modifier else []
        by = not (expr.modifier and expr.modifier.type == ast.AggModifierType.Without)
        self.listed_twice(node, grouping)
        for label in grouping if by else ():
            if not operand.labels.possible(label):
                message = f"{name} by {label!r}: the operand never has this label"
                self.problem("missing-label", message, self.place_of(node, label))
        if name in _KEEP_SERIES:
            return operand
        labels = operand.labels.only(grouping) if by else operand.labels.drop([*grouping, NAME])
        state = operand.keep(labels)
        if name == "count_values" and isinstance(expr.param, ast.StringLiteral):
            return _set(state, expr.param.val, None)
        return state

    def listed_twice(self, node: Node, labels: list[str]) -> None:
        for label in sorted({label for label in labels if labels.count(label) > 1}):
            self.problem("duplicate-labels", f"label {label!r} is listed twice", self.place_of(node, label))

    def call(self, node: Node, expr: ast.Call, functions: tuple[str, ...]) -> _State:
        name = expr.func.name
        states = [self.visit(child, (*functions, name)) for child in node.children]
        if expr.func.return_type != ast.ValueType.Vector:
            return _SCALAR
        if name in ("absent", "absent_over_time"):
            return _absent(node.children[0])
        vectors = [state for state in states if not state.scalar]
        if not vectors:
            return _State()
        operand = vectors[0]
        if name == "label_replace":
            return _label_replace(operand, expr)
        if name == "label_join":
            return _label_join(operand, expr)
        if name == "info":
            return replace(operand, labels=replace(operand.labels, open=True))
        if name == "histogram_quantile":
            if not operand.labels.possible("le"):
                message = "histogram_quantile needs the label 'le', which its operand never has"
                self.problem("missing-label", message, node.mark)
            return operand.keep(operand.labels.drop(["le", NAME]))
        return operand if name in _KEEP_NAME else operand.keep(operand.labels.drop([NAME]))

    def binary(self, node: Node, expr: ast.BinaryExpr, left: _State, right: _State) -> _State:
        op = str(expr.op)
        returns_bool = bool(expr.modifier and expr.modifier.return_bool)
        drops_name = returns_bool or op not in _COMPARISONS
        if left.scalar or right.scalar:
            if left.scalar and right.scalar:
                return _SCALAR
            vector = right if left.scalar else left
            return vector.keep(vector.labels.drop([NAME])) if drops_name else vector
        matching = _Matching.of(expr.modifier)
        self.listed_twice(node, list(matching.labels))
        if op == "or":
            return _either(left, right)
        self.check_join(node, op, matching, left, right)
        if op in ("and", "unless"):
            return left
        many, one = (right, left) if matching.swapped else (left, right)
        return self.joined(node, matching, many, one, drops_name)

    def joined(self, node: Node, matching: _Matching, many: _State, one: _State, drops_name: bool) -> _State:
        labels = many.labels
        if not matching.grouped:
            labels = labels.only(matching.labels) if matching.on else labels.drop(matching.labels)
        if drops_name:
            labels = labels.drop([NAME])
        state = many.keep(labels)
        for label in matching.include:
            if not one.labels.possible(label):
                side = "left" if matching.swapped else "right"
                message = f"{label!r} is to be copied from the {side} side, which never has it"
                self.problem("group-missing", message, self.place_of(node, label))
                state = state.keep(state.labels.drop([label]))
            elif label in one.labels.always:
                state = _set(state, label, one.values.get(label))
            else:
                state = replace(state.keep(state.labels.drop([label])), labels=state.labels.with_maybe(label))
        return state

    def check_join(self, node: Node, op: str, matching: _Matching, left: _State, right: _State) -> None:
        """Say where no series of one side can match any of the other."""
        effect = "so it excludes nothing" if op == "unless" else "so nothing ever matches"
        if matching.on:
            labels: Iterable[str] = matching.labels
        else:
            named = left.labels.always | right.labels.always | set(left.values) | set(right.values)
            labels = sorted(named - {NAME, *matching.labels})
        for label in labels:
            place = self.place_of(node, label) if matching.on else node.mark
            on_left, on_right = left.labels.possible(label), right.labels.possible(label)
            if matching.on and not on_left and not on_right:
                self.problem("join-mismatch", f"neither side has the label {label!r} to match on", place)
            elif (label in left.labels.always and not on_right) or (
                label in right.labels.always and not on_left
            ):
                has, lacks = ("left", "right") if on_left else ("right", "left")
                message = f"the {has} side always has the label {label!r}, the {lacks} side never, {effect}"
                self.problem("join-mismatch", message, place)
            elif _disjoint(left.values.get(label), right.values.get(label)):
                message = f"the two sides ask for different values of {label!r}, {effect}"
                self.problem("impossible-branch", message, place)


@dataclass(frozen=True, slots=True)
class _Matching:
    """How two vectors are matched; `swapped`: the left side is the one whose labels are copied."""

    on: bool
    labels: tuple[str, ...]
    grouped: bool
    swapped: bool
    include: tuple[str, ...]

    @staticmethod
    def of(modifier: ast.BinModifier | None) -> _Matching:
        if modifier is None:
            return _Matching(False, (), False, False, ())
        matching = modifier.matching
        many = modifier.card == ast.VectorMatchCardinality.ManyToOne
        swapped = modifier.card == ast.VectorMatchCardinality.OneToMany
        return _Matching(
            on=matching is not None and matching.type == ast.LabelModifierType.Include,
            labels=tuple(matching.labels) if matching else (),
            grouped=many or swapped,
            swapped=swapped,
            include=tuple(modifier.group_labels or ()),
        )


def _set(state: _State, label: str, values: frozenset[str] | None) -> _State:
    """The same series, each with a label of these values (None: any)."""
    kept = {key: value for key, value in state.values.items() if key != label}
    if values is not None:
        kept[label] = values
    return _State(state.labels.with_always(label), kept)


def _either(left: _State, right: _State) -> _State:
    labels = left.labels.union(right.labels)
    values = {
        label: left.values[label] | right.values[label] for label in left.values if label in right.values
    }
    return _State(labels, values)


def _disjoint(left: frozenset[str] | None, right: frozenset[str] | None) -> bool:
    return left is not None and right is not None and not left & right


def _matched(labels: Labels, matcher: Matcher) -> Labels:
    """What a matcher says about its label: one that the empty value fails means that the label is there."""
    if not _accepts(matcher, ""):
        return labels.with_always(matcher.name)
    if matcher.op == "=" and not matcher.value:
        return labels.drop([matcher.name])
    return labels


def _literals(matcher: Matcher) -> frozenset[str] | None:
    """All values that a matcher allows, where they can be listed."""
    if matcher.op == "=":
        return frozenset({matcher.value})
    if matcher.op == "=~" and re.fullmatch(r"[\w|:/-]+", matcher.value, re.ASCII):
        return frozenset(matcher.value.split("|"))
    return None


def _accepts(matcher: Matcher, value: str) -> bool:
    """Does a matcher accept a value; what Python's regular expressions cannot read accepts everything."""
    if matcher.op in ("=", "!="):
        return (matcher.value == value) == (matcher.op == "=")
    try:
        return (re.fullmatch(matcher.value, value, re.DOTALL) is not None) == (matcher.op == "=~")
    except re.error:
        return True


def _absent(node: Node) -> _State:
    """absent() makes its labels from the equality matchers of a plain selector."""
    while isinstance(node.expr, ast.ParenExpr):
        node = node.children[0]
    if not isinstance(node.expr, ast.VectorSelector | ast.MatrixSelector):
        return _State()
    fixed: dict[str, frozenset[str]] = {}
    seen = {NAME}
    for matcher in selector_of(node, ()).matchers:
        if matcher.op == "=" and matcher.name not in seen:
            fixed[matcher.name] = frozenset({matcher.value} - {""})
            seen.add(matcher.name)
        else:  # a later matcher of the same label takes it away
            fixed.pop(matcher.name, None)
    fixed = {label: values for label, values in fixed.items() if values}
    return _State(Labels(frozenset(fixed)), fixed)


_REFERENCE = re.compile(r"\$(?:\w+|\{\w+\})")


def _label_replace(state: _State, expr: ast.Call) -> _State:
    target, text, source, pattern = (getattr(argument, "val", "") for argument in expr.args[1:5])
    everything = pattern in (".*", "(.*)")
    references = _REFERENCE.findall(text)
    literal = _REFERENCE.sub("", text)
    if everything and references and not literal and references in (["$1"], ["${1}"]) and pattern == "(.*)":
        return _copied(state, target, source)
    if everything and not references:
        return _set(state, target, frozenset({text})) if text else state.keep(state.labels.drop([target]))
    if literal and (target in state.labels.always or everything):
        return _set(state, target, None)
    values = {key: value for key, value in state.values.items() if key != target}
    return _State(state.labels.with_maybe(target), values)


def _copied(state: _State, target: str, source: str) -> _State:
    if source in state.labels.always:
        return _set(state, target, state.values.get(source))
    if not state.labels.possible(source):
        return state.keep(state.labels.drop([target]))
    values = {key: value for key, value in state.values.items() if key != target}
    return _State(state.labels.with_maybe(target), values)


def _label_join(state: _State, expr: ast.Call) -> _State:
    target, separator, *sources = (getattr(argument, "val", "") for argument in expr.args[1:])
    if (separator and len(sources) > 1) or any(source in state.labels.always for source in sources):
        return _set(state, target, None)
    if not any(state.labels.possible(source) for source in sources):
        return state.keep(state.labels.drop([target]))
    values = {key: value for key, value in state.values.items() if key != target}
    return _State(state.labels.with_maybe(target), values)
