"""From a profile's signals and the catalogs to plans: which families are read, and what is recorded of them.

A plan is what the rules, the dashboards and the proofs derive from. The proofs compute expected values
from the plan's meaning (families, quantile, window), never from the PromQL that was made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, TypeAlias

from monitorgen.bundle import Origin
from monitorgen.catalog import Catalog, Family, nearest
from monitorgen.catalog.units import UNITS, per_second
from monitorgen.errors import InputError
from monitorgen.profile import Count, Loaded, Ratio, Signal, parse_seconds
from monitorgen.profile.legacy import METRIC_KEYS

Kind: TypeAlias = Literal["histogram", "counter", "gauge", "ratio", "expr"]
Catalogs: TypeAlias = Mapping[str, tuple[Catalog, ...]]

# The origin of a key path below a signal.
Place: TypeAlias = Callable[..., Origin]

# Labels that every target has without any family declaring them.
TARGET_LABELS = ("job", "instance")
# (unit of the family, unit asked for) -> divisor
CONVERSIONS: dict[tuple[str, str], float] = {("bytes", "mebibytes"): 2.0**20, ("ratio", "percent"): 0.01}


@dataclass(frozen=True, slots=True)
class Source:
    """Families that mean the same over the versions, newest first, and the series of them that count."""

    families: tuple[Family, ...]
    where: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """One recorded series of a signal: `p90` of a histogram, the `rate` of a counter."""

    name: str
    record: str
    unit: str
    quantile: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A signal with everything that the catalogs say about it. `labels` are those that its series carry."""

    name: str
    kind: Kind
    spec: Signal
    engine: str
    unit: str
    window: float
    labels: tuple[str, ...]
    parts: tuple[Part, ...]
    source: Source | None = None
    of: Source | None = None
    to: tuple[Source, ...] = ()
    reduce: str = "max"
    divisor: float = 1.0
    expr: str = ""
    uses: tuple[str, ...] = ()
    recorded: bool = True
    origin: Origin = field(default_factory=Origin, compare=False)

    def part(self, name: str) -> Part | None:
        """The part of that name; the only one if `name` is empty."""
        if not name:
            return self.parts[0] if len(self.parts) == 1 else None
        return next((part for part in self.parts if part.name == name), None)

    @property
    def sources(self) -> Iterable[Source]:
        """All that the plan reads from families directly."""
        if self.source:
            yield self.source
        if self.of:
            yield self.of
        yield from self.to


class Resolver:
    """Finds families in the catalogs of the profile's engines."""

    def __init__(self, catalogs: Catalogs) -> None:
        self.catalogs = catalogs

    def find(self, name: str) -> tuple[str, Family] | None:
        """The engine and the newest version of a family; None where no version has it."""
        for engine, versions in self.catalogs.items():
            for catalog in reversed(versions):
                family = catalog.families.get(name)
                if family is not None:
                    return engine, family
        return None

    def source(self, names: list[str], where: Mapping[str, list[str]], place: Place) -> tuple[str, Source]:
        """The families of `names`, which must agree in type and unit. Raises InputError.

        `place` gives the origin of `family` and `where`, and of what stands in them.
        """
        found = []
        engine = ""
        for index, name in enumerate(names):
            hit = self.find(name)
            if hit is None:
                raise self.unknown(name, place("family", index))
            engine = engine or hit[0]
            found.append(hit[1])
        first = found[0]
        for other in found[1:]:
            if (other.type, other.unit) != (first.type, first.unit):
                raise InputError(
                    f"{other.name} is a {other.type} in {other.unit or 'no unit'}, "
                    f"{first.name} a {first.type} in {first.unit or 'no unit'}: one signal cannot read both",
                    origin=place("family"),
                )
        known = {label for family in found for label in family.labels} | set(TARGET_LABELS)
        for label in where:
            if label not in known:
                raise InputError(
                    f"{first.name} has no label {label!r}",
                    origin=place("where", label),
                    hint=f"it has {', '.join(sorted(known))}",
                )
        return engine, Source(tuple(found), tuple((k, tuple(v)) for k, v in sorted(where.items())))

    def unknown(self, name: str, origin: Origin) -> InputError:
        """What to say of a metric that no catalog knows: the nearest names, and how to make one known."""
        family = self._family_of(name)
        if family:
            hint = f"that is a series of the {self.find(family)[1].type} {family}: name that"  # type: ignore[index]
            return InputError(f"{name!r} is no family", origin=origin, hint=hint)
        engines = ", ".join(f"{e} {c[0].version} to {c[-1].version}" for e, c in self.catalogs.items() if c)
        message = f"no catalog knows the metric {name!r} ({engines})"
        return InputError(message, origin=origin, hint=self._near(name))

    def _near(self, name: str) -> str:
        catalogs = [c for versions in self.catalogs.values() for c in versions]
        families = [self._family_of(series) for series in nearest(name, catalogs, n=6)]
        near = list(dict.fromkeys(name for name in families if name))[:3]
        own = "record your own with `monitorgen catalog capture` and name it under catalogs:"
        return f"nearest: {', '.join(near)}; or {own}" if near else own

    def _family_of(self, series: str) -> str:
        """The family that a series belongs to: people name families, not `_bucket` or `_sum`."""
        for versions in self.catalogs.values():
            for catalog in reversed(versions):
                family = catalog.family_of(series)
                if family is not None:
                    return family.name
        return ""


