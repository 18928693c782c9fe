"""A scenario for each alert: calm, just not over the threshold, over it, calm, idle, with too little traffic.

The scenario is found, not written: the alert's conditions are inverted into drives (see `solve`), the moment
from which the condition holds is read off the samples, and everything that must follow is asked.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from monitorgen.build import Built, PlannedAlert
from monitorgen.build.conditions import Condition
from monitorgen.catalog import Family
from monitorgen.promql import Matcher, selectors
from monitorgen.prove.course import SAMPLE_INTERVAL, Course
from monitorgen.prove.gotext import render_annotation
from monitorgen.prove.meaning import LOOKBACK, Samples, Vector, edge_clear
from monitorgen.prove.solve import (
    CannotProvokeError,
    Drives,
    beyond,
    calm_drive,
    family_names,
    far_from,
    idle_drive,
    moves,
    short_of,
    solve,
)
from monitorgen.prove.unittests import Ask, Fires, UnitTest
from monitorgen.prove.world import (
    Drive,
    Gone,
    Labels,
    Recorder,
    Target,
    Where,
    sources_of,
    steps,
    targets,
)

COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
# Evaluation intervals, from which an alert gets the largest that divides its `for` into five or more.
STEPS = (600.0, 300.0, 120.0, 60.0, 30.0, 15.0, 10.0, 5.0)

STRANGER = "somebody-else"  # a job that no profile asks for


@dataclass(frozen=True, slots=True)
class Phase:
    """So many seconds in which both targets do the same thing."""

    name: str
    seconds: float
    subject: Drives
    bystander: Drives


@dataclass(frozen=True, slots=True)
class Move:
    """What must happen to raw families, to the subject's or to those of both targets."""

    drives: Drives
    everywhere: bool


