"""Lines over two logarithmic axes as SVG, without a library."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 860, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 290, 44, 48
COLOURS = ("#1f6fb4", "#b4441f", "#3a8f3a", "#7a4fa3", "#a3824f", "#2f8f8f", "#c2478b", "#5a5a5a")


@dataclass(frozen=True, slots=True)
class Line:
    """Points (x, y), all positive, joined in their order."""

    name: str
    points: tuple[tuple[float, float], ...]
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class _Axis:
    """Where values go: from `low` at pixel `start` to `high` at pixel `end`, by their logarithms."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The pixel of a value."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)


def log_plot(title: str, x_name: str, y_name: str, lines: Sequence[Line]) -> str:
    """A plot of lines with a legend. Raises ValueError for a value that is not positive."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    if not xs or min(*xs, *ys, 1) <= 0:
        raise ValueError("logarithmic axes need positive values")
    across = _Axis(*_span(xs), LEFT, WIDTH - RIGHT)
    up = _Axis(*_span(ys), HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="24" font-size="14" font-weight="bold">{escape(title)}</text>',
        *_grid(across, up),
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end" fill="#666">{escape(x_name)}</text>',
        f'<text x="{LEFT}" y="{TOP - 6}" text-anchor="end" fill="#666">{escape(y_name)}</text>',
    ]
    for number, line in enumerate(lines):
        parts += _line(line, number, across, up)
    return "\n".join([*parts, "</svg>", ""])


def ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten from `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [one * 10.0**power for power in powers for one in (1, 2, 5)]
    return [tick for tick in every if low * 0.999 <= tick <= high * 1.001]


def _span(values: Sequence[float]) -> tuple[float, float]:
    """A range around values, wide enough to have ticks."""
    low, high = min(values) / 1.15, max(values) * 1.15
    return (low, high) if high / low > 4 else (low / 1.5, high * 1.5)


def _grid(across: _Axis, up: _Axis) -> Iterator[str]:
    for tick in ticks(across.low, across.high):
        x = across.at(tick)
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{up.end}" y2="{up.start}" stroke="#ddd"/>'
        yield f'<text x="{x:.1f}" y="{up.start + 16}" text-anchor="middle" fill="#666">{tick:,g}</text>'
    for tick in ticks(up.low, up.high):
        y = up.at(tick)
        yield f'<line x1="{across.start}" x2="{across.end}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#666">{tick:,g}</text>'


def _line(line: Line, number: int, across: _Axis, up: _Axis) -> Iterator[str]:
    """A line, its dots, and its entry in the legend."""
    colour = COLOURS[number % len(COLOURS)]
    dash = ' stroke-dasharray="6 4"' if line.dashed else ""
    places = [(across.at(x), up.at(y)) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"{dash}/>'
    for x, y in places:
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
    x, y = WIDTH - RIGHT + 20, TOP + 10 + 18 * number
    yield f'<line x1="{x}" x2="{x + 22}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"{dash}/>'
    yield f'<text x="{x + 28}" y="{y + 4}">{escape(line.name)}</text>'
