"""What the tables of bad input are written with: short profiles, and the shape of a case."""

from __future__ import annotations

from dataclasses import dataclass

HERE = "¦"  # stands in a case before the place that the message must name

BASE = "extends: baseline\n"
SIGNAL = BASE + "signals:\n  mine:\n    help: Something of mine.\n"
RATIO = SIGNAL + "    ratio:\n      of: {family: vllm:request_success_total}\n"
PANELS = BASE + "dashboard:\n  - row: Mine\n    panels: "


def alert(when="ttft.p90 > 1s", summary="Something is wrong here", more="", **keys):
    """A profile with one alert; a key given as an empty text is left out."""
    fields = {"for": "5m", "severity": "warning", "action": "Look at it now.", **keys}
    lines = "".join(f"    {key}: {value}\n" for key, value in fields.items() if value)
    return f"{BASE}alerts:\n  Mine:\n    when: {when}\n    summary: {summary}\n{lines}{more}"


def expr(text, unit="number"):
    """A profile with a signal of an expression."""
    return f"{SIGNAL}    {HERE}expr: {text}\n    unit: {unit}\n"


@dataclass(frozen=True)
class Case:
    name: str
    text: str
    says: str
    hint: str = ""
