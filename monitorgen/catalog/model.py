"""What is known about an engine's metrics: families, and the catalog that holds those of one version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

FamilyType: TypeAlias = Literal["counter", "gauge", "histogram", "summary", "info", "unknown"]
FamilyOrigin: TypeAlias = Literal["wire", "source", "neighbour", "declared"]

FAMILY_TYPES: tuple[str, ...] = get_args(FamilyType)
FAMILY_ORIGINS: tuple[str, ...] = get_args(FamilyOrigin)

_NOTHING: Mapping[str, tuple[str, ...]] = MappingProxyType({})


def _nothing() -> Mapping[str, tuple[str, ...]]:
    return _NOTHING


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family, named as PromQL selects it: counters with their suffix, histograms by base name.

    `unit` is a key of `units.UNITS`, or empty where none fits. `labels` are the engine's own, sorted, without
    `le` and `quantile` and without what a scrape adds (job, instance). `values` holds the values seen of
    labels that can be enumerated; a summary has `quantile` there only if it exposes quantiles. `buckets` are
    the finite upper edges, ascending.

    `origin` says how we know: `wire` (seen in a scrape), `source` (read in the engine's source), `neighbour`
    (inferred: the recorded versions before and after have it), `declared` (ours, or fixed by a
    specification). `needs` is the flag or condition without which the family is missing or stays 0; empty:
    always exported. `grows` says that the recorded edges are those of one model length (see `edges`).
    """

    name: str
    type: FamilyType = "unknown"
    unit: str = ""
    help: str = ""
    labels: tuple[str, ...] = ()
    values: Mapping[str, tuple[str, ...]] = field(default_factory=_nothing, hash=False)
    buckets: tuple[float, ...] = ()
    origin: FamilyOrigin = "wire"
    needs: str = ""
    created: bool = False
    grows: bool = False

    @property
    def edges(self) -> tuple[float, ...]:
        """The finite upper edges that a server may have.

        vLLM's histograms of tokens a request go up to `--max-model-len` in steps of 1, 2, 5 (`grows`); a
        recording shows only those of the model that was served. They are carried on to a million tokens.
        """
        if not self.grows or not self.buckets:
            return self.buckets
        steps = (float(digit * 10**power) for power in range(7) for digit in (1, 2, 5))
        return (*self.buckets, *(edge for edge in steps if self.buckets[-1] < edge <= 1e6))

    @property
    def series(self) -> tuple[str, ...]:
        """The names that PromQL can select, without `_created`."""
        if self.type == "histogram":
            return (f"{self.name}_bucket", f"{self.name}_sum", f"{self.name}_count")
        if self.type == "summary":
            own = (self.name,) if "quantile" in self.values else ()
            return (*own, f"{self.name}_sum", f"{self.name}_count")
        return (self.name,)

    @property
    def created_series(self) -> str:
        """The name of the gauge with the time of creation, or empty if the family exposes none."""
        base = self.name.removesuffix("_total") if self.type == "counter" else self.name
        return f"{base}_created" if self.created else ""


@dataclass(frozen=True)
class Catalog:
    """The families of one engine at one version. `recorded` says that we scraped that version ourselves."""

    engine: str
    version: str
    families: Mapping[str, Family] = field(hash=False)
    provenance: str = ""
    recorded: bool = False

    @property
    def reference(self) -> str:
        """How people name this catalog: `vllm@0.32.0`."""
        return f"{self.engine}@{self.version}"

    def family_of(self, series: str) -> Family | None:
        """The family that a series belongs to, or None.

        `x_bucket`, `x_sum` and `x_count` give the histogram or summary `x`; `x_created` a gauge of its own.
        The bare name of a histogram gives None, because no such series exists.
        """
        return self._by_series.get(series)

    @cached_property
    def series(self) -> tuple[str, ...]:
        """All names that PromQL can select, sorted."""
        return tuple(sorted(self._by_series))

    @cached_property
    def _by_series(self) -> dict[str, Family]:
        found = {name: family for family in self.families.values() for name in family.series}
        for family in self.families.values():
            if family.created_series:
                found.setdefault(family.created_series, _created(family))
        return found


def _created(family: Family) -> Family:
    return Family(
        name=family.created_series,
        type="gauge",
        unit="timestamp",
        help=f"When a series of {family.name} was created.",
        labels=family.labels,
        values={label: seen for label, seen in family.values.items() if label != "quantile"},
        origin=family.origin,
        needs=family.needs,
    )
