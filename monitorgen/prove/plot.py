"""Numbers with their units as people read them, and small plots of series as SVG paths."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from monitorgen.catalog.units import UNITS

_SECONDS = ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_BINARY = ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"))
_DECIMAL = ((1e12, "T"), (1e9, "G"), (1e6, "M"))
_MEBI = 2.0**20
# Units that say nothing beside a number.
_SILENT = {"number", "info", "bool", ""}
_LONGEST_UNIT = 24  # what is longer is no unit that we know


def unit_name(unit: str) -> str:
    """The unit's own name, from that name or from Grafana's id; what neither knows stays as it is."""
    if unit in UNITS:
        return unit
    if unit in ("short", "none", "locale"):  # Grafana's ids for a mere number, whatever it counts
        return "number"
    preferred = (name for name, one in UNITS.items() if one.grafana[0] == unit)
    others = (name for name, one in UNITS.items() if unit in one.grafana)
    if unit == "cps":  # what is counted is not said
        return "1/s"
    return next(preferred, next(others, unit))


def format_value(value: float, unit: str) -> str:
    """A value as a person reads it: `52.1 ms`, `83.2 %`, `1.25 GiB`, `1,234 tokens/s`."""
    name = unit_name(unit)
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "-∞"
    if name in ("seconds", "milliseconds"):
        return _duration(value / (1000 if name == "milliseconds" else 1))
    if name in ("bytes", "bytes/s", "mebibytes"):
        scaled = _scaled(value * (_MEBI if name == "mebibytes" else 1), _BINARY, "B")
        return f"{scaled}/s" if name == "bytes/s" else scaled
    if name in ("ratio", "percent"):
        return f"{_digits(value * (100 if name == 'ratio' else 1))} %"
    if name == "timestamp" and 0 <= value < 1e11:
        return when_text(value)
    number = _scaled(value, _DECIMAL, "") if abs(value) >= 1e6 else _digits(value)
    if name in _SILENT or len(name) > _LONGEST_UNIT:
        return number
    return f"{number} {'/s' if name == '1/s' else name}"


def when_text(seconds: float) -> str:
    """A time since the epoch as `2026-01-31 12:00:00 UTC`; seconds where no calendar has it."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, OSError, ValueError):
        return f"{seconds:g} s"


def _duration(seconds: float) -> str:
    """Minutes and hours only where there are several of them: 78 s says more than 1.3 min."""
    for size, word in ((3600, "h"), (60, "min")):
        if abs(seconds) >= 2 * size:
            return f"{_digits(seconds / size)} {word}"
    return _scaled(seconds, _SECONDS, "s")


def _scaled(value: float, steps: Sequence[tuple[float, str]], base: str) -> str:
    for size, word in steps:
        if abs(value) >= size:
            return f"{_digits(value / size)} {word}"
    return f"{_digits(value)} {base}".strip()


def _digits(value: float) -> str:
    """Three significant digits, with separators for thousands and all digits before the point."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        return f"{value:.3g}"
    text = f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True, slots=True)
class Plot:
    """A series as an SVG path in a box of `width` by `height`, with the numbers that go beside it.

    `end` is where its last point lies; `seconds` is how long the series is.
    """

    path: str
    width: int
    height: int
    end: tuple[float, float]
    low: float
    high: float
    last: float
    seconds: float
    count: int


def plot(points: Sequence[tuple[float, float]], width: int, height: int, pad: int = 2) -> Plot | None:
    """The plot of a series, None where it has no two finite points. What is not finite is a gap.

    A series of more points than the box has room for keeps the least and the greatest value of each step.
    """
    known = sorted((p for p in points if math.isfinite(p[0])), key=lambda point: point[0])
    finite = [point for point in known if math.isfinite(point[1])]
    if len(finite) < 2 or finite[-1][0] == finite[0][0]:
        return None
    low, high = min(value for _, value in finite), max(value for _, value in finite)
    start, span = finite[0][0], finite[-1][0] - finite[0][0]
    half = high / 2 - low / 2  # halved first: the difference of two huge numbers may be infinite

    def place(at: float, value: float) -> tuple[float, float]:
        up = (value / 2 - low / 2) / half if half > 0 else 0.5
        return pad + (at - start) / span * (width - 2 * pad), pad + (1 - up) * (height - 2 * pad)

    path = ""
    pen_down = False
    for at, value in _thinned(known, width):
        if not math.isfinite(value):
            pen_down = False
            continue
        x, y = place(at, value)
        path += f"{'L' if pen_down else 'M'}{x:.1f} {y:.1f}"
        pen_down = True
    return Plot(path, width, height, place(*finite[-1]), low, high, finite[-1][1], span, len(finite))


def _thinned(points: Sequence[tuple[float, float]], most: int) -> Iterator[tuple[float, float]]:
    """At most about `most` points: of each step its least and greatest, in their order; gaps stay gaps."""
    if len(points) <= most:
        yield from points
        return
    size = math.ceil(2 * len(points) / most)
    for first in range(0, len(points), size):
        step = points[first : first + size]
        finite = [point for point in step if math.isfinite(point[1])]
        if len(finite) < len(step):
            yield step[0][0], math.nan
        ends = {min(finite, key=_value), max(finite, key=_value)} if finite else set()
        yield from sorted(ends)


def _value(point: tuple[float, float]) -> float:
    return point[1]
