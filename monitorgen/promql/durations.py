"""Durations as Prometheus writes them (`5m`, `1h30m`, `1d`), to and from seconds."""

from __future__ import annotations

import re

# Milliseconds of each unit, largest first; a year is 365 days and a week seven, always.
_UNITS = (
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
)
_WHOLE_ONLY = frozenset({"y", "w", "d"})  # Prometheus writes 36h, not 1d12h
_PATTERN = re.compile("".join(rf"(?:(\d{{1,18}}){unit})?" for unit, _ in _UNITS), re.ASCII)
_LONGEST_MS = (2**63 - 1) // 1_000_000  # Prometheus keeps nanoseconds in 64 bits: about 292 years


def parse_duration(text: str) -> float:
    """Seconds of a duration such as `5m`, `1h30m` or `250ms`; `0` alone is zero. ValueError otherwise."""
    if text == "0":
        return 0.0
    match = _PATTERN.fullmatch(text)
    if not text or not match:
        raise ValueError(f"not a duration: {text!r} (write 30s, 5m, 1h30m)")
    milliseconds = sum(
        int(count) * size for count, (_, size) in zip(match.groups(), _UNITS, strict=True) if count
    )
    if milliseconds > _LONGEST_MS:
        raise ValueError(f"duration out of range: {text!r} (at most 292 years)")
    return milliseconds / 1000


def format_duration(seconds: float) -> str:
    """What Prometheus writes for `seconds`, to the millisecond: 300 is `5m`, 5400 is `1h30m`.

    ValueError where it is negative, not finite or longer than 292 years.
    """
    if not 0 <= seconds <= _LONGEST_MS / 1000:  # NaN fails both
        raise ValueError(f"not a duration in seconds: {seconds!r}")
    rest = round(seconds * 1000)
    if not rest:
        return "0s"
    parts = []
    for unit, size in _UNITS:
        if unit in _WHOLE_ONLY and rest % size:
            continue
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)