class Scenario:
    """Builds the unit test of one alert for one side of the renames (0: the newest names).

    `pair` are the targets that it happens on, the subject and a bystander; made up where none are given.
    """

    def __init__(
        self, built: Built, alert: PlannedAlert, side: int = 0, pair: tuple[Target, Target] | None = None
    ) -> None:
        self.built, self.alert, self.side = built, alert, side
        self.plans = built.plans
        self.conditions = (*alert.conditions, *alert.traffic)
        self.subject, self.bystander = pair or targets(built, alert.conditions[0].plan.engine)
        self.families = self._families()
        self.also = self._also()
        self.raw: dict[int, Move] = {}
        hold = alert.rule.hold
        self.step = next((s for s in STEPS if s <= hold / 5 and hold % s == 0), STEPS[-1])
        # Prometheus 2 and 3 may differ by one sample at a window's edge.
        self.slack = self.step * math.ceil(SAMPLE_INTERVAL / self.step)

    def _families(self) -> dict[str, Family]:
        found: dict[str, Family] = {}
        for condition in self.conditions:
            for family in family_names(condition.plan, self.plans, self.built.catalogs):
                found[family.name] = family
        return found

    def _also(self) -> dict[str, list[Where]]:
        """Label values that the conditions select: such series exist even if no recording shows them."""
        also: dict[str, list[Where]] = {}
        for condition in self.conditions:
            for source in sources_of(condition.plan, self.plans):
                for family in source.families:
                    also.setdefault(family.name, []).append(source.where)
        return also

    @property
    def window(self) -> float:
        """How far back anything looks that decides on this alert, in seconds."""
        longest = LOOKBACK if self._loses_series() else 2 * SAMPLE_INTERVAL
        for condition in self.conditions:
            longest = max(longest, *self._windows(condition))
        return longest

    def _windows(self, condition: Condition) -> list[float]:
        plan = condition.plan
        if plan.kind == "expr":
            ranges = [sel.range for sel in selectors(plan.expr)]
            return [*ranges, 0.0, *(self.plans[use].window for use in plan.uses)]
        if plan.kind == "gauge" and plan.spec.over is None:
            return [0.0]
        return [plan.window]

    def _loses_series(self) -> bool:
        return any(isinstance(d, Gone) for move in self.raw.values() for d in move.drives.values())

    # Drives

    def base(self) -> Drives:
        """Every family calm; of renamed ones, only the side's name exists."""
        drives: Drives = {name: calm_drive(family) for name, family in self.families.items()}
        for condition in self.conditions:
            for source in sources_of(condition.plan, self.plans):
                names = [family.name for family in source.families]
                chosen = names[min(self.side, len(names) - 1)]
                drives.update({name: Gone() for name in names if name != chosen})
        return drives

    def drives(self, values: Mapping[int, float | None]) -> Drives:
        """Drives under which condition number i reads values[i]; None stands for `well on the calm side`."""
        result = self.base()
        # Expressions last: they are solved by one of the signals that they use, with the others as they are.
        own = len(self.alert.conditions)
        kinds = [condition.plan.kind == "expr" for condition in self.conditions]
        for number in sorted(range(len(self.conditions)), key=lambda n: (kinds[n], n < own, n)):
            condition = self.conditions[number]
            value = values.get(number)
            if number in self.raw:
                if value is not None:
                    result.update(self.raw[number].drives)
                continue
            wanted = far_from(condition) if value is None else value
            result = solve(condition, wanted, result, self.plans, self.side)
        return result

    def find_raw(self) -> None:
        """Find moves for the conditions on raw expressions. Raises CannotProvokeError."""
        for number, condition in enumerate(self.conditions):
            if condition.plan.kind == "expr" and not self._can_solve(condition):
                self.raw[number] = self._raw_move(condition)

    def _can_solve(self, condition: Condition) -> bool:
        """Whether an expression follows the signals that it uses; it may only borrow their families."""
        records = {part.record for use in condition.plan.uses for part in self.plans[use].parts}
        inlined = any(not self.plans[use].recorded for use in condition.plan.uses)
        if not inlined and not any(sel.name in records for sel in selectors(condition.plan.expr)):
            return False
        try:
            solve(condition, beyond(condition), self.base(), self.plans, self.side)
        except CannotProvokeError:
            return False
        return True

    def _raw_move(self, condition: Condition) -> Move:
        families = family_names(condition.plan, self.plans, self.built.catalogs)
        base = self.base()
        calm = {family.name: base[family.name] for family in families}
        there = [family for family in families if not isinstance(calm[family.name], Gone)]
        window = max([LOOKBACK, *self._windows(condition)]) + 4 * SAMPLE_INTERVAL
        if self._holds(condition, calm, calm, calm, window):
            raise CannotProvokeError(f"{condition.plan.name} holds already while nothing happens")
        for everywhere in (False, True):
            for move in moves(there):
                moved = {**calm, **move}
                if self._holds(condition, calm, moved, moved if everywhere else calm, window):
                    return Move(move, everywhere)
        raise CannotProvokeError(
            f"no change of {', '.join(f.name for f in families)} that was tried provokes it"
        )

    def _holds(
        self, condition: Condition, before: Drives, subject: Drives, bystander: Drives, window: float
    ) -> bool:
        recorder = Recorder()
        for first, second in ((before, before), (subject, bystander)):
            self._record(recorder, first, second, steps(window))
        samples = Samples(recorder.courses, self.plans)
        time = (recorder.length - 1) * SAMPLE_INTERVAL
        return bool(compared(samples, condition, time))

    # Time

    def _record(self, recorder: Recorder, subject: Drives, bystander: Drives, count: int) -> None:
        exports: list[tuple[Family, Target, Drive]] = []
        for name, family in self.families.items():
            if name in subject:
                exports.append((family, self.subject, subject[name]))
            if name in bystander:
                exports.append((family, self.bystander, bystander[name]))
        recorder.phase(exports, count, self.also)

    def build(self) -> UnitTest:
        """The unit test. Raises CannotProvokeError where no drives were found."""
        self.find_raw()
        over: dict[int, float | None] = {
            number: 1.0 if number in self.raw else beyond(condition)
            for number, condition in enumerate(self.conditions)
        }
        calm = self.drives({n: v for n, v in over.items() if n >= len(self.alert.conditions)})
        hold, window = self.alert.rule.hold, self.window
        everywhere = any(move.everywhere for move in self.raw.values())
        fire = self.drives(over)
        firing = Phase("fire", max(window, hold) + hold + 6 * self.slack, fire, fire if everywhere else calm)
        before = Phase("calm", window + 4 * self.slack, calm, calm)
        if self.side:
            return self._ask([before, firing])
        after = Phase("over", window + 4 * self.slack, calm, calm)
        quiet = window + hold + 3 * self.slack
        near, idle = self._near_misses(over, calm, quiet)
        return self._ask([before, *near, firing, after, *idle])

    def _near_misses(
        self, over: Mapping[int, float | None], calm: Drives, seconds: float
    ) -> tuple[list[Phase], list[Phase]]:
        """Phases in which one condition just does not hold, and those with no or too little traffic."""
        near, idle = [], []
        if not self.raw:
            still = {
                name: idle_drive(self.families[name]) if not isinstance(drive, Gone) else drive
                for name, drive in self.base().items()
            }
            idle.append(Phase("idle", seconds, still, calm))
        for number, condition in enumerate(self.conditions):
            if number in self.raw:
                continue
            under = self.drives({**over, number: just_not(condition)})
            if number < len(self.alert.conditions):
                near.append(Phase(f"just not {condition.plan.name}", seconds, under, calm))
            else:
                idle.append(Phase("too little traffic", seconds, under, calm))
        return near, idle

    def _ask(self, phases: list[Phase]) -> UnitTest:
        recorder = Recorder()
        starts: list[tuple[Phase, float, float]] = []
        for phase in phases:
            start = recorder.length * SAMPLE_INTERVAL
            self._record(recorder, phase.subject, phase.bystander, steps(phase.seconds))
            starts.append((phase, start, recorder.length * SAMPLE_INTERVAL))
        recorder.courses += self._strangers(recorder.length)
        samples = Samples(recorder.courses, self.plans)
        suffix = f" ({' and '.join(self._side_names())})" if self.side else ""
        test = UnitTest(f"{self.alert.name}{suffix}", self.step, recorder.courses)
        for phase, start, end in starts:
            if phase.name == "fire":
                self._ask_firing(test, samples, start, end)
            else:
                self._ask_silence(test, samples, phase.name, end)
        return test

    def _strangers(self, count: int) -> list[Course]:
        """Targets of another job, one of them down, where the conditions ask for `up` of certain jobs."""
        plans = [condition.plan for condition in self.conditions if condition.plan.kind == "expr"]
        asked = [sel for plan in plans for sel in selectors(plan.expr) if sel.name == "up"]
        if not asked or not all(any(_excludes(m, STRANGER) for m in sel.matchers) for sel in asked):
            return []
        labels = [{"job": STRANGER, "instance": f"10.0.1.{number}:9100"} for number in (1, 2)]
        return [Course("up", label, [float(up)] * count) for up, label in enumerate(labels)]

    def _side_names(self) -> list[str]:
        names = []
        for condition in self.conditions:
            for source in sources_of(condition.plan, self.plans):
                if len(source.families) > self.side:
                    names.append(source.families[self.side].name)
        return list(dict.fromkeys(names))

    def _ask_silence(self, test: UnitTest, samples: Samples, phase: str, end: float) -> None:
        time = self._grid(end) - 2 * self.step
        if evaluate_alert(samples, self.alert, time):
            raise CannotProvokeError(f"it holds where it should be silent ({phase})")
        claim = {"calm": "silent while calm", "over": "resolved", "idle": "silent without traffic"}
        expr = f'ALERTS{{alertname="{self.alert.name}"}}'
        test.asks.append(Ask(self.alert.rule.id, claim.get(phase, f"silent: {phase}"), time, expr, ()))

    def _ask_firing(self, test: UnitTest, samples: Samples, start: float, end: float) -> None:
        alert, hold, item = self.alert, self.alert.rule.hold, self.alert.rule.id
        first = self._grid(start)
        while not evaluate_alert(samples, alert, first):
            first += self.step
            if first > end:
                raise CannotProvokeError("its conditions, met one by one, do not hold together")
        severity = dict(alert.rule.labels)
        steady = self._steady_time(max(start + self.window, first + self.slack + hold) + 2 * self.step, end)
        expected = evaluate_alert(samples, alert, steady)
        base = f'ALERTS{{alertname="{alert.name}", alertstate="firing"}}'
        slack = 0.0 if self._is_sharp(samples, first) else self.slack
        test.asks.append(Ask(item, "not before its `for`", first + hold - slack - self.step, base, ()))
        state = {"alertname": alert.name, "alertstate": "firing", **severity}
        firing = tuple(sorted((_merged(labels, state), 1.0) for labels in expected))
        test.asks.append(
            Ask(item, "fires after its `for`", first + hold + slack, base, firing, name="ALERTS")
        )
        rendered = tuple(
            (_merged(labels, severity), _annotations(alert, labels, value))
            for labels, value in sorted(expected.items())
        )
        test.fires.append(Fires(item, "labels and annotations", steady, alert.name, rendered))

    def _is_sharp(self, samples: Samples, first: float) -> bool:
        """Whether all versions of Prometheus, and all orders of adding, see the alert begin at `first`."""
        times = (first - self.step, first)
        windows = [w for condition in self.conditions for w in self._windows(condition)]
        return all(edge_clear(time, windows) for time in times) and not any(
            math.isclose(value, condition.value, rel_tol=1e-6, abs_tol=1e-9)
            for condition in self.conditions
            if not _exact(condition)
            for time in times
            for value in samples.value(condition.plan, condition.part, time).values()
        )

    def _steady_time(self, earliest: float, end: float) -> float:
        windows = [w for condition in self.conditions for w in self._windows(condition) if w]
        time = self._grid(earliest) + self.step
        while not edge_clear(time, windows) and time + self.step < end:
            time += self.step
        return time

    def _grid(self, time: float) -> float:
        return math.floor(time / self.step) * self.step


