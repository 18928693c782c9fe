"""Annotations as Prometheus renders them: `{{ $labels.x }}`, `{{ $value | humanizeDuration }}` and the like.

Only the forms that our annotations use are known; anything else raises ValueError, so that an expected text
is never a guess. The humanize functions follow Prometheus' template reference.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping

_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}")
_LABEL = re.compile(r"\$labels\.([a-zA-Z_][a-zA-Z0-9_]*)")
_PRINTF = re.compile(r'printf "(%\.?\d*[fgd]%?%?)" \$value')


def _g4(value: float) -> str:
    return f"{value:.4g}"


def _large(value: float, base: int, prefixes: Iterable[str]) -> str:
    prefix = ""
    for following in prefixes:
        if abs(value) < base:
            break
        prefix, value = following, value / base
    return f"{_g4(value)}{prefix}"


def _small(value: float) -> str:
    prefix = ""
    for following in "munpfazy":
        if abs(value) >= 1:
            break
        prefix, value = following, value * 1000
    return f"{_g4(value)}{prefix}"


def humanize(value: float) -> str:
    """1234.5 -> "1.234k", 0.0021 -> "2.1m"."""
    if value == 0 or math.isnan(value) or math.isinf(value):
        return _g4(value)
    return _large(value, 1000, "kMGTPEZY") if abs(value) >= 1 else _small(value)


def humanize1024(value: float) -> str:
    """2048 -> "2ki"."""
    if abs(value) <= 1 or math.isnan(value) or math.isinf(value):
        return _g4(value)
    return _large(value, 1024, ("ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi"))


def humanize_duration(value: float) -> str:
    """0.612 -> "612ms", 75 -> "1m 15s"."""
    if math.isnan(value) or math.isinf(value):
        return _g4(value)
    if value == 0:
        return "0s"
    if abs(value) > 1:
        sign = "-" if value < 0 else ""
        value = abs(value)
        whole = int(value)
        seconds, minutes, hours, days = whole % 60, whole // 60 % 60, whole // 3600 % 24, whole // 86400
        if days:
            return f"{sign}{days}d {hours}h {minutes}m {seconds}s"
        if hours:
            return f"{sign}{hours}h {minutes}m {seconds}s"
        if minutes:
            return f"{sign}{minutes}m {seconds}s"
        return f"{sign}{_g4(value)}s"
    return f"{_small(value)}s"


def humanize_percentage(value: float) -> str:
    """0.051 -> "5.1%"."""
    return f"{_g4(value * 100)}%"


FUNCTIONS: dict[str, Callable[[float], str]] = {
    "humanize": humanize,
    "humanize1024": humanize1024,
    "humanizeDuration": humanize_duration,
    "humanizePercentage": humanize_percentage,
}


def render_annotation(template: str, labels: Mapping[str, str], value: float) -> str:
    """The text that Prometheus makes of an annotation. Raises ValueError for what is not known here."""

    def replace(match: re.Match[str]) -> str:
        action = match[1]
        label = _LABEL.fullmatch(action)
        if label:
            return labels.get(label[1], "")
        head, pipe, function = (part.strip() for part in action.partition("|"))
        if head == "$value" and pipe and function in FUNCTIONS:
            return FUNCTIONS[function](value)
        name, _, argument = action.partition(" ")
        if name in FUNCTIONS and argument.strip() == "$value":
            return FUNCTIONS[name](value)
        printf = _PRINTF.fullmatch(action)
        if printf and not printf[1].endswith("d"):
            return printf[1] % value
        raise ValueError(f"the template action {{{{ {action} }}}} is not known to the simulation")

    return _ACTION.sub(replace, template)
