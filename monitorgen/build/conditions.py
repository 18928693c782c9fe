"""Alert conditions: `ttft.p90 > ttft_p90_warn and finished > 0.1` as data, then as PromQL.

A condition compares a signal with a threshold. Arithmetic belongs into a signal's `expr`, where it gets
a name, a recording rule and a proof of its own.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from monitorgen.build.expressions import reference_text
from monitorgen.build.plan import Part, Plan
from monitorgen.bundle import Origin
from monitorgen.errors import InputError
from monitorgen.profile import Loaded, Quantity, comparable, in_unit, parse_quantity

_HOW = "write SIGNAL[.PART] > THRESHOLD; several are joined by and"
_COMPARISON = re.compile(
    r"\s*(?P<signal>[a-z][a-z0-9_]*)(?:\.(?P<part>[a-z0-9_]+))?"
    r"\s*(?P<op>>=|<=|==|!=|>|<)\s*(?P<value>[^\s<>=!].*?)\s*"
)


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison. `value` is in the unit of the recorded series, `text` is what the person wrote."""

    plan: Plan
    part: Part
    op: str
    value: float
    text: str
    threshold: str = ""

    @property
    def left(self) -> str:
        """What is compared, in PromQL."""
        return reference_text(self.plan, self.part)

    @property
    def promql(self) -> str:
        """The comparison in PromQL."""
        return f"{self.left} {self.op} {number(self.value)}"


def number(value: float) -> str:
    """A number as PromQL and people write it: 0.6, 50, 1.5e-06."""
    return f"{value:.12g}"


def parse_conditions(
    text: str, plans: Mapping[str, Plan], dormant: Mapping[str, str], loaded: Loaded, at: Origin
) -> tuple[Condition, ...] | str:
    """The comparisons of `when:`, joined by `and`, or the name of a dormant signal. Raises InputError."""
    conditions = []
    for piece in re.split(r"\s+and\s+", text.strip()):
        match = _COMPARISON.fullmatch(piece)
        if match is None:
            raise InputError(f"{piece!r} is not a condition", origin=at, hint=_HOW)
        name = match["signal"]
        if name in dormant:
            return name
        if name not in plans:
            raise InputError(f"unknown signal {name!r}", origin=at, hint=_near(name, plans))
        conditions.append(_condition(plans[name], match, loaded, at))
    return tuple(conditions)


def _condition(plan: Plan, match: re.Match[str], loaded: Loaded, at: Origin) -> Condition:
    part = plan.part(match["part"] or "")
    if part is None:
        names = ", ".join(f"{plan.name}.{p.name}" for p in plan.parts)
        wrong = (
            f"{plan.name} has no part {match['part']!r}"
            if match["part"]
            else f"{plan.name} has several parts"
        )
        raise InputError(wrong, origin=at, hint=f"there is {names}")
    value, threshold = match["value"], ""
    quantity: Quantity
    if value in loaded.profile.thresholds:
        threshold, quantity = value, loaded.threshold(value)
    elif re.fullmatch(r"[a-z][a-z0-9_]*", value):
        raise _unknown_threshold(value, loaded, at)
    else:
        try:
            quantity = parse_quantity(value)
        except ValueError as error:
            raise InputError(str(error), origin=at, hint=_HOW if " " in value else "") from error
    if not comparable(quantity.unit, part.unit):
        what = f"the threshold {threshold} = {quantity.text}" if threshold else quantity.text
        place = loaded.origin("thresholds", threshold) if threshold else at
        raise InputError(
            f"{what} cannot be compared with {plan.name}.{part.name}, which is in {part.unit}",
            origin=place,
            hint=_unit_hint(part.unit, quantity),
        )
    return Condition(plan, part, match["op"], in_unit(quantity, part.unit), quantity.text, threshold)


def _unknown_threshold(name: str, loaded: Loaded, at: Origin) -> InputError:
    removed = loaded.document.removed.get(("thresholds", name))
    if removed is not None:
        return InputError(
            f"the threshold {name} is removed here, but {at} uses it",
            origin=removed,
            hint="remove the alert too, or give the threshold a value",
        )
    return InputError(f"unknown threshold {name!r}", origin=at, hint=_near(name, loaded.profile.thresholds))


def _unit_hint(unit: str, written: Quantity) -> str:
    if not written.unit and unit in ("seconds", "percent"):
        return f"it has no unit: write {written.text}{'s' if unit == 'seconds' else '%'}"
    examples = {"seconds": "600ms", "ratio": "90%", "bytes": "2GiB", "mebibytes": "512MiB", "percent": "90%"}
    return f"write for example {examples.get(unit, '50')}"


def _near(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), 1, 0.5)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"


def join(conditions: Iterable[Condition]) -> str:
    """The conjunction in PromQL; where label sets differ, on the labels that both sides have."""
    conditions = tuple(conditions)
    text = conditions[0].promql
    labels = set(conditions[0].plan.labels)
    for other in conditions[1:]:
        if set(other.plan.labels) == labels:
            text += f" and {other.promql}"
        else:
            shared = [label for label in conditions[0].plan.labels if label in other.plan.labels]
            text += f" and on ({', '.join(shared)}) ({other.promql})"
    return text
