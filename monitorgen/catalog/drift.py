"""What changes between two versions of an engine, and what a user's rules lose by it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, TypeAlias

import yaml

from monitorgen.bundle import Origin
from monitorgen.catalog.expressions import Expression
from monitorgen.catalog.model import Catalog, Family
from monitorgen.catalog.store import DATA
from monitorgen.promql import Matcher, PromQLError, Selector, grafana_substitute, selectors

ChangeKind: TypeAlias = Literal[
    "gone", "renamed", "retyped", "conditional", "relabelled", "buckets", "values", "added"
]
"""In the order in which they are told: what breaks rules first."""

_ORDER = ("gone", "renamed", "retyped", "conditional", "relabelled", "buckets", "values", "added")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Change:
    """A family that differs: `removed` and `new` are names, labels, edges or values, by kind."""

    kind: ChangeKind
    family: str
    removed: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Loss:
    """A selector of a user's rule or panel that finds nothing in the new version."""

    item: str
    selector: str
    reason: str
    hint: str
    origin: Origin = field(compare=False)


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a family: its new name, or an expression to use instead, and how we know."""

    new: str = ""
    instead: str = ""
    evidence: str = ""


@lru_cache(maxsize=8)
def fates(engine: str) -> Mapping[str, Fate]:
    """The known renames and removals of an engine, by old name."""
    path = DATA / engine / "renames.yaml"
    if not path.is_file():
        return {}
    plain = yaml.load(path.read_text("utf-8"), Loader=_Loader)
    found = {row["old"]: Fate(new=row["new"], evidence=row["evidence"]) for row in plain["renames"]}
    for row in plain["gone"]:
        found[row["old"]] = Fate(instead=row["instead"], evidence=row["evidence"])
    return found


def compare(old: Catalog, new: Catalog) -> tuple[Change, ...]:
    """All changes from one catalog to another, the breaking ones first, then by name."""
    changes: list[Change] = []
    for name, family in old.families.items():
        other = new.families.get(name)
        changes.extend([_lost(family, new)] if other is None else _differences(family, other))
    renamed = {change.new[0] for change in changes if change.kind == "renamed"}
    for name in new.families.keys() - old.families.keys() - renamed:
        changes.append(Change("added", name, note=new.families[name].needs))
    return tuple(sorted(changes, key=lambda change: (_ORDER.index(change.kind), change.family)))


def successor(family: str, new: Catalog) -> tuple[str, str]:
    """The name that a family has in another version, if it was renamed, and the evidence (else empty)."""
    known = fates(new.engine)
    fate = known.get(family, Fate())
    if fate.new and fate.new in new.families:
        return fate.new, fate.evidence
    for name, other in known.items():
        if other.new == family and name in new.families:
            return name, other.evidence
    return "", ""


def _lost(family: Family, new: Catalog) -> Change:
    name, evidence = successor(family.name, new)
    if name:
        return Change("renamed", family.name, new=(name,), note=evidence)
    fate = fates(new.engine).get(family.name, Fate())
    note = f"use {fate.instead}" if fate.instead else fate.evidence or family.needs
    return Change("gone", family.name, note=note)


def _differences(old: Family, new: Family) -> Iterable[Change]:
    if old.type != new.type:
        yield Change("retyped", old.name, (old.type,), (new.type,))
    if new.needs and not old.needs:
        yield Change("conditional", old.name, note=f"now needs {new.needs}")
    if old.labels != new.labels:
        yield _sets("relabelled", old.name, old.labels, new.labels)
    if old.buckets and new.buckets and old.buckets != new.buckets:
        yield _sets("buckets", old.name, _edges(old), _edges(new))
    for label in sorted(old.values.keys() & new.values.keys()):
        if old.values[label] != new.values[label]:
            yield _sets("values", old.name, old.values[label], new.values[label], note=label)


def _sets(kind: ChangeKind, name: str, old: tuple[str, ...], new: tuple[str, ...], note: str = "") -> Change:
    removed = tuple(item for item in old if item not in new)
    return Change(kind, name, removed, tuple(item for item in new if item not in old), note)


def _edges(family: Family) -> tuple[str, ...]:
    return tuple(f"{edge:g}" for edge in family.buckets)


def losses(
    expressions: Iterable[Expression], old: Catalog, new: Catalog
) -> tuple[tuple[Loss, ...], tuple[Expression, ...]]:
    """What these expressions lose from `old` to `new`, and those that are no PromQL.

    A selector is lost if the old version has what it asks for and the new one does not: the name, a label
    that it matches, the value, or the bucket. What neither version knows is not judged here.
    """
    lost: list[Loss] = []
    broken: list[Expression] = []
    for expression in expressions:
        try:
            found = selectors(grafana_substitute(expression.text))
        except PromQLError:
            broken.append(expression)
            continue
        for selector in dict.fromkeys(found):
            if told := _loss(selector, old, new):
                reason, hint = told
                lost.append(Loss(expression.item, selector.text, reason, hint, expression.origin))
    return tuple(dict.fromkeys(lost)), tuple(broken)


def _loss(selector: Selector, old: Catalog, new: Catalog) -> tuple[str, str] | None:
    """Why a selector finds nothing any more and what to do, or None."""
    if not selector.name:
        return _pattern_loss(selector, old, new)
    before, after = old.family_of(selector.name), new.family_of(selector.name)
    if before is None:
        fate = fates(new.engine).get(_family_name(selector.name, fates(new.engine)), None)
        if fate is None or after is not None:
            return None
        return f"{selector.name} is gone", _advice(fate.new or fate.instead)
    if after is None:
        base = before.name
        name, _ = successor(base, new)
        if name:
            return f"{selector.name} was renamed", f"use {name}{selector.name.removeprefix(base)}"
        return f"{selector.name} is gone", _advice(fates(new.engine).get(base, Fate()).instead)
    if before.type != after.type:
        return f"{after.name} was a {before.type} and is a {after.type}", "rewrite the expression"
    if after.needs and not before.needs:
        return f"{selector.name} is not exported by default any more", f"it needs {after.needs}"
    return next((told for m in selector.matchers if (told := _matcher_loss(m, before, after))), None)


def _advice(instead: str) -> str:
    return f"use {instead}" if instead else "nothing replaces it"


def _family_name(series: str, known: Mapping[str, Fate]) -> str:
    """The family of a series that no catalog has, by what the table of renames knows."""
    for suffix in ("", "_bucket", "_sum", "_count"):
        base = series.removesuffix(suffix)
        if base in known:
            return base
    return series


def _pattern_loss(selector: Selector, old: Catalog, new: Catalog) -> tuple[str, str] | None:
    """A selector by a pattern of names is lost if nothing in the new version has such a name."""
    for matcher in (m for m in selector.matchers if m.name == "__name__" and m.op == "=~"):
        if _any_accepted(matcher, old.series) and not _any_accepted(matcher, new.series):
            return f"no name fits {matcher.value} any more", "name the families"
    return None


def _matcher_loss(matcher: Matcher, before: Family, after: Family) -> tuple[str, str] | None:
    label = matcher.name
    if label == "le" and before.buckets and after.buckets:
        had = any(_any_accepted(matcher, _spellings(edge)) for edge in before.buckets)
        has = any(_any_accepted(matcher, _spellings(edge)) for edge in after.buckets)
        if had and not has and not _accepts(matcher, "+Inf"):
            return (
                f"{after.name} has no bucket {matcher.value} any more",
                f"edges: {', '.join(_edges(after))}",
            )
        return None
    if label in before.labels and label not in after.labels and not _accepts(matcher, ""):
        return f"{after.name} has no label {label} any more", f"labels: {', '.join(after.labels) or 'none'}"
    old, new = before.values.get(label, ()), after.values.get(label, ())
    if new and _any_accepted(matcher, old) and not _any_accepted(matcher, new):
        return f"{after.name} has no {label} {matcher.value!r} any more", f"values: {', '.join(new)}"
    return None


def _any_accepted(matcher: Matcher, values: Iterable[str]) -> bool:
    return any(_accepts(matcher, value) for value in values)


def _spellings(edge: float) -> tuple[str, ...]:
    """How an edge is written on the wire: `1.0` by Python's client, `1` by others and by Prometheus 3."""
    return (f"{edge:g}", repr(edge))


def _accepts(matcher: Matcher, value: str) -> bool:
    match matcher.op:
        case "=":
            return value == matcher.value
        case "!=":
            return value != matcher.value
        case _:
            try:
                hit = re.fullmatch(matcher.value, value) is not None
            except re.error:  # RE2 knows things that Python does not: then it is not for us to judge
                return True
            return hit == (matcher.op == "=~")