def _excludes(matcher: Matcher, job: str) -> bool:
    """Whether a matcher is about jobs, and leaves this one out."""
    if matcher.name != "job":
        return False
    if matcher.op == "=~":
        return re.fullmatch(matcher.value, job) is None
    return matcher.op == "=" and matcher.value != job


def _merged(labels: Labels, more: Mapping[str, str]) -> Labels:
    return tuple(sorted({**dict(labels), **more}.items()))


def _annotations(alert: PlannedAlert, labels: Labels, value: float) -> Labels:
    """The rendered annotations. Raises CannotProvokeError for template actions that are not known here."""
    # Prometheus renders with the labels of the expression's result; the rule's own labels are not among them.
    try:
        return tuple(
            (key, render_annotation(text, dict(labels), value)) for key, text in alert.rule.annotations
        )
    except ValueError as error:
        raise CannotProvokeError(str(error)) from error


def _exact(condition: Condition) -> bool:
    """Whether the condition compares a value as it was sampled, with no arithmetic between."""
    plan = condition.plan
    return plan.kind == "gauge" and plan.divisor == 1 and plan.reduce != "avg" and plan.spec.over != "avg"


def just_not(condition: Condition) -> float:
    """Where the condition just does not hold: at the threshold itself, if a gauge can read exactly that."""
    return condition.value if _exact(condition) and condition.op in (">", "<") else short_of(condition)


def compared(samples: Samples, condition: Condition, time: float) -> Vector:
    """The series of a condition's signal that meet it at `time`."""
    holds = COMPARE[condition.op]
    values = samples.value(condition.plan, condition.part, time)
    return {key: value for key, value in values.items() if holds(value, condition.value)}


def evaluate_alert(samples: Samples, alert: PlannedAlert, time: float) -> Vector:
    """The series for which the alert's conditions hold together at `time`, with the first one's values."""
    first, *others = (*alert.conditions, *alert.traffic)
    result = compared(samples, first, time)
    for other in others:
        if not result:
            break
        names = set(first.plan.labels) & set(other.plan.labels)
        present = {_only(key, names) for key in compared(samples, other, time)}
        result = {key: value for key, value in result.items() if _only(key, names) in present}
    return result


def _only(labels: Labels, names: set[str]) -> Labels:
    return tuple(pair for pair in labels if pair[0] in names)
