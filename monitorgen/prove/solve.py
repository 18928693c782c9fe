"""From a wanted value of a signal to drives of the families that it reads.

This is the inverse of `meaning`: which counters, gauges and histograms make `failed` read 5.1%? Expressions
over signals are solved by bisection on one of them; expressions over raw families by trying a few moves
(vanish, 0, 1, toggle) and asking the reference evaluator what they do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

from monitorgen.build import Plan
from monitorgen.build.conditions import Condition
from monitorgen.build.plan import Source
from monitorgen.catalog import Catalog, Family
from monitorgen.catalog.units import UNITS
from monitorgen.promql import selectors
from monitorgen.prove.world import Counter, Drive, Gauge, Gone, Histogram

# How far from the threshold "just above" and "just under" are: a change of a threshold by more is noticed.
MARGIN = 0.02
CALM_RATE = 10.0


class CannotProvokeError(Exception):
    """No drive was found that brings a signal to the wanted value; the text says why."""


Drives: TypeAlias = dict[str, Drive]


def family_names(
    plan: Plan, plans: Mapping[str, Plan], catalogs: Mapping[str, tuple[Catalog, ...]]
) -> list[Family]:
    """All families that a plan reads, raw ones in expressions included."""
    found = {family.name: family for source in plan.sources for family in source.families}
    if plan.kind == "expr":
        records = {part.record for use in plan.uses for part in plans[use].parts}
        for sel in selectors(plan.expr):
            if sel.name in records:
                continue
            hit = next(
                (f for cs in catalogs.values() for c in reversed(cs) if (f := c.family_of(sel.name))), None
            )
            if hit is not None:
                found[hit.name] = hit
        for use in plan.uses:
            found.update({family.name: family for family in family_names(plans[use], plans, catalogs)})
    return list(found.values())


def calm_drive(family: Family) -> Drive:
    """What a family does when nothing happens."""
    if family.type == "counter":
        return Counter(CALM_RATE)
    if family.type == "histogram":
        edge = family.edges[min(2, len(family.edges) - 1)]
        return Histogram(CALM_RATE, 0.5, edge * 0.75)
    return Gauge({"ratio": 0.25, "bool": 1.0, "bytes": 2.0**28}.get(family.unit, 2.0))


def idle_drive(family: Family) -> Drive:
    """What a family does while nobody sends a request."""
    if family.type == "counter":
        return Counter(0.0)
    if family.type == "histogram":
        return Histogram(0.0, 0.5, family.edges[min(2, len(family.edges) - 1)] * 0.75)
    return Gauge(0.0)


def beyond(condition: Condition) -> float:
    """A value just over the threshold, where the condition holds."""
    return _near(condition, 1)


def short_of(condition: Condition) -> float:
    """A value just under the threshold, where the condition does not hold."""
    return _near(condition, -1)


def far_from(condition: Condition) -> float:
    """A value well away from the threshold, on its calm side."""
    low, high = _limits(condition)
    value = condition.value
    if condition.op in (">", ">="):
        return low + (value - low) / 2
    return value + (min(high, value * 3 + 1) - value) / 2


def _limits(condition: Condition) -> tuple[float, float]:
    unit = UNITS.get(condition.part.unit)
    high = unit.high if unit else float("inf")
    plan = condition.plan
    if plan.kind == "histogram" and condition.part.quantile is not None and plan.source:
        high = plan.source.families[0].edges[-1]
    return 0.0, high


def _near(condition: Condition, sign: int) -> float:
    low, high = _limits(condition)
    value = condition.value
    direction = sign if condition.op in (">", ">=") else -sign
    if condition.op in ("==", "!="):
        direction = 0 if (condition.op == "==") == (sign > 0) else 1
    wanted = value * (1 + MARGIN * direction) if value else float(max(direction, 0))
    if wanted >= high and value < high:
        wanted = (value + high) / 2
    if (direction > 0 and not wanted > value) or wanted < low or wanted > high:
        raise CannotProvokeError(
            f"{condition.plan.name}.{condition.part.name} lies between {low:g} and {high:g}: it cannot "
            f"be {'above' if direction > 0 else 'below'} {condition.text}"
        )
    return wanted


def solve(
    condition: Condition, wanted: float, drives: Drives, plans: Mapping[str, Plan], side: int = 0
) -> Drives:
    """Drives under which the condition's signal reads `wanted`, keeping what `drives` already says."""
    return _solve(condition.plan, condition.part.name, wanted, drives, plans, side)


def _solve(
    plan: Plan, part_name: str, wanted: float, drives: Drives, plans: Mapping[str, Plan], side: int
) -> Drives:
    part = plan.part(part_name) or plan.parts[0]
    if plan.kind == "ratio":
        return _solve_ratio(plan, wanted, drives, side)
    if plan.kind == "expr":
        return _solve_expression(plan, wanted, drives, plans, side)
    assert plan.source is not None
    family = _of_side(plan.source, side)
    if plan.kind == "counter":
        new: Drive = Counter(wanted, plan.source.where) if plan.source.where else Counter(wanted)
    elif plan.kind == "gauge":
        new = Gauge(wanted * plan.divisor, plan.source.where)
    elif part.quantile is None:
        new = Histogram(CALM_RATE, 0.5, family.edges[0] / 2, mean=wanted)
    else:
        if not 0 < wanted < family.edges[-1]:
            raise CannotProvokeError(f"the buckets of {family.name} end at {family.edges[-1]:g}")
        new = Histogram(CALM_RATE, part.quantile, wanted)
    return {**drives, family.name: new}


