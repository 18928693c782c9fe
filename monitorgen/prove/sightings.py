"""What became of every alert that a stage saw: pending, firing, delivered, resolved, and when.

Fed with what Prometheus lists and what the webhook received; nothing is decided here but whether texts and
labels are those that the rule means.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from monitorgen.bundle import AlertRule
from monitorgen.prove.gotext import render_annotation
from monitorgen.prove.prometheus import AlertState
from monitorgen.prove.webhook import Delivery

Key = tuple[tuple[str, str], ...]
_ACTION = re.compile(r"\{\{.*?\}\}")
_LABEL = re.compile(r"\{\{-?\s*\$labels\.([a-zA-Z_][a-zA-Z0-9_]*)\s*-?\}\}")
# What our templates make of a value: 1.234k, 5.1%, 1h 2m 3s, 612ms.
_VALUE = r"[-+0-9.einfNa]+[a-zA-Z%]*(?: [0-9]+[a-z])*"


@dataclass(slots=True)
class Sighting:
    """The life of one alert with one label set. Times are seconds since the epoch, 0 for never.

    `active` is when the condition first held, `firing` when it was first seen to fire, `lasted` the seconds
    between. `wrong` says what its labels, annotations or delivery have that the rule does not mean.
    """

    labels: Mapping[str, str]
    active: float = 0.0
    pending: float = 0.0
    firing: float = 0.0
    ended: float = 0.0
    value: float = 0.0
    annotations: Mapping[str, str] = field(default_factory=dict)
    delivered: float = 0.0
    receiver: str = ""
    resolved: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The alert's name."""
        return self.labels.get("alertname", "")

    @property
    def lasted(self) -> float:
        """Seconds from the first evaluation that found it to when it was seen firing."""
        return self.firing - self.active if self.firing else 0.0


class Sightings:
    """All alerts that were seen, by their labels."""

    def __init__(self, rules: Iterable[AlertRule]) -> None:
        self._rules: dict[tuple[str, str], AlertRule] = {}
        for rule in rules:
            self._rules[rule.alert, dict(rule.labels).get("severity", "")] = rule
        self._seen: dict[Key, Sighting] = {}
        self._deliveries = 0

    def update(self, active: Sequence[AlertState], deliveries: Sequence[Delivery], now: float) -> None:
        """Take what Prometheus lists at `now`, and all that the webhook has received so far."""
        there = set()
        for alert in active:
            key = _key(alert.labels)
            there.add(key)
            seen = self._seen.get(key)
            if seen is None or seen.ended:  # it came back: its way begins anew, what was wrong stays
                seen = self._seen[key] = Sighting(dict(alert.labels), wrong=seen.wrong if seen else [])
            self._listed(seen, alert, now)
        for key, seen in self._seen.items():
            if seen.active and not seen.ended and key not in there:
                seen.ended = now
        for delivery in deliveries[self._deliveries :]:
            self._delivered(delivery)
        self._deliveries = len(deliveries)

    def of(self, name: str, labels: Mapping[str, str] | None = None) -> list[Sighting]:
        """The sightings of an alert, those that have the given labels."""
        wanted = (labels or {}).items()
        return [s for s in self._seen.values() if s.name == name and wanted <= s.labels.items()]

    def exactly(self, labels: Mapping[str, str]) -> Sighting | None:
        """The sighting of a whole label set, `alertname` included."""
        return self._seen.get(_key(labels))

    def __iter__(self) -> Iterator[Sighting]:
        return iter(self._seen.values())

    def _rule(self, labels: Mapping[str, str]) -> AlertRule | None:
        return self._rules.get((labels.get("alertname", ""), labels.get("severity", "")))

    def _listed(self, seen: Sighting, alert: AlertState, now: float) -> None:
        seen.active = seen.active or alert.active_at or now
        if alert.state == "pending":
            seen.pending = seen.pending or now
            return
        seen.firing = seen.firing or now
        seen.value, seen.annotations = alert.value, dict(alert.annotations)
        rule = self._rule(alert.labels)
        if rule is None:
            _note(seen, "no rule of the bundle has its name and severity")
            return
        for name, text in wrong_texts(rule, alert):
            _note(seen, f"its {name} reads {text!r}")

    def _delivered(self, delivery: Delivery) -> None:
        seen = self._seen.get(_key(delivery.labels))
        if seen is None:
            seen = self._seen[_key(delivery.labels)] = Sighting(dict(delivery.labels))
        if delivery.status == "resolved":
            seen.resolved = delivery.received
            return
        seen.delivered = seen.delivered or delivery.received
        seen.receiver = delivery.receiver
        rule = self._rule(delivery.labels)
        for name, template in rule.annotations if rule else ():
            text = delivery.annotations.get(name)
            if text is None or not text_pattern(template, delivery.labels).fullmatch(text):
                _note(seen, f"the receiver got the {name} {text!r}")


def wrong_texts(rule: AlertRule, alert: AlertState) -> list[tuple[str, str]]:
    """The annotations that are not what the rule's templates give for the alert's labels and value."""
    own = {"alertname", *dict(rule.labels)}  # templates see the labels of the expression's result only
    labels = {name: value for name, value in alert.labels.items() if name not in own}
    wrong = []
    for name, template in rule.annotations:
        try:
            expected = render_annotation(template, labels, alert.value)
        except ValueError as error:
            expected = str(error)
        if alert.annotations.get(name) != expected:
            wrong.append((name, alert.annotations.get(name, "")))
    return wrong


def text_pattern(template: str, labels: Mapping[str, str]) -> re.Pattern[str]:
    """What a rendered annotation looks like whatever the value: labels in place, a number where it stands."""
    parts, at = [], 0
    for action in _ACTION.finditer(template):
        parts.append(re.escape(template[at : action.start()]))
        label = _LABEL.fullmatch(action[0])
        parts.append(re.escape(labels.get(label[1], "")) if label else _VALUE)
        at = action.end()
    return re.compile("".join((*parts, re.escape(template[at:]))), re.DOTALL)


def _note(seen: Sighting, what: str) -> None:
    if what not in seen.wrong and len(seen.wrong) < 5:
        seen.wrong.append(what)


def _key(labels: Mapping[str, str]) -> Key:
    return tuple(sorted(labels.items()))
