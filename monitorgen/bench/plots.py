"""A picture of a target's samples as SVG: every sample a dot, the quartiles a band, the median a line."""

from __future__ import annotations

import math
from html import escape

from monitorgen.bench.result import Result

WIDTH, LEFT, RIGHT, ROW, TOP = 720, 130, 20, 64, 40
COLOURS = ("#b4441f", "#1f6fb4", "#3a8f3a", "#7a4fa3")


def samples_svg(result: Result) -> str:
    """One row an arm over a common axis of milliseconds that starts at 0."""
    most = max(max(arm.samples_ms) for arm in result.arms.values())
    step = nice_step(most)
    end = step * math.ceil(most / step) or 1.0
    scale = (WIDTH - LEFT - RIGHT) / end
    height = TOP + ROW * len(result.arms) + 36
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="22" font-size="14" font-weight="bold">{escape(result.name)}</text>',
        *_axis(end, step, scale, height - 36),
    ]
    for row, (name, arm) in enumerate(result.arms.items()):
        middle, colour = TOP + ROW * row + ROW / 2, COLOURS[row % len(COLOURS)]
        low, high = (LEFT + scale * value for value in arm.quartiles_ms)
        median = LEFT + scale * arm.median_ms
        parts += [
            f'<text x="{LEFT - 8}" y="{middle:.1f}" text-anchor="end">{escape(name)}</text>',
            f'<text x="{LEFT - 8}" y="{middle + 14:.1f}" text-anchor="end" fill="#666">'
            f"{arm.median_ms:.4g} ms</text>",
            f'<rect x="{low:.2f}" y="{middle - 18:.1f}" width="{max(high - low, 0.5):.2f}" height="36" '
            f'fill="{colour}" fill-opacity="0.2"/>',
            f'<line x1="{median:.2f}" x2="{median:.2f}" y1="{middle - 22:.1f}" y2="{middle + 22:.1f}" '
            f'stroke="{colour}" stroke-width="2"/>',
            *_dots(arm.samples_ms, scale, middle, colour),
        ]
    return "\n".join([*parts, "</svg>", ""])


def nice_step(most: float) -> float:
    """A step of 1, 2 or 5 times a power of ten that divides `most` into at most eight."""
    if most <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(most / 8))
    return next(power * one for one in (1, 2, 5, 10) if power * one * 8 >= most)


def _axis(end: float, step: float, scale: float, bottom: float) -> list[str]:
    parts = []
    for turn in range(round(end / step) + 1):
        x = LEFT + scale * step * turn
        parts += [
            f'<line x1="{x:.2f}" x2="{x:.2f}" y1="{TOP}" y2="{bottom}" stroke="#ddd"/>',
            f'<text x="{x:.2f}" y="{bottom + 16}" text-anchor="middle" fill="#666">{step * turn:.6g}</text>',
        ]
    return [*parts, f'<text x="{WIDTH - RIGHT}" y="{bottom + 31}" text-anchor="end" fill="#666">ms</text>']


def _dots(samples: list[float], scale: float, middle: float, colour: str) -> list[str]:
    """Dots from top to bottom in the order of time, so that a drift shows."""
    span = max(len(samples) - 1, 1)
    return [
        f'<circle cx="{LEFT + scale * value:.2f}" cy="{middle - 16 + 32 * place / span:.1f}" r="1.6" '
        f'fill="{colour}"/>'
        for place, value in enumerate(samples)
    ]
