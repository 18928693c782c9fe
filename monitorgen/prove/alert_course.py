"""One alert on a live stage: calm, provoked, delivered, calmed, resolved, with a proof for each step."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from monitorgen.build import Built, PlannedAlert
from monitorgen.build.conditions import Condition
from monitorgen.catalog import Family
from monitorgen.prove.alert_tests import Scenario
from monitorgen.prove.ledger import Kind, Proof
from monitorgen.prove.player import Player
from monitorgen.prove.sightings import Sighting, Sightings
from monitorgen.prove.solve import CannotProvokeError, Drives, beyond
from monitorgen.prove.world import Counter, Drive, Gone, Histogram, Target, Where, targets

Step: TypeAlias = Literal["held", "calm", "provoked", "calmed", "done"]
FIRM = 0.3  # how far over the threshold: a live rate wavers with the times of its scrapes


@dataclass(frozen=True, slots=True)
class Plan:
    """How an alert is provoked: what both targets do in calm and when provoked, and whom it must name.

    `expected` are the full label sets of the alerts that must fire. `alone`: it needs a server to itself,
    since it takes the job away from all others. `window` and `hold` are the bundle's own seconds.
    """

    alert: PlannedAlert
    subject: Target
    bystander: Target
    families: Mapping[str, Family]
    also: Mapping[str, list[Where]]
    calm: Drives
    over: Drives
    expected: tuple[Mapping[str, str], ...]
    window: float
    alone: bool

    @property
    def hold(self) -> float:
        """The alert's `for`, in seconds."""
        return self.alert.rule.hold


def plan_course(built: Built, alert: PlannedAlert, number: int) -> Plan:
    """The plan of an alert with targets of its own. Raises CannotProvokeError with the reason."""
    first, second = targets(built, alert.conditions[0].plan.engine)
    pair = (
        _named(first, f"{alert.name.lower()}.scenario:{8000 + 2 * number}"),
        _named(second, f"bystander.scenario:{8001 + 2 * number}"),
    )
    scenario = Scenario(built, alert, pair=pair)
    test = scenario.build()  # the simulated test: it finds the moves, and says whom the alert must name
    over: dict[int, float | None] = {
        index: 1.0 if index in scenario.raw else _firmly(condition)
        for index, condition in enumerate(scenario.conditions)
    }
    calm = scenario.drives({index: v for index, v in over.items() if index >= len(alert.conditions)})
    names = {"alertname": alert.name}
    return Plan(
        alert=alert,
        subject=pair[0],
        bystander=pair[1],
        families=scenario.families,
        also=scenario.also,
        calm=calm,
        over=scenario.drives(over),
        expected=tuple({**dict(labels), **names} for fires in test.fires for labels, _ in fires.expect),
        window=scenario.window,
        alone=any(move.everywhere for move in scenario.raw.values()),
    )


def calm_together(plans: Iterable[Plan]) -> dict[str, Drive]:
    """What each family does so that none of the alerts minds: of several calm drives, the calmest.

    A histogram takes the smallest value; a counter keeps the shares of its labels that some alert asks for.
    """
    calm: dict[str, Drive] = {}
    for plan in plans:
        for name, drive in plan.calm.items():
            before = calm.get(name)
            if isinstance(drive, Gone) or (before is not None and _calmer(before, drive)):
                continue
            calm[name] = drive
    return calm


def in_company(plan: Plan, others: Iterable[Plan]) -> Plan:
    """The plan, where its own families behave well towards the other alerts on the same job."""
    job = dict(plan.subject.labels)["job"]
    together = calm_together(other for other in others if dict(other.subject.labels)["job"] == job)

    def fitted(name: str, drive: Drive) -> Drive:
        shared = together.get(name)
        if isinstance(drive, Counter) and isinstance(shared, Counter) and not drive.where:
            return replace(shared, rate=drive.rate)
        return drive

    def calmed(name: str, drive: Drive) -> Drive:
        shared = together.get(name)
        if isinstance(drive, Histogram) and isinstance(shared, Histogram) and not _wants_more(plan):
            return shared
        return fitted(name, drive)

    return replace(
        plan,
        calm={name: calmed(name, drive) for name, drive in plan.calm.items()},
        over={name: fitted(name, drive) for name, drive in plan.over.items()},
    )


def _calmer(one: Drive, other: Drive) -> bool:
    if isinstance(one, Histogram) and isinstance(other, Histogram):
        return one.value <= other.value
    if isinstance(one, Counter) and isinstance(other, Counter):
        return bool(one.where) or not other.where
    return True


def _wants_more(plan: Plan) -> bool:
    """Whether the alert fires when something is too small, so that less is not calmer."""
    return any(condition.op in ("<", "<=") for condition in plan.alert.conditions)


def _named(target: Target, instance: str) -> Target:
    labels = tuple((name, instance if name == "instance" else value) for name, value in target.labels)
    return replace(target, labels=labels)


def _firmly(condition: Condition) -> float:
    """A value well over the threshold, where the signal's range allows for it."""
    near, value = beyond(condition), condition.value
    if condition.op in (">", ">="):
        if near > 1.0 or condition.part.unit != "ratio":
            return max(near, value * (1 + FIRM))
        return max(near, min(value * (1 + FIRM), (value + 1.0) / 2))
    return min(near, value * (1 - FIRM)) if condition.op in ("<", "<=") else near


