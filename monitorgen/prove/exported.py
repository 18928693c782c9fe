"""What the watched servers export, and why an expression finds nothing there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import promql_parser as ast

from monitorgen import catalog, promql

NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Exported:
    """What a Prometheus got from its targets: names of series, and of the families declared.

    `recorded` maps a recorded name to the expressions that make it, so that a missing family is found behind
    any number of recording rules.
    """

    series: frozenset[str]
    declared: frozenset[str]
    recorded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def lacking(self, expr: str) -> frozenset[str]:
        """The names of the series whose absence leaves the expression empty; none if it could have data.

        Of `a or b` both must be missing, of `a unless b` only `a` counts, `absent(a)` wants nothing.
        Raises `PromQLError` for an expression that does not parse.
        """
        return self._lacking(promql.tree(expr).root, ())

    def _lacking(self, node: promql.Node, path: tuple[str, ...]) -> frozenset[str]:
        expr = node.expr
        if isinstance(expr, ast.VectorSelector | ast.MatrixSelector):
            return self._missing(_vector(expr).name or "", path)
        if isinstance(expr, ast.Call) and expr.func.name in ("absent", "absent_over_time"):
            return NOTHING
        parts = [self._lacking(child, path) for child in node.children]
        if isinstance(expr, ast.BinaryExpr):
            operator = str(expr.op)
            if operator == "unless":
                return parts[0]
            if operator == "or" and not all(parts):
                return NOTHING
        return NOTHING.union(*parts)

    def _missing(self, name: str, path: tuple[str, ...]) -> frozenset[str]:
        if not name or name in path:
            return NOTHING
        if name in self.recorded:
            behind = [self._lacking(promql.tree(expr).root, (*path, name)) for expr in self.recorded[name]]
            return NOTHING.union(*behind) if all(behind) else NOTHING
        return NOTHING if name in self.series else frozenset({name})

    def reason(self, names: Iterable[str], engine: str = "") -> str:
        """One sentence for people: which series are not exported, and what would make them appear."""
        return "; ".join(self._reason(name, engine) for name in sorted(names))

    def _reason(self, name: str, engine: str) -> str:
        if {name, *_bases(name)} & self.declared:
            return f"{name} is declared but has no series yet: none of what it counts has happened"
        known = whereabouts(name)
        return f"{name} is not exported by this server" + (f": {known}" if known else "")


def selectors_without_series(expr: str, count: Callable[[str], int]) -> tuple[str, ...]:
    """The selectors of an expression that match nothing; `count` tells how many series a selector has."""
    return tuple(text for text in vectors(expr) if not count(text))


def vectors(expr: str) -> tuple[str, ...]:
    """The instant selectors of an expression, each once; of ranges, without the range."""

    def leaves(node: promql.Node) -> Iterable[str]:
        if isinstance(node.expr, ast.VectorSelector | ast.MatrixSelector):
            yield _vector(node.expr).prettify()
        for child in node.children:
            yield from leaves(child)

    return tuple(dict.fromkeys(leaves(promql.tree(expr).root)))


@lru_cache(maxsize=1024)
def whereabouts(series: str) -> str:
    """Where a series is to be had, as the catalogs know it: the engine, its versions, the flag it needs."""
    for engine in catalog.engines():
        versions = catalog.versions(engine)
        families = {version: catalog.load(engine, version).family_of(series) for version in versions}
        having = [version for version, family in families.items() if family]
        if having:
            newest = families[having[-1]]
            needs = newest.needs if newest and having[-1] == versions[-1] else ""
            return _span(engine, versions, having) + (f" (needs {needs})" if needs else "")
    return ""


def _span(engine: str, versions: Sequence[str], having: Sequence[str]) -> str:
    """Which versions of an engine have a family, as words."""
    if len(having) == len(versions):
        return f"{engine} exports it"
    if having[-1] == versions[-1]:
        return f"{engine} has it from {having[0]} on"
    until = f"until {having[-1]}"
    return (
        f"{engine} had it {until}"
        if having[0] == versions[0]
        else f"{engine} had it from {having[0]} {until}"
    )


def _bases(series: str) -> frozenset[str]:
    """The family names that a series of a histogram or a counter may belong to."""
    return frozenset(
        series.removesuffix(end)
        for end in ("_bucket", "_sum", "_count", "_total", "_created")
        if series.endswith(end)
    )


def _vector(expr: ast.Expr) -> ast.VectorSelector:
    selector = expr.vector_selector if isinstance(expr, ast.MatrixSelector) else expr
    assert isinstance(selector, ast.VectorSelector)
    return selector
