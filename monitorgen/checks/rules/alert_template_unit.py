"""How an alert's texts print its value."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen import gotemplate
from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

#: The functions that fit only one unit.
_ONLY = {
    "humanizeDuration": ("seconds",),
    "humanizePercentage": ("ratio",),
    "humanizeTimestamp": ("timestamp",),
    "humanize1024": ("bytes", "bytes/s"),
}
#: The function that a unit asks for.
_WANTED = {
    "seconds": "humanizeDuration",
    "ratio": "humanizePercentage",
    "timestamp": "humanizeTimestamp",
    "bytes": "humanize1024",
}
#: These format the number as their author wants it.
_OWN_FORMAT = frozenset({"printf", "toTime", "query", "len"})


@check("alert-template-unit")
def alert_template_unit(context: Context) -> Iterator[Finding]:
    """Annotations print the value in its unit: durations as durations, ratios as percentages."""
    for subject in context.alerts:
        unit = context.unit(subject.expr) if context.tree(subject.expr) is not None else ""
        if not unit:
            continue
        for name, text in subject.rule.annotations:
            for functions in gotemplate.read(text).values:
                if problem := _problem(unit, functions):
                    wanted = _WANTED.get(unit, "humanize")
                    yield subject.finding(
                        f"{name} prints a value in {unit} {problem}", f"write {{{{ $value | {wanted} }}}}"
                    )


def _problem(unit: str, functions: tuple[str, ...]) -> str:
    """What is wrong with printing a value of the unit through these functions, "" if nothing."""
    for function in functions:
        if function in _ONLY and unit not in _ONLY[function]:
            return f"with {function}"
    if _OWN_FORMAT & set(functions):
        return ""
    if unit in ("seconds", "ratio", "timestamp") and _WANTED[unit] not in functions:
        return f"with {functions[-1]}" if functions else "as a bare number"
    return "as a bare number" if not functions and not _whole(unit) else ""


def _whole(unit: str) -> bool:
    """Whether values of the unit are whole numbers, which need no function."""
    return unit in ("requests", "events", "tokens", "number", "bool", "info", "flops")
