"""Numbers with units, as people write them: `600ms`, `90%`, `5m`, `2GiB`, `0.1/s`, `50`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

# Suffix -> (unit in monitorgen.catalog.units, factor to that unit). A bare number has the unit "".
SUFFIXES: dict[str, tuple[str, float]] = {
    "": ("", 1.0),
    "us": ("seconds", 1e-6),
    "ms": ("seconds", 1e-3),
    "s": ("seconds", 1.0),
    "m": ("seconds", 60.0),
    "h": ("seconds", 3600.0),
    "d": ("seconds", 86400.0),
    "w": ("seconds", 604800.0),
    "%": ("ratio", 0.01),
    "/s": ("1/s", 1.0),
    "/min": ("1/s", 1.0 / 60.0),
    "/m": ("1/s", 1.0 / 60.0),
    "/h": ("1/s", 1.0 / 3600.0),
    "B": ("bytes", 1.0),
    "KB": ("bytes", 1e3),
    "MB": ("bytes", 1e6),
    "GB": ("bytes", 1e9),
    "KiB": ("bytes", 2.0**10),
    "MiB": ("bytes", 2.0**20),
    "GiB": ("bytes", 2.0**30),
}

_QUANTITY = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z%/]*)\s*", re.ASCII)
_DURATION = re.compile(r"(?:\d+(?:ms|[smhdwy]))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+)(ms|[smhdwy])", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "y": 31536000.0}


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number in its base unit; `text` is what the person wrote, `suffix` the unit that they chose."""

    value: float
    unit: str
    text: str
    suffix: str = ""

    def __str__(self) -> str:
        return self.text


def parse_quantity(text: str | float) -> Quantity:
    """Parse a quantity. Raises ValueError with a sentence for people."""
    shown = f"{text:.12g}" if isinstance(text, float) else str(text).strip()
    if isinstance(text, int | float) and not isinstance(text, bool):
        return Quantity(_finite(shown), "", shown)
    match = _QUANTITY.fullmatch(shown)
    if match is None:
        if _DURATION.fullmatch(shown):
            return Quantity(parse_seconds(shown), "seconds", shown, "s")
        raise ValueError(
            f"{shown!r} is not a number with a unit; write for example 600ms, 90%, 5m, 2GiB or 50"
        )
    number, suffix = match.groups()
    if suffix not in SUFFIXES:
        known = ", ".join(s for s in SUFFIXES if s)
        raise ValueError(f"{shown!r} has the unknown unit {suffix!r}; known are {known}")
    unit, factor = SUFFIXES[suffix]
    # round() hides the dust of binary fractions: 600ms is 0.6, not 0.6000000000000001.
    return Quantity(_finite(f"{_finite(number) * factor:.12g}"), unit, shown, suffix)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        shown = text if len(text) <= 30 else f"{text[:27]}..."
        raise ValueError(f"{shown} is too large a number")
    return value


def parse_seconds(text: str | float) -> float:
    """A duration as Prometheus writes it (`5m`, `1h30m`) in seconds; a bare number is refused."""
    shown = str(text).strip()
    if not _DURATION.fullmatch(shown):
        raise ValueError(f"{shown!r} is not a duration; write for example 30s, 5m or 1h30m")
    return sum(int(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(shown))


def comparable(threshold: str, signal: str) -> bool:
    """Whether a threshold of unit `threshold` can be compared with a signal of unit `signal`."""
    if threshold == "seconds":
        return signal == "seconds"
    if threshold == "ratio":
        return signal in ("ratio", "percent")
    if threshold == "bytes":
        return signal in ("bytes", "mebibytes")
    if threshold == "1/s":
        return signal.endswith("/s")
    # A bare number suits what has no customary suffix: counts, rates, tokens.
    return signal not in ("seconds", "ratio", "bytes", "mebibytes", "percent")


def in_unit(quantity: Quantity, signal: str) -> float:
    """The quantity as a number in the signal's unit (`90%` against percent is 90)."""
    if quantity.unit == "ratio" and signal == "percent":
        return float(f"{quantity.value * 100:.12g}")
    if quantity.unit == "bytes" and signal == "mebibytes":
        return float(f"{quantity.value / 2**20:.12g}")
    return quantity.value
