"""The live proof that needs no server: recordings of a real vLLM 0.32, played back to a real Prometheus.

What comes of them is marked as replayed; families that these servers did not export are unproven, with the
reason.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from monitorgen.build import Built
from monitorgen.errors import InputError
from monitorgen.prove.ledger import Ledger, Proof, about_items
from monitorgen.prove.live import LiveReport, LiveResult, Source, run_live
from monitorgen.prove.questions import subject_of_folder
from monitorgen.prove.replay import Replay, ReplayServer
from monitorgen.targets.files import about, bundle_files
from monitorgen.targets.writer import write

# Two servers, recorded before and during load: one with speculation, one with too little memory for its load.
RECORDINGS = (
    tuple(f"vllm-0.32.0-ngram-{number}.prom.gz" for number in range(3)),
    tuple(f"vllm-0.32.0-pressure-{number}.prom.gz" for number in range(4)),
)
NOT_PROVOKED = "alerts are provoked in simulated time only: nothing was provoked here"


@dataclass(frozen=True)
class Embedded:
    """A ledger of live proofs and the report that they come from."""

    ledger: Ledger
    report: LiveReport

    @property
    def failed(self) -> bool:
        """Whether something that should have held did not."""
        return bool(self.ledger.failed or self.report.errors)

    def save(self, path: Path) -> None:
        """Write the ledger as JSON. Raises InputError if the place cannot be written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                json.dumps(self.ledger.to_dict(), indent=2, sort_keys=True) + "\n", encoding="utf-8"
            )
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def prove_replayed(
    built: Built, *, seconds: float, binary: Path | None, progress: Callable[[str], None] = lambda _: None
) -> Embedded:
    """Ask a real Prometheus for every rule and panel of a bundle, over recordings that are played back."""
    jobs = [job.job for job in built.bundle.scrape_jobs if job.engine == "vllm"]
    if not jobs:
        raise InputError("the profile scrapes no vLLM, which is what was recorded", hint="add a scrape job")
    folder = files("monitorgen.prove") / "data"
    with ExitStack() as stack:
        workdir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="monitorgen-")))
        sources = []
        for recording in RECORDINGS:
            replay = Replay.from_files([Path(str(folder / name)) for name in recording], step=8)
            sources.append(Source(jobs[0], stack.enter_context(ReplayServer(replay)).target))
        write(bundle_files(built.bundle), workdir / "bundle", about=about(built.bundle))
        report = run_live(
            subject_of_folder(workdir / "bundle"),
            sources,
            workdir=workdir,
            seconds=seconds,
            binary=binary,
            progress=progress,
        )
    return Embedded(_ledger(built, report), report)


def _ledger(built: Built, report: LiveReport) -> Ledger:
    bundle = built.bundle
    ledger = Ledger(bundle.name, tuple(dict.fromkeys(bundle.items)), dormant=dict(bundle.dormant))
    ledger.about = about_items(bundle)
    source = f"Prometheus {report.prometheus}, vLLM 0.32.0 replayed"
    for result in report.results:
        if result.status == "unproven":
            ledger.unproven(result.item, "live", result.reason)
        else:
            ledger.add([_proof(result, source)])
    scraped = {source.job for source in report.sources}
    for job in bundle.scrape_jobs:
        if job.job in scraped:
            ledger.add([Proof(job.id, "live", "the target is scraped", True, source)])
        else:
            ledger.unproven(job.id, "live", f"no {job.engine} was there to scrape")
    for alert in bundle.alerts:
        ledger.unproven(alert.id, "live", NOT_PROVOKED)
    return ledger


def _proof(result: LiveResult, source: str) -> Proof:
    answer = f"{result.series} series, {result.value:g}" if result.status == "proven" else result.reason
    claim = f"has values{f' (query {result.ref})' if result.ref else ''}"
    return Proof(result.item, "live", claim, result.status == "proven", source, result.query, answer)
