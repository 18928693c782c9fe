"""Metrics that only some versions in range export."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from promql_parser import BinaryExpr, Expr, Matcher, MatchOp, VectorSelector

from monitorgen.catalog import Catalog, matches
from monitorgen.checks import tree
from monitorgen.checks.context import Context, PanelSubject, Subject
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

#: How far an expression can be read at a version.
_MISSING, _CONDITIONAL, _THERE = range(3)


@dataclass(frozen=True, slots=True)
class _Item:
    """An item, what it reads (a panel is fine if one of its queries can be read), and what it declares."""

    subject: Subject
    roots: tuple[Expr, ...]
    since: str
    needs: str


@check("metric-range")
def metric_range(context: Context) -> Iterator[Finding]:
    """What is read exists in every version in range, or through `or`, or `since` and `needs` say so."""
    for item in _items(context):
        # Who reads a recorded metric need not repeat what its rule declares, but may, and then must be right.
        deep = bool(item.since or item.needs)
        for engine in _engines(context, item, deep):
            versions = context.catalogs[engine]
            found = [_states(context, root, versions, deep) for root in item.roots]
            states = dict(zip(versions, _each(max, found, versions), strict=True))
            yield from _since(item, states)
            yield from _needs(context, item, states)


def _engines(context: Context, item: _Item, deep: bool) -> list[str]:
    """The engines whose families the item reads, through recorded metrics if `deep`."""
    found: set[str] = set()
    todo = {name for root in item.roots for name in tree.names(root)}
    seen: set[str] = set()
    while todo - seen:
        name = (todo - seen).pop()
        seen.add(name)
        if name not in context.recorded:
            found |= {one.engine for one, _ in context.families(name)}
        elif deep:
            trees = (context.tree(rule.expr) for rule in context.recorded[name])
            todo |= {below for root in trees if root is not None for below in tree.names(root)}
    return sorted(found - {"prometheus"})


def _items(context: Context) -> Iterator[_Item]:
    for subject in context.rules:
        root = context.tree(subject.expr)
        if root is not None:
            yield _Item(subject, (root,), subject.rule.since, subject.rule.needs)
    declared = {rule.signal: rule for rule in context.bundle.recording_rules if rule.signal}
    for panel in context.panels:
        trees = (context.tree(query.expr) for query in panel.panel.queries)
        roots = tuple(root for root in trees if root is not None)
        rule = declared.get(panel.panel.signal)
        if roots:
            yield _Item(_of_panel(panel), roots, rule.since if rule else "", rule.needs if rule else "")


def _of_panel(panel: PanelSubject) -> Subject:
    """The panel as a subject with its first expression, for the finding to show."""
    return Subject(panel.item, panel.origin, panel.panel.queries[0].expr)


def _states(
    context: Context,
    node: Expr,
    versions: Sequence[Catalog],
    deep: bool,
    seen: frozenset[str] = frozenset(),
) -> list[int]:
    """How far the node can be read at each version: `or` needs one of its branches, all else all operands."""
    if isinstance(node, VectorSelector):
        name = node.name or ""
        if name not in context.recorded:
            return [_selected(context, node, one) for one in versions]
        if not deep or name in seen:
            return _each(max, [], versions)
        trees = (context.tree(rule.expr) for rule in context.recorded[name])
        found = [_states(context, root, versions, deep, seen | {name}) for root in trees if root is not None]
        return _each(max, found, versions)
    below = [_states(context, child, versions, deep, seen) for child in tree.children(node)]
    either = isinstance(node, BinaryExpr) and tree.operator(node) == "or"
    return _each(max if either else min, below, versions)


def _each(
    choose: Callable[[Iterable[int]], int], found: list[list[int]], versions: Sequence[Catalog]
) -> list[int]:
    """One of the states that were found, for each version; what reads nothing is there."""
    return [choose(states) for states in zip(*found, strict=True)] if found else [_THERE for _ in versions]


def _selected(context: Context, node: VectorSelector, version: Catalog) -> int:
    """How far the family of a selector can be read; what is another engine's is there."""
    name = node.name or ""
    if all(found.engine != version.engine for found, _ in context.families(name)):
        return _THERE
    family = version.family_of(name)
    if family is None:
        return _MISSING
    here = {*family.labels, *context.labels_added(version.engine), "le", "quantile"}
    if any(_asks(matcher) and matcher.name not in here for matcher in node.matchers.matchers):
        return _MISSING
    return _CONDITIONAL if family.needs else _THERE


def _asks(matcher: Matcher) -> bool:
    """Whether a series without the label cannot match."""
    return matcher.op == MatchOp.Equal and bool(matcher.value)


def _since(item: _Item, states: dict[Catalog, int]) -> Iterator[Finding]:
    """`since` must be the version from which on it can be read, given where not the first in range."""
    missing = [one for one, state in states.items() if state == _MISSING]
    if missing and len(missing) == len(states):
        yield item.subject.finding(
            "what it reads together exists in no single version in range", "read alternatives with `or`"
        )
        return
    if not item.since:
        if missing:
            yield _undeclared(item, states, missing)
        return
    covered = [one for one in states if matches(one.version, f">={item.since}")]
    later = [one for one in missing if one in covered]
    earlier = [one for one in states if one not in covered and states[one] != _MISSING]
    if later:
        yield item.subject.finding(
            f"it is declared since {item.since}, but what it reads is missing in {_listed(later)}",
            "correct since, or read the old name too with `or`",
        )
    elif earlier:
        yield item.subject.finding(
            f"it is declared since {item.since}, but what it reads exists in {_listed(earlier)}",
            f"declare since {earlier[0].version}, or nothing",
            severity="warning",
        )


def _undeclared(item: _Item, states: dict[Catalog, int], missing: list[Catalog]) -> Finding:
    there = [one for one in states if one not in missing]
    renamed = any(states[one] == _MISSING for one in list(states)[list(states).index(there[0]) :])
    hint = (
        "read the new name too with `or`"
        if renamed
        else f"read the old name too with `or`, or declare since: {there[0].version}"
    )
    return item.subject.finding(f"what it reads is missing in {_listed(missing)}", hint)


def _needs(context: Context, item: _Item, states: dict[Catalog, int]) -> Iterator[Finding]:
    """`needs` must say that a flag is needed, where one is."""
    conditional = [one for one, state in states.items() if state == _CONDITIONAL]
    if conditional and not item.needs:
        flags = sorted(
            {
                family.needs
                for root in item.roots
                for name in tree.names(root)
                for found, family in context.families(name)
                if found in conditional and family.needs
            }
        )
        yield item.subject.finding(
            f"what it reads is exported only with {' or '.join(flags)}", f"declare needs: {flags[0]}"
        )
    elif item.needs and not conditional and _MISSING not in states.values():
        yield item.subject.finding(
            f"it is declared to need {item.needs}, but the catalogs say that it is always exported",
            "drop needs",
            severity="warning",
        )


def _listed(catalogs: list[Catalog]) -> str:
    """Engine and versions, the middle of a long run left out."""
    names = [one.version for one in catalogs]
    text = ", ".join(names) if len(names) <= 4 else f"{names[0]} to {names[-1]} ({len(names)} versions)"
    return f"{catalogs[0].engine} {text}"
