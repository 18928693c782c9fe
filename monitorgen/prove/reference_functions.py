"""Functions and aggregations of the reference evaluator, as Prometheus defines them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from monitorgen.prove.reference_series import NAME, LabelSet, Unsupported, Vector, collect, drop, keep


@dataclass(frozen=True, slots=True)
class Window:
    """A series' samples (milliseconds, value) in a range; `start` and `end` are its edges in milliseconds."""

    labels: LabelSet
    samples: Sequence[tuple[int, float]]
    start: int
    end: int

    @property
    def values(self) -> list[float]:
        """The values, in order of time."""
        return [value for _, value in self.samples]


def extrapolated(window: Window, counter: bool, per_second: bool, *, zero_first: bool) -> float | None:
    """rate, increase and delta: the growth between the samples, stretched to the window's edges.

    The stretch ends where samples are missing, and a counter's before it would be negative. `zero_first` is
    Prometheus 2.42, which asks for the counter's zero before it looks whether samples are missing.
    """
    samples = window.samples
    if len(samples) < 2:
        return None
    (first_t, first), (last_t, last) = samples[0], samples[-1]
    growth = last - first
    if counter:
        for (_, before), (_, value) in pairwise(samples):
            if value < before:
                growth += before
    to_start, to_end = (first_t - window.start) / 1000, (window.end - last_t) / 1000
    sampled = (last_t - first_t) / 1000
    average = sampled / (len(samples) - 1)
    threshold = average * 1.1
    to_zero = math.inf
    if counter and growth > 0 and first >= 0:
        to_zero = sampled * (first / growth)
    if zero_first:
        to_start = min(to_start, to_zero)
        to_start = average / 2 if to_start >= threshold else to_start
    else:
        to_start = average / 2 if to_start >= threshold else to_start
        to_start = min(to_start, to_zero)
    to_end = average / 2 if to_end >= threshold else to_end
    factor = (sampled + to_start + to_end) / sampled
    if per_second:
        factor /= (window.end - window.start) / 1000
    return growth * factor


def instant_difference(window: Window, rate: bool) -> float | None:
    """irate and idelta: from the last two samples only."""
    if len(window.samples) < 2:
        return None
    (before_t, before), (last_t, last) = window.samples[-2:]
    growth = last if rate and last < before else last - before
    return growth / ((last_t - before_t) / 1000) if rate else growth


def total(values: Iterable[float]) -> float:
    """A sum that does not depend on the order."""
    listed = list(values)
    return math.fsum(listed) if all(map(math.isfinite, listed)) else sum(listed)


def average(values: Sequence[float]) -> float:
    """The mean."""
    return total(values) / len(values)


def variance(values: Sequence[float]) -> float:
    """The population variance."""
    if not all(map(math.isfinite, values)):
        return math.nan
    mean = average(values)
    return total((value - mean) ** 2 for value in values) / len(values)


def least(values: Sequence[float]) -> float:
    """The minimum; NaN only where there is nothing else."""
    return min((value for value in values if not math.isnan(value)), default=math.nan)


def greatest(values: Sequence[float]) -> float:
    """The maximum; NaN only where there is nothing else."""
    return max((value for value in values if not math.isnan(value)), default=math.nan)


def quantile(q: float, values: Iterable[float], nudge: float = 0.0) -> float:
    """The q-quantile, interpolated; NaN sorts first. `nudge` shifts the rank, to see if it matters."""
    ordered = sorted(values, key=lambda value: (not math.isnan(value), 0.0 if math.isnan(value) else value))
    if not ordered or math.isnan(q):
        return math.nan
    if not 0 <= q <= 1:
        return math.inf if q > 1 else -math.inf
    rank = min(q * (len(ordered) - 1) * (1 + nudge), len(ordered) - 1)
    lower = math.floor(rank)
    upper = min(len(ordered) - 1, lower + 1)
    weight = rank - lower
    return ordered[lower] * (1 - weight) + ordered[upper] * weight


def _changes(values: Sequence[float]) -> float:
    pairs = pairwise(values)
    return float(sum(a != b and not (math.isnan(a) and math.isnan(b)) for a, b in pairs))


OVER_TIME: Mapping[str, Callable[[Sequence[float]], float]] = {
    "avg_over_time": average,
    "changes": _changes,
    "count_over_time": lambda values: float(len(values)),
    "last_over_time": lambda values: values[-1],
    "max_over_time": greatest,
    "min_over_time": least,
    "present_over_time": lambda values: 1.0,
    "resets": lambda values: float(sum(b < a for a, b in pairwise(values))),
    "stddev_over_time": lambda values: math.sqrt(variance(values)),
    "stdvar_over_time": variance,
    "sum_over_time": total,
}


def _or_nan(function: Callable[[float], float]) -> Callable[[float], float]:
    """Go's mathematics gives NaN or infinity where Python raises."""

    def guarded(value: float) -> float:
        try:
            return function(value)
        except ValueError:
            return math.nan
        except OverflowError:
            return math.inf

    return guarded


def _logarithm(function: Callable[[float], float]) -> Callable[[float], float]:
    guarded = _or_nan(function)
    return lambda value: -math.inf if value == 0 else guarded(value)