def resolve_signals(loaded: Loaded, catalogs: Catalogs) -> tuple[dict[str, Plan], dict[str, str]]:
    """Plans of all signals that can be built, by name, and the reason of each that is dormant."""
    resolver = Resolver(catalogs)
    plans: dict[str, Plan] = {}
    dormant: dict[str, str] = {
        str(path[1]): "the profile removes it"
        for path in loaded.document.removed
        if path[0] == "signals" and len(path) == 2
    }
    for name, spec in loaded.profile.signals.items():
        if not (spec.family or spec.ratio or spec.expr):
            legacy = next((key for key, signal in METRIC_KEYS.items() if signal == name), name)
            dormant[name] = f"no engine exports a family for it; name one: metrics: {{{legacy}: ...}}"
            continue
        plans[name] = _plan(name, spec, loaded, resolver)
    return plans, dormant


def _plan(name: str, spec: Signal, loaded: Loaded, resolver: Resolver) -> Plan:
    origin = loaded.origin("signals", name)
    if spec.unit and spec.unit not in UNITS:
        raise InputError(
            f"unknown unit {spec.unit!r}",
            origin=loaded.origin("signals", name, "unit"),
            hint=f"known are {', '.join(UNITS)}",
        )
    if spec.record and resolver.find(spec.record) is not None:
        raise InputError(
            f"{spec.record} is a metric that an engine exports; no rule can record it",
            origin=loaded.origin("signals", name, "record"),
            hint="choose another name",
        )
    base = Plan(
        name=name,
        kind="expr",
        spec=spec,
        engine=spec.engine or next(iter(loaded.profile.engines), ""),
        unit=spec.unit,
        window=parse_seconds(spec.window),
        labels=(),
        parts=(),
        recorded=spec.recorded,
        origin=origin,
    )
    if spec.expr:
        # Labels, uses and the recorded name are found when it is rendered (see build.expressions).
        if not spec.unit:
            raise InputError(
                f"signals.{name} has an expr and needs a unit", origin=origin, hint="unit: seconds"
            )
        return base
    if spec.ratio:
        return _ratio(base, spec.ratio, loaded, resolver)
    place = partial(loaded.origin, "signals", name)
    engine, source = resolver.source(list(spec.family), spec.where, place)
    base = replace(
        base, engine=spec.engine or engine, source=source, labels=_labels(spec, loaded, [source], place)
    )
    return _completed(base, source.families[0], place)


def _completed(base: Plan, family: Family, place: Place) -> Plan:
    """What is recorded of a family, by its type."""
    spec = base.spec
    unit, divisor = family.unit, 1.0
    if spec.unit and spec.unit != family.unit:
        if (family.unit, spec.unit) not in CONVERSIONS:
            raise InputError(
                f"{family.name} is in {family.unit or 'no unit'}, not {spec.unit}", origin=place("unit")
            )
        unit, divisor = spec.unit, CONVERSIONS[family.unit, spec.unit]
    stem = _stem(base.name, base.engine, base.labels)
    if family.type == "histogram":
        _refuse(spec, ("reduce", "over"), "histogram", place)
        return replace(
            base,
            kind="histogram",
            unit=unit,
            parts=_quantiles(base, stem + _suffix(base.name, unit), unit, place),
        )
    if family.type == "counter":
        _refuse(spec, ("quantiles", "reduce", "over", "mean"), "counter", place)
        unit = per_second(unit)
        part = Part("rate", spec.record or f"{stem}:rate{spec.window}", unit)
        return replace(base, kind="counter", unit=unit, parts=(part,))
    if family.type not in ("gauge", "info"):
        raise InputError(
            f"{family.name} is a {family.type}; a signal reads histograms, counters and gauges",
            origin=place("family"),
        )
    _refuse(spec, ("quantiles", "mean"), "gauge", place)
    reduce = spec.reduce or "max"
    op = f"{reduce}_{spec.over}_{spec.window}" if spec.over else reduce
    part = Part(reduce, spec.record or f"{stem}{_suffix(base.name, unit)}:{op}", unit)
    return replace(base, kind="gauge", unit=unit, parts=(part,), reduce=reduce, divisor=divisor)