@dataclass(slots=True)
class Course:
    """The state of one alert's way, moved on by `tick` once it was let go."""

    plan: Plan
    subject: Player
    bystander: Player
    factor: float
    interval: float
    source: str
    step: Step = "held"
    since: float = 0.0
    proofs: list[Proof] = field(default_factory=list)

    @property
    def item(self) -> str:
        """The item that is proven."""
        return self.plan.alert.rule.id

    def let_go(self) -> None:
        """Begin, with calm."""
        self.step = "calm" if self.step == "held" else self.step

    def leave_out(self) -> None:
        """End without having begun: the alert was seen elsewhere."""
        self.step = "done" if self.step == "held" else self.step

    @property
    def quiet(self) -> float:
        """Seconds for which calm must have lasted until all windows hold nothing else."""
        return self.plan.window / self.factor + 4 * self.interval

    @property
    def patience(self) -> float:
        """Seconds after which a step that has not come is given up."""
        return (self.plan.window + self.plan.hold) / self.factor + 20 * self.interval + 20.0

    def tick(self, sightings: Sightings, now: float) -> None:
        """Look at what was seen, and take the next step when its time has come."""
        if self.step in ("held", "done"):
            return
        self.since = self.since or now
        if self.step == "calm":
            if now - self.since >= self.quiet:
                self._silent(sightings)
                self._drive(provoke=True)
                self._to("provoked", now)
        elif self.step == "provoked":
            seen = [_current(sightings.exactly(labels)) for labels in self.plan.expected]
            if all(one and one.firing and one.delivered for one in seen):
                self._fired([one for one in seen if one], sightings)
                self._drive(provoke=False)
                self._to("calmed", now)
            elif now - self.since > self.patience:
                self._give_up(seen)
        elif self.step == "calmed":
            seen = [sightings.exactly(labels) for labels in self.plan.expected]
            if all(one and one.resolved for one in seen):
                self._add("resolves, and the receiver is told", True, "resolved")
                self.step = "done"
            elif now - self.since > self.patience:
                self._add("resolves, and the receiver is told", False, "still firing, or no word of its end")
                self.step = "done"

    def _to(self, step: Step, now: float) -> None:
        self.step, self.since = step, now

    def _drive(self, *, provoke: bool) -> None:
        drives = self.plan.over if provoke else self.plan.calm
        self.subject.drive(drives)
        if self.plan.alone:
            self.bystander.drive(drives)

    def _silent(self, sightings: Sightings) -> None:
        seen = self._any(sightings, self.subject) + self._any(sightings, self.bystander)
        said = f"{len(seen)} pending or firing" if seen else "neither pending nor firing"
        self._add("silent while calm", not seen, said)

    def _any(self, sightings: Sightings, player: Player) -> list[Sighting]:
        instance = dict(player.target.labels)["instance"]
        return sightings.of(self.plan.alert.name, {"instance": instance})

    def _fired(self, seen: list[Sighting], sightings: Sightings) -> None:
        self.proofs += fired(self.item, seen, self.plan.hold / self.factor, self.interval, self.source)
        others = [] if self.plan.alone else self._any(sightings, self.bystander)
        named = [one for one in self._any(sightings, self.subject) if one.labels not in self.plan.expected]
        strays = ", ".join(str(dict(one.labels)) for one in (*others, *named))
        self._add("names whom it concerns, and nobody else", not strays, strays or f"{len(seen)} alert")

    def _give_up(self, seen: list[Sighting | None]) -> None:
        states = [
            "never pending"
            if one is None
            else "pending, not firing"
            if not one.firing
            else "firing, but no receiver was told"
            for one in seen
        ]
        self._add("fires when provoked", False, ", ".join(states) or "nobody is named by it")
        self.step = "done"

    def _add(self, claim: str, holds: bool, answer: str, seen: Sighting | None = None) -> None:
        self.proofs.append(proof(self.item, claim, holds, self.source, answer, "scenario", seen))


def _current(seen: Sighting | None) -> Sighting | None:
    """A sighting that is not over."""
    return seen if seen and not seen.ended else None


def proof(
    item: str,
    claim: str,
    holds: bool,
    source: str,
    answer: str,
    kind: Kind,
    seen: Sighting | None = None,
) -> Proof:
    """A proof about an alert; `item` is `alert/NAME/SEVERITY`."""
    asked = f'ALERTS{{alertname="{item.split("/")[1]}"}}'
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seen.firing if seen and seen.firing else None))
    return Proof(
        item,
        "live",
        claim,
        holds,
        source,
        asked,
        answer,
        when,
        kind,
        int(bool(seen)),
        seen.value if seen else None,
    )


def fired(
    item: str,
    seen: Sequence[Sighting],
    hold: float,
    interval: float,
    source: str,
    kind: Kind = "scenario",
) -> list[Proof]:
    """The proofs that sightings of an alert give: its time, its texts, its delivery. `hold` is scaled."""
    first = seen[0]
    # Seen at most one poll late; Prometheus itself counts from evaluation to evaluation.
    early = [one for one in seen if one.lasted < hold - interval]
    waited = f"fired {first.lasted:.1f} s after its condition first held; for: {hold:.1f} s"
    wrong = [text for one in seen for text in one.wrong]
    said = "; ".join(wrong) or first.annotations.get("summary", "")
    way = f"delivered to {first.receiver} within {max(first.delivered - first.active, 0.0):.1f} s"
    steps = (
        ("pending, then fires after its `for`", not early, waited),
        ("labels and rendered annotations", not wrong, said),
        ("reaches the receiver through Alertmanager", bool(first.receiver), way),
    )
    return [proof(item, claim, holds, source, answer, kind, first) for claim, holds, answer in steps]


__all__ = ["CannotProvokeError", "Course", "Plan", "fired", "plan_course", "proof"]