def _of_side(source: Source, side: int) -> Family:
    return source.families[min(side, len(source.families) - 1)]


def _solve_ratio(plan: Plan, wanted: float, drives: Drives, side: int) -> Drives:
    assert plan.of is not None
    of = _of_side(plan.of, side)
    others = [source for source in plan.to if _of_side(source, side).name != of.name]
    same = [source for source in plan.to if _of_side(source, side).name == of.name]
    if wanted > 1 or (wanted == 1 and others and same):
        raise CannotProvokeError(f"{plan.name} is a share: it cannot be {wanted:g}")
    result = dict(drives)
    if same and not others:
        total = _rate(drives.get(of.name))
        result[of.name] = Counter(total, plan.of.where, wanted)
        return result
    rest = 0.0
    for source in others:
        family = _of_side(source, side)
        result.setdefault(family.name, Counter(CALM_RATE))
        rest += _rate(result[family.name])
    # of / (of + rest) = wanted, or of / rest = wanted where the total does not hold what is counted.
    rate = wanted * rest / (1 - wanted) if same else wanted * rest
    result[of.name] = Counter(rate, plan.of.where, 1.0)
    return result


def _rate(drive: Drive | None) -> float:
    return drive.rate if isinstance(drive, Counter) else CALM_RATE


def _solve_expression(
    plan: Plan, wanted: float, drives: Drives, plans: Mapping[str, Plan], side: int
) -> Drives:
    """Bisect on one of the signals that the expression uses, the others as they are."""
    from monitorgen.prove.steady import steady_value

    if not plan.uses:
        raise CannotProvokeError(f"{plan.name} reads families directly")
    read = {sel.name for sel in selectors(plan.expr)}
    for use in plan.uses:
        leaf = plans[use]
        # A histogram's mean can be wanted beside its quantiles; what is not recorded stands there inlined.
        for part in [part for part in leaf.parts if part.record in read] or leaf.parts[:1]:

            def attempt(x: float, leaf: Plan = leaf, name: str = part.name) -> tuple[float | None, Drives]:
                try:
                    solved = _solve(leaf, name, x, drives, plans, side)
                except CannotProvokeError:
                    return None, drives
                return steady_value(plan, solved, plans, side), solved

            found = _bisect(attempt, wanted)
            if found is not None:
                return found
    raise CannotProvokeError(f"no value of {', '.join(plan.uses)} brings {plan.name} to {wanted:g}")


Attempt: TypeAlias = Callable[[float], tuple[float | None, Drives]]  # x -> what the signal reads, and by what


def _bisect(attempt: Attempt, wanted: float) -> Drives | None:
    """Drives under which an attempt reads `wanted`; None where no two powers of ten enclose it."""
    previous: tuple[float, float] | None = None
    for x in (0.0, *(10.0**k for k in range(-4, 9))):
        y, _ = attempt(x)
        if y is None:
            previous = None
            continue
        if previous is not None and min(previous[1], y) <= wanted <= max(previous[1], y) and previous[1] != y:
            return _between(attempt, wanted, previous, (x, y))
        previous = (x, y)
    return None


def _between(
    attempt: Attempt, wanted: float, low: tuple[float, float], high: tuple[float, float]
) -> Drives | None:
    """Narrow two points (x, y) down to `wanted`.

    Most expressions are linear in one signal: the straight line hits at once. Halving helps with the rest.
    """
    for turn in range(60):
        straight = low[0] + (wanted - low[1]) * (high[0] - low[0]) / (high[1] - low[1])
        middle = straight if turn % 2 == 0 else (low[0] + high[0]) / 2
        value, drives = attempt(middle)
        if value is None:
            return None
        if abs(value - wanted) <= 1e-6 * abs(wanted):
            return drives
        if (value < wanted) == (low[1] < wanted):
            low = (middle, value)
        else:
            high = (middle, value)
    return attempt((low[0] + high[0]) / 2)[1]


def moves(families: Iterable[Family]) -> Iterator[Drives]:
    """Things that can happen to raw families: one of them at a time, then two."""
    families = list(families)

    def of(family: Family) -> list[Drive]:
        if family.type == "counter":
            return [Gone(), Counter(0.0), Counter(1.0), Counter(100.0)]
        if family.type == "histogram":
            return [Gone(), Histogram(0.0, 0.5, family.edges[0] / 2)]
        return [Gone(), Gauge(0.0), Gauge(1.0), Gauge(1.0, toggle=True), Gauge(100.0), Gauge(1e6)]

    for family in families:
        for drive in of(family):
            yield {family.name: drive}
    for number, first in enumerate(families):
        for second in families[number + 1 :]:
            for a in of(first):
                for b in of(second):
                    yield {first.name: a, second.name: b}
