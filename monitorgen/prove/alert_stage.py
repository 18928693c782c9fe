"""The stage on which alerts are provoked: Prometheus in quick motion, Alertmanager, and a webhook at the end.

Every alert gets two targets of a scenario exporter, so that all are provoked side by side; an alert that is
about a whole job gets a Prometheus of its own. Real servers can be scraped beside them: what fires there is
proven by the real thing.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import yaml

from monitorgen import promql
from monitorgen.build import Built
from monitorgen.bundle import Bundle
from monitorgen.prove.alert_course import (
    CannotProvokeError,
    Course,
    Plan,
    calm_together,
    fired,
    in_company,
    plan_course,
    proof,
)
from monitorgen.prove.alertmanager import Alertmanager, for_proof
from monitorgen.prove.crosscheck import CrossReport, cross_check
from monitorgen.prove.ledger import Proof
from monitorgen.prove.load import LoadReport
from monitorgen.prove.player import Player, PlayerServer
from monitorgen.prove.prometheus import Prometheus
from monitorgen.prove.scaled import lookback, scale_groups, scrape_every
from monitorgen.prove.sightings import Sightings
from monitorgen.prove.sources import Source
from monitorgen.prove.webhook import WebhookReceiver
from monitorgen.prove.world import Target, Where
from monitorgen.targets.alertmanager import alertmanager_config
from monitorgen.targets.prometheus import rule_files

RULES = "rules.yaml"
SILENT = "silent under steady load"


@dataclass
class _Room:
    """One Prometheus with its players, and what was seen there."""

    name: str
    plans: list[Plan]
    sightings: Sightings
    folder: Path
    players: PlayerServer | None = None
    server: Prometheus | None = None
    courses: list[Course] = field(default_factory=list)
    listed: dict[str, str] = field(default_factory=dict)  # job -> its targets, as last written


class AlertStage:
    """Provokes every alert of a bundle inside the `with` block, by and by, as `poll` is called.

    `built` says what is meant: whom an alert must name and how it reads; the rules are those of `bundle`.
    `factor` divides all durations; `real` are servers to scrape beside the scenarios. After the run,
    `proofs` are what was seen and `reasons` say why an alert could not be provoked.
    Raises InputError for a factor that leaves windows too short, ToolMissing without an Alertmanager.
    """

    def __init__(
        self,
        built: Built,
        bundle: Bundle,
        *,
        factor: float,
        workdir: Path,
        binary: Path | None = None,
        real: Sequence[Source] = (),
    ) -> None:
        self.built, self.factor, self.real = built, factor, tuple(real)
        self.groups = scale_groups(bundle.groups, factor)
        self.interval = scrape_every(bundle.groups, factor)
        self.reasons: dict[str, str] = {}
        self._bundle = bundle
        self._noted: list[Proof] = []
        self._began = 0.0
        self._workdir, self._binary = workdir, binary
        self._stack = contextlib.ExitStack()
        self._rooms = self._plan()
        for room in self._rooms:
            together = [p for r in self._rooms for p in r.plans]
            room.plans = [in_company(plan, together) for plan in room.plans]
        self._webhook = WebhookReceiver()

    @property
    def sightings(self) -> Sightings:
        """What was seen in the room where real servers are scraped."""
        return self._rooms[0].sightings

    @property
    def names(self) -> frozenset[str]:
        """The alerts that scenarios can provoke."""
        return frozenset(course.plan.alert.name for room in self._rooms for course in room.courses)

    @property
    def proofs(self) -> list[Proof]:
        """What was proven so far on scenarios."""
        return [proof for room in self._rooms for course in room.courses for proof in course.proofs]

    @property
    def progress(self) -> tuple[int, int]:
        """How many alerts have come to the end of their way, of how many."""
        courses = [course for room in self._rooms for course in room.courses]
        return sum(course.step == "done" for course in courses), len(courses)

    @property
    def patience(self) -> float:
        """Seconds after which every alert has come to its end, whatever happens."""
        courses = [course for room in self._rooms for course in room.courses]
        return max((course.quiet + 2 * course.patience for course in courses), default=0.0)

    @property
    def done(self) -> bool:
        """Whether every alert has come to the end of its way."""
        done, total = self.progress
        return done == total

    def let_go(self, names: Container[str] | None = None) -> None:
        """Let the scenarios of these alerts begin; without names, of all that no real server provoked."""
        for room in self._rooms:
            for course in room.courses:
                name = course.plan.alert.name
                if names is None and self._seen_for_real(name):
                    course.leave_out()
                elif names is None or name in names:
                    course.let_go()

    def _seen_for_real(self, name: str) -> bool:
        seen = [one for source in self.real for one in self.sightings.of(name, _on(source))]
        return any(one.delivered for one in seen)

    def note_silence(self) -> None:
        """Take down for every alert whether it fired on a real server so far: under steady load none may."""
        for rule in self._bundle.alerts:
            for source in self.real:
                seen = [one for one in self.sightings.of(rule.alert, _on(source)) if one.firing]
                said = f"fired: {seen[0].annotations.get('summary', '')}" if seen else "it did not fire"
                self._noted.append(proof(rule.id, SILENT, not seen, self._where(source), said, source.kind))

    def cross_check(self, load: LoadReport) -> CrossReport | None:
        """Compare what is recorded of the real server with what its clients measured; None without a server.

        The load must have been all that it did since the stage is up.
        """
        server = self._rooms[0].server
        if not self.real or server is None:
            return None
        report = cross_check(
            server,
            self._bundle.recording_rules,
            load,
            instance=_on(self.real[0])["instance"],
            interval=self.interval,
            time_scale=self.factor,
            since=self._began,
        )
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        where = self._where(self.real[0])
        self._noted += [check.proof(source=where, when=when) for check in report.checks]
        return report

    def real_proofs(self) -> list[Proof]:
        """What was proven on real servers: who was silent when it had to be, and what fired."""
        found = list(self._noted)
        for rule in self._bundle.alerts:
            for source in self.real:
                seen = [
                    one
                    for one in self.sightings.of(rule.alert, _on(source))
                    if one.labels.get("severity") == dict(rule.labels).get("severity") and one.delivered
                ]
                if seen:
                    where, hold = self._where(source), rule.hold / self.factor
                    found += fired(rule.id, seen, hold, self.interval, where, source.kind)
                if any(one.resolved for one in seen):
                    claim = "resolves, and the receiver is told"
                    found.append(proof(rule.id, claim, True, where, "resolved", source.kind))
        return found

    def _where(self, source: Source) -> str:
        server = self._rooms[0].server
        version = server.version() if server and server.child.alive else ""
        return f"Prometheus {version}, {source.kind} at time scale {self.factor:g}"

    def poll(self) -> bool:
        """Look at every server once and move the alerts on; whether all are done."""
        deliveries = self._webhook.deliveries()
        for room in self._rooms:
            assert room.server is not None
            room.server.check()
            now = time.time()
            room.sightings.update(room.server.alerts(), deliveries, now)
            for course in room.courses:
                course.tick(room.sightings, now)
            self._discover(room)
        return self.done

    def __enter__(self) -> AlertStage:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._webhook)
            config = for_proof(alertmanager_config(self.built.bundle), self._webhook.url, self.factor)
            folder = self._workdir / "alertmanager"
            manager = stack.enter_context(Alertmanager(config, workdir=folder))
            for room in self._rooms:
                self._open(room, manager, stack)
            self._stack = stack.pop_all()
        self._began = time.time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _plan(self) -> list[_Room]:
        """The rooms: the first for all alerts that can share one, then one for each that cannot."""
        plans = []
        for number, alert in enumerate(self.built.alerts):
            try:
                plans.append(plan_course(self.built, alert, number))
            except CannotProvokeError as error:
                self.reasons[alert.rule.id] = f"no scenario provokes it: {error}"
        alone = [[plan] for plan in plans if plan.alone]
        shared = [plan for plan in plans if not plan.alone]
        rules = tuple(self.built.bundle.alerts)
        return [
            _Room(f"stage-{number}", some, Sightings(rules), self._workdir / f"stage-{number}")
            for number, some in enumerate([shared, *alone])
        ]

    def _open(self, room: _Room, manager: Alertmanager, stack: contextlib.ExitStack) -> None:
        pairs = [
            (self._player(plan, plan.subject), self._player(plan, plan.bystander)) for plan in room.plans
        ]
        room.players = stack.enter_context(PlayerServer([player for pair in pairs for player in pair]))
        room.folder.mkdir(parents=True, exist_ok=True)
        self._discover(room)
        real = self.real if room is self._rooms[0] else ()
        room.server = stack.enter_context(
            Prometheus(
                self._config(room, manager.target, real),
                workdir=room.folder,
                files=_one_file(rule_files(self.groups)),
                binary=self._binary,
                flags=(
                    f"--query.lookback-delta={promql.format_duration(lookback(self.factor, self.interval))}",
                ),
            )
        )
        source = f"Prometheus {room.server.version()}, scenario, time scale {self.factor:g}"
        room.courses = [
            Course(plan, *pair, self.factor, self.interval, source)
            for plan, pair in zip(room.plans, pairs, strict=True)
        ]

    def _player(self, plan: Plan, target: Target) -> Player:
        """A target of a plan; it exports all that targets of its job do, so that no other alert minds."""
        job = dict(target.labels)["job"]
        others = [p for room in self._rooms for p in room.plans if dict(p.subject.labels)["job"] == job]
        families = {name: family for other in others for name, family in other.families.items()}
        also: dict[str, list[Where]] = {}
        for other in others:
            for name, wheres in other.also.items():
                also.setdefault(name, []).extend(wheres)
        drives = {**calm_together(others), **plan.calm}
        return Player(target, families, drives, also, factor=self.factor)

    def _discover(self, room: _Room) -> None:
        """Write the targets of each job for Prometheus to find, where they changed."""
        assert room.players is not None
        held: set[int] = set()
        if room is self._rooms[0]:  # elsewhere a job without targets is what is to be provoked
            waiting = [course for course in room.courses if course.step == "held"]
            held = {id(player) for course in waiting for player in (course.subject, course.bystander)}
            if not room.courses:  # before they are made, nobody is let go
                held = {id(player) for player in room.players.players}
        for job in self.built.bundle.scrape_jobs:
            text = json.dumps(room.players.discovered(job.job, leave_out=held))
            if room.listed.get(job.job) != text:
                room.listed[job.job] = text
                path = room.folder / f"targets-{job.job}.json"
                fresh = path.with_suffix(".new")
                fresh.write_text(text, encoding="utf-8")
                fresh.replace(path)  # Prometheus never reads half a file

    def _config(self, room: _Room, manager: str, real: Sequence[Source]) -> str:
        every = promql.format_duration(self.interval)
        jobs = []
        for job in self.built.bundle.scrape_jobs:
            entry: dict[str, object] = {
                "job_name": job.job,
                "file_sd_configs": [{"files": [f"targets-{job.job}.json"]}],
            }
            static = [{"targets": [s.target], "labels": dict(s.labels)} for s in real if s.job == job.job]
            if static:
                entry["static_configs"] = static
            jobs.append(entry)
        tree = {
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [manager]}]}]},
            "rule_files": [RULES],
            "scrape_configs": jobs,
        }
        return yaml.safe_dump(tree, sort_keys=False)


def _on(source: Source) -> dict[str, str]:
    """The labels by which a source's alerts are known."""
    return {"instance": dict(source.labels).get("instance", source.target)}


def _one_file(files: dict[str, str]) -> dict[str, str]:
    """Rule files as one, since only its groups matter here."""
    groups = [group for text in files.values() for group in yaml.safe_load(text)["groups"]]
    return {RULES: yaml.safe_dump({"groups": groups}, sort_keys=False)}
