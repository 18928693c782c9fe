"""The units that families, signals, thresholds and panels may have: one table, read by every room.

A unit is a short word (`seconds`), a word a second (`tokens/s`), or empty where nothing is known.
Grafana's ids are from @grafana/data; the first of each row is the one that we write.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit: its Grafana ids (the first is preferred), the suffix in recorded names, its sane range."""

    name: str
    grafana: tuple[str, ...]
    suffix: str = ""
    low: float = 0.0
    high: float = float("inf")


UNITS: dict[str, Unit] = {
    unit.name: unit
    for unit in (
        Unit("seconds", ("s", "dtdurations"), suffix="seconds"),
        Unit("milliseconds", ("ms", "dtdurationms"), suffix="milliseconds"),
        Unit("bytes", ("bytes", "decbytes"), suffix="bytes"),
        Unit("mebibytes", ("mbytes",), suffix="mb"),
        Unit("bytes/s", ("binBps", "Bps")),
        Unit("ratio", ("percentunit",), suffix="ratio", high=1.0),
        Unit("percent", ("percent",), suffix="percent", high=100.0),
        Unit("tokens", ("short", "none", "locale")),
        Unit("tokens/s", ("cps", "short", "none")),
        Unit("requests", ("short", "none", "locale")),
        Unit("requests/s", ("reqps", "cps")),
        Unit("events", ("short", "none", "locale")),
        Unit("events/s", ("cps", "ops", "short")),
        Unit("1/s", ("hertz", "cps", "short")),
        Unit("flops", ("short", "sci", "none")),
        Unit("flops/s", ("flops",)),
        Unit("bool", ("bool", "bool_on_off", "bool_yes_no", "short", "none"), high=1.0),
        Unit("timestamp", ("dateTimeAsIso", "dateTimeFromNow")),
        Unit("info", ("short", "none")),
        Unit("number", ("short", "none", "locale")),
    )
}


def per_second(unit: str) -> str:
    """The unit of a rate of something counted in `unit` (seconds a second are a ratio)."""
    if not unit:
        return ""
    if unit == "seconds":
        return "ratio"
    return f"{unit}/s"
