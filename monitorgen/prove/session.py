"""A live proof from end to end: servers to scrape, the stage for values, the stage for alerts, one ledger.

Both stages run side by side and are looked at in turn, by one thread, so that an interruption at any moment
unwinds everything: no process and no folder stays behind.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path

from monitorgen.build import Built
from monitorgen.bundle import Bundle
from monitorgen.errors import InputError
from monitorgen.prove.alert_stage import SILENT, AlertStage
from monitorgen.prove.asking import LiveResult
from monitorgen.prove.drive import STEADY, Drive
from monitorgen.prove.leaving import workfolder
from monitorgen.prove.ledger import KINDS, Ledger, Proof
from monitorgen.prove.processes import ProcessError, poll_until
from monitorgen.prove.prometheus import PrometheusError
from monitorgen.prove.questions import Subject, subject_of_folder
from monitorgen.prove.replay import Replay, ReplayServer
from monitorgen.prove.sources import Source
from monitorgen.prove.traffic import SERVER
from monitorgen.prove.value_stage import LiveReport, ValueStage
from monitorgen.prove.vllm_server import VllmOptions, VllmServer, serve_vllm
from monitorgen.prove.workload import programs_for, serve_workload
from monitorgen.targets.files import about, bundle_files
from monitorgen.targets.writer import write

# Two servers, recorded before and during load: one with speculation, one with too little memory for its load.
RECORDINGS = (
    tuple(f"vllm-0.32.0-ngram-{number}.prom.gz" for number in range(3)),
    tuple(f"vllm-0.32.0-pressure-{number}.prom.gz" for number in range(4)),
)
RECORDED = "vLLM 0.32.0"
STEP = 8.0  # seconds between two recordings
TIME_SCALE = 60.0
LONGEST_DRIVE = 600.0  # seconds for all scenarios on a real vLLM
NOT_ASKED = "alerts were not provoked in this run"

Progress = Callable[[str], None]
Save = Callable[[Ledger], None]


@dataclass(frozen=True)
class Options:
    """What a live proof is to do. Times are seconds.

    `seconds` is how long values are awaited at most, `settle` how long families that nobody exports.
    `sources` are servers that run already; `replay` adds recordings that are played back, `vllm` a real
    server, `workload` the bundled workloads under that interpreter.
    """

    seconds: float = 80.0
    settle: float = 20.0
    time_scale: float = TIME_SCALE
    alerts: bool = True
    replay: bool = True
    sources: tuple[Source, ...] = ()
    vllm: VllmOptions | None = None
    workload: Path | None = None
    binary: Path | None = None

    @property
    def has_sources(self) -> bool:
        """Whether there is anything to scrape."""
        return bool(self.replay or self.sources or self.vllm or self.workload)


@dataclass(frozen=True)
class Session:
    """What came of a live proof: the ledger, and the report on values that it rests on."""

    ledger: Ledger
    report: LiveReport
    problems: tuple[str, ...] = field(default=())

    @property
    def failed(self) -> bool:
        """Whether something that should have held did not."""
        return bool(self.ledger.failed or self.report.errors or self.report.down)


def prove_live(
    built: Built,
    ledger: Ledger,
    options: Options,
    *,
    folder: Path | None = None,
    bundle: Bundle | None = None,
    progress: Progress = lambda _: None,
    save: Save = lambda _: None,
) -> Session:
    """Add live proofs to a ledger. `save` is called with it when they are there, also if it ends early.

    What is proven is what `built` yields, or the `bundle` that was read from a `folder`.
    """
    bundle = bundle or built.bundle
    with ExitStack() as stack:
        workdir = stack.enter_context(workfolder())
        sources = list(options.sources)
        if options.replay:
            sources += _replays(built, stack)
        if options.workload and (job := _job_of(built, "workload")):
            for program in programs_for(bundle):
                progress(f"starting {program.name}")
                slowly = options.vllm is not None  # which needs the machine as well
                served = serve_workload(program, workdir, options.workload, slowly=slowly)
                sources.append(Source(job, stack.enter_context(served).target, kind="workload"))
        server = _vllm(options, workdir, progress, stack)
        real = [Source(_job(built, "vllm"), server.target, kind="vllm")] if server else []
        sources += real
        subject = with_units(subject_of_bundle(bundle, folder), built)
        values = stack.enter_context(
            ValueStage(subject, sources, workdir=workdir / "values", binary=options.binary)
        )
        alerts = _alert_stage(built, bundle, options, workdir, real, stack)
        values.await_sources(progress)
        progress(f"Prometheus {values.server.version()} scrapes {', '.join(s.url for s in sources)}")
        ledger.run.update(_run_facts(values, options))
        drive = stack.enter_context(Drive(server, progress=progress)) if server else None
        try:
            _watch(values, alerts, drive, options, progress)
        finally:
            report = _report(values)
            add_values(ledger, report, built)
            add_alerts(ledger, alerts, built)
            save(ledger)
    return Session(ledger, report)


def vllm_options(model: str) -> VllmOptions:
    """How vLLM is started for a proof: the server of all scenarios, with the folder of a model if given."""
    if not model:
        return SERVER
    folder = Path(model)
    if not (folder / "config.json").is_file():
        raise InputError(f"{model} is not the folder of a model: it has no config.json")
    return replace(SERVER, model=folder.absolute())


def _job(built: Built, engine: str) -> str:
    """The first job that scrapes an engine. Raises InputError if there is none."""
    job = _job_of(built, engine)
    if not job:
        raise InputError(f"the profile scrapes no {engine}, which is the source", hint="add a scrape job")
    return job


def _job_of(built: Built, engine: str) -> str:
    return next((job.job for job in built.bundle.scrape_jobs if job.engine == engine), "")


def _vllm(options: Options, workdir: Path, progress: Progress, stack: ExitStack) -> VllmServer | None:
    if options.vllm is None:
        return None
    progress("starting vLLM (about a minute)")
    server = stack.enter_context(serve_vllm(options.vllm, workdir=workdir))
    progress(f"vLLM {server.version} answers after {server.ready_after:.0f} s")
    return server


def _replays(built: Built, stack: ExitStack) -> list[Source]:
    """Servers that play recordings back, for the first job that scrapes vLLM."""
    job = _job(built, "vllm")
    folder = files("monitorgen.prove") / "data"
    found = []
    for recording in RECORDINGS:
        replay = Replay.from_files([Path(str(folder / name)) for name in recording], step=STEP)
        server = stack.enter_context(ReplayServer(replay))
        found.append(Source(job, server.target, kind="replayed"))
    return found


def _alert_stage(
    built: Built,
    bundle: Bundle,
    options: Options,
    workdir: Path,
    real: Sequence[Source],
    stack: ExitStack,
) -> AlertStage | None:
    if not options.alerts or not list(built.bundle.alerts):
        return None
    stage = AlertStage(
        built,
        bundle,
        factor=options.time_scale,
        workdir=workdir / "alerts",
        binary=options.binary,
        real=real,
    )
    return stack.enter_context(stage)


def subject_of_bundle(bundle: Bundle, folder: Path | None = None) -> Subject:
    """What is asked of a bundle: read from the files of `folder`, else from files written for it."""
    if folder is not None:
        return subject_of_folder(folder)
    with tempfile.TemporaryDirectory(prefix="monitorgen-") as scratch:
        write(bundle_files(bundle), Path(scratch) / "bundle", about=about(bundle))
        return subject_of_folder(Path(scratch) / "bundle")


def with_units(subject: Subject, built: Built) -> Subject:
    """The subject, its recorded series with the units that the bundle gives them."""
    units = {rule.id: rule.unit for rule in built.bundle.recording_rules}
    questions = tuple(
        replace(question, unit=units.get(question.item, question.unit)) for question in subject.questions
    )
    return replace(subject, questions=questions)


def _watch(
    values: ValueStage,
    alerts: AlertStage | None,
    drive: Drive | None,
    options: Options,
    progress: Progress,
) -> None:
    """Poll both stages until nothing more can come, or the time is over."""
    began = time.monotonic()
    asked = 0.0
    let_go = False
    if alerts and drive is None:
        alerts.let_go()
    complete = False
    said = ""

    def done() -> bool:
        nonlocal asked, complete, said, let_go
        now = time.monotonic()
        if not complete and now - asked >= values.interval:
            complete = values.poll() or (not values.failing and now - began >= options.settle)
            asked = time.monotonic()
        finished = alerts is None or alerts.poll()
        text = "{} of {} queries have values".format(*values.progress)
        text += "; {} of {} alerts went their way".format(*alerts.progress) if alerts else ""
        if text != said:
            said = text
            progress(text)
        if drive and drive.poll() != "over":
            if drive.calm:
                if alerts:
                    alerts.note_silence()
                    alerts.cross_check(drive.reports[STEADY])
                    alerts.let_go(alerts.names - drive.provokes)
                drive.go_on()
            return False
        if alerts and not let_go:
            let_go = True
            alerts.let_go()  # what the real server could not be brought to
        return finished and (complete or now - began >= options.seconds)

    longest = max(options.seconds, alerts.patience if alerts else 0.0, LONGEST_DRIVE if drive else 0.0)
    poll_until(done, timeout=longest, pause=threading.Event().wait, first=0.2, longest=0.4)
    values.ask_again()


def _report(values: ValueStage) -> LiveReport:
    """What came of it; of a Prometheus that died, the answers that it gave before."""
    with contextlib.suppress(ProcessError, PrometheusError):
        if values.server.child.alive:
            return values.report()
    return LiveReport(values.results, values.sources, "that died", time.time() - values.began)


def _run_facts(values: ValueStage, options: Options) -> dict[str, str]:
    kinds = dict.fromkeys(source.kind for source in values.sources)
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(values.began)),
        "prometheus": values.server.version(),
        "time_scale": f"{options.time_scale:g}" if options.alerts else "",
        "sources": ", ".join(kind for kind in kinds if kind),
    }


# The ledger


def add_values(ledger: Ledger, report: LiveReport, built: Built) -> None:
    """Add what was found of rules, panels and scrape jobs."""
    for result in report.results:
        if result.status == "unproven":
            ledger.unproven(result.item, "live", result.reason)
        else:
            ledger.add(proofs_of(result, report.prometheus))
    for job in built.bundle.scrape_jobs:
        sources = [source for source in report.sources if source.job == job.job]
        fared = [one for one in report.scrapes if one.source in sources]
        where = f"Prometheus {report.prometheus}"
        for one in fared:
            url, kind = one.source.url, one.source.kind
            ledger.add([Proof(job.id, "live", "is scraped", one.ok, where, url, str(one), kind=kind)])
        if not sources:
            ledger.unproven(job.id, "live", f"no {job.engine} was there to scrape")
        elif not fared:
            ledger.unproven(job.id, "live", "Prometheus died before its scrapes could be counted")


def add_alerts(ledger: Ledger, stage: AlertStage | None, built: Built) -> None:
    """Add what was found of alerts, what was seen on real servers first."""
    if stage is not None:
        ledger.add([*stage.real_proofs(), *stage.proofs])
    for alert in built.bundle.alerts:
        # That it was silent when it had to be is no proof that it ever fires.
        if all(proof.claim == SILENT for proof in ledger.of(alert.id, "live")):
            reasons = stage.reasons if stage else {}
            ledger.unproven(alert.id, "live", reasons.get(alert.id, NOT_ASKED))


def proofs_of(result: LiveResult, prometheus: str) -> list[Proof]:
    """A proof for each kind of source that a query has series of; one that does not hold, if it failed."""
    part = f" (query {result.ref})" if result.ref else ""
    base = Proof(result.item, "live", f"has values{part}", result.ok, "", result.query, kind="")
    if not result.evidence:
        return [replace(base, source=f"Prometheus {prometheus}", answer=result.reason, when=_clock())]
    return [
        replace(
            base,
            source=f"Prometheus {prometheus}, {KINDS.get(one.kind, one.kind) or 'a server'}",
            answer=result.reason or f"{one.series} series, last {one.value:g}",
            when=_clock(one.time),
            kind=one.kind,
            series=one.series,
            value=one.value,
            points=one.points,
        )
        for one in result.evidence
    ]


def _clock(seconds: float | None = None) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