def _quantiles(base: Plan, stem: str, unit: str, place: Place) -> tuple[Part, ...]:
    spec = base.spec
    parts = [Part(f"p{percent(q)}", f"{stem}:p{percent(q)}_{spec.window}", unit, q) for q in spec.quantiles]
    if spec.mean:
        parts.append(Part("mean", f"{stem}:mean_{spec.window}", unit))
    if not parts:
        hint = "quantiles: [0.9]"
        raise InputError(
            f"signals.{base.name} reads a histogram: say which quantiles", origin=place("family"), hint=hint
        )
    if spec.record and len(parts) > 1:
        raise InputError(
            f"signals.{base.name} has several parts, which cannot share the name {spec.record}",
            origin=place("record"),
        )
    return (replace(parts[0], record=spec.record),) if spec.record else tuple(parts)


def _ratio(base: Plan, ratio: Ratio, loaded: Loaded, resolver: Resolver) -> Plan:
    spec = base.spec
    place = partial(loaded.origin, "signals", base.name)
    _refuse(spec, ("quantiles", "reduce", "over", "mean", "where"), "ratio", place)

    def counted(count: Count, *path: str | int) -> tuple[str, Source]:
        at = partial(place, "ratio", *path)
        engine, source = resolver.source(list(count.family), count.where, at)
        family = source.families[0]
        if family.type != "counter":
            raise InputError(f"{family.name} is a {family.type}; a ratio counts", origin=at("family"))
        return engine, source

    engine, of = counted(ratio.of, "of")
    if isinstance(ratio.to, list):
        to = tuple(counted(count, "to", number)[1] for number, count in enumerate(ratio.to))
    else:
        to = (counted(ratio.to, "to")[1],)
    engine = spec.engine or engine
    labels = _labels(spec, loaded, [of, *to], place)
    stem = _stem(base.name, engine, labels) + _suffix(base.name, "ratio")
    part = Part("ratio", spec.record or f"{stem}:ratio_rate{spec.window}", "ratio")
    return replace(
        base, kind="ratio", engine=engine, unit="ratio", labels=labels, parts=(part,), of=of, to=to
    )


def _labels(spec: Signal, loaded: Loaded, sources: list[Source], place: Place) -> tuple[str, ...]:
    """The labels that are kept, of those that every source's families have."""
    wanted = [
        *loaded.profile.labels.keep,
        *(label for label in spec.by if label not in loaded.profile.labels.keep),
    ]
    target = {*TARGET_LABELS, *loaded.profile.labels.target}
    have = [{label for family in source.families for label in family.labels} for source in sources]
    for number, label in enumerate(spec.by):
        if label not in target and not all(label in labels for labels in have):
            names = ", ".join(family.name for source in sources for family in source.families)
            raise InputError(
                f"by: no label {label!r} on {names}",
                origin=place("by", number),
                hint=f"there is {', '.join(sorted(target.union(*have)))}",
            )
    return tuple(label for label in wanted if label in target or all(label in labels for labels in have))


def _refuse(spec: Signal, keys: Iterable[str], kind: str, place: Place) -> None:
    for key in keys:
        if getattr(spec, key):
            raise InputError(f"{key} does not fit a {kind}", origin=place(key), hint="take it out")


def level(labels: Iterable[str]) -> str:
    """The level of a recorded name: `model` where series are per model, else the finest of what is kept."""
    names = list(labels)
    base = "model" if "model_name" in names else "instance" if "instance" in names else "job"
    extra = [n for n in names if n not in ("job", "instance", "model_name", "cluster", "namespace", "pod")]
    return "_".join([base, *extra])


def _stem(name: str, engine: str, labels: Iterable[str]) -> str:
    return f"{level(labels)}:{engine}_{name}"


def _suffix(name: str, unit: str) -> str:
    suffix = UNITS[unit].suffix if unit in UNITS else ""
    return f"_{suffix}" if suffix and not name.endswith(suffix) else ""


def percent(quantile: float) -> str:
    """0.9 -> "90", 0.999 -> "999", as in p90 and p999."""
    text = f"{quantile:.10f}".split(".")[1].rstrip("0")
    return text.ljust(2, "0")