def _whole(function: Callable[[float], int]) -> Callable[[float], float]:
    return lambda value: float(function(value)) if math.isfinite(value) else value


def _round(value: float, to: float = 1.0) -> float:
    inverse = divide(1.0, to)
    scaled = value * inverse + 0.5
    return divide(float(math.floor(scaled)) if math.isfinite(scaled) else scaled, inverse)


def _larger(value: float, bound: float) -> float:
    return math.nan if math.isnan(value) or math.isnan(bound) else max(value, bound)


def _smaller(value: float, bound: float) -> float:
    return math.nan if math.isnan(value) or math.isnan(bound) else min(value, bound)


def divide(left: float, right: float) -> float:
    """Division as floats have it: by zero gives an infinity, or NaN."""
    if right:
        return left / right
    if not left or math.isnan(left):
        return math.nan
    return math.copysign(math.inf, left) * math.copysign(1.0, right)


ELEMENTWISE: Mapping[str, Callable[..., float]] = {
    "abs": abs,
    "ceil": _whole(math.ceil),
    "clamp": lambda value, low, high: _larger(_smaller(value, high), low),
    "clamp_max": _smaller,
    "clamp_min": _larger,
    "deg": math.degrees,
    "exp": _or_nan(math.exp),
    "floor": _whole(math.floor),
    "ln": _logarithm(math.log),
    "log10": _logarithm(math.log10),
    "log2": _logarithm(math.log2),
    "rad": math.radians,
    "round": _round,
    "sgn": lambda value: value if math.isnan(value) or value == 0 else math.copysign(1.0, value),
    "sqrt": _or_nan(math.sqrt),
}

_AGGREGATIONS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "avg": average,
    "count": lambda values: float(len(values)),
    "group": lambda values: 1.0,
    "max": greatest,
    "min": least,
    "stddev": lambda values: math.sqrt(variance(values)),
    "stdvar": variance,
    "sum": total,
}


def aggregate(
    name: str, vector: Vector, parameter: float, labels: Sequence[str], without: bool, nudge: float = 0.0
) -> Vector:
    """An aggregation over groups: by `labels`, or by all labels without them."""
    groups: dict[LabelSet, list[tuple[LabelSet, float]]] = {}
    for series, value in vector.items():
        group = drop(series, NAME, *labels) if without else keep(series, labels)
        groups.setdefault(group, []).append((series, value))
    if name in ("topk", "bottomk"):
        return {s: v for members in groups.values() for s, v in _extreme(members, parameter, name == "topk")}
    if name == "quantile":
        return {
            group: quantile(parameter, (v for _, v in members), nudge) for group, members in groups.items()
        }
    if name not in _AGGREGATIONS:
        raise Unsupported(f"aggregation {name}")
    function = _AGGREGATIONS[name]
    return {group: function([value for _, value in members]) for group, members in groups.items()}


def _extreme(
    members: list[tuple[LabelSet, float]], count: float, largest: bool
) -> list[tuple[LabelSet, float]]:
    """The k largest or smallest; NaN only where nothing else is left."""
    if math.isnan(count):
        raise Unsupported("topk of NaN series")
    size = max(0, min(int(count), len(members)))
    sign = -1 if largest else 1
    ordered = sorted(members, key=lambda pair: (math.isnan(pair[1]), sign * pair[1]))
    if 0 < size < len(ordered) and (
        ordered[size - 1][1] == ordered[size][1] or math.isnan(ordered[size][1] + ordered[size - 1][1])
    ):
        raise Unsupported("topk or bottomk between equal values: which one is kept is not defined")
    return ordered[:size]


def histogram_quantile(q: float, vector: Vector, nudge: float = 0.0) -> Vector:
    """The q-quantile of classic histograms: cumulative buckets, told apart by the label `le`."""
    histograms: dict[LabelSet, dict[float, float]] = {}
    for labels, count in vector.items():
        edge = _edge(dict(labels).get("le", ""))
        if edge is None:
            continue
        buckets = histograms.setdefault(drop(labels, NAME, "le"), {})
        buckets[edge] = buckets.get(edge, 0.0) + count
    return collect((labels, _bucket_quantile(q, buckets, nudge)) for labels, buckets in histograms.items())


def _edge(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _bucket_quantile(q: float, buckets: Mapping[float, float], nudge: float) -> float:
    if math.isnan(q):
        return math.nan
    if not 0 <= q <= 1:
        return math.inf if q > 1 else -math.inf
    edges = sorted(buckets)
    if edges[-1] != math.inf or len(edges) < 2:
        return math.nan
    counts: list[float] = []
    for edge in edges:
        if math.isnan(buckets[edge]):
            raise Unsupported("a histogram whose bucket counts are NaN")
        counts.append(max(buckets[edge], counts[-1]) if counts else buckets[edge])
    if counts[-1] == 0:
        return math.nan
    rank = q * counts[-1] * (1 + nudge)
    index = next((i for i, count in enumerate(counts[:-1]) if count >= rank), len(edges) - 1)
    if index == len(edges) - 1:
        return edges[-2]
    if index == 0 and edges[0] <= 0:
        return edges[0]
    low, below = (edges[index - 1], counts[index - 1]) if index else (0.0, 0.0)
    return low + (edges[index] - low) * divide(rank - below, counts[index] - below)
