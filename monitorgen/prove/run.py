"""`prove` as a function: the proofs of all levels in one ledger, saved as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from monitorgen.build import Built
from monitorgen.checks import Finding
from monitorgen.errors import MonitorgenError
from monitorgen.prove.adopt import adopted
from monitorgen.prove.check import check_built
from monitorgen.prove.ledger import Ledger, Level, Proof, about_items
from monitorgen.prove.preflight import Checked
from monitorgen.prove.prometheus_api import PrometheusClient
from monitorgen.prove.running import add_running, ask_running
from monitorgen.prove.saved import LedgerFile
from monitorgen.prove.session import Options, prove_live, subject_of_bundle, with_units
from monitorgen.prove.value_stage import LiveReport
from monitorgen.readers import read_folder


@dataclass(frozen=True)
class Outcome:
    """A ledger of all levels, the findings of the static checks, and the report of the live run."""

    ledger: Ledger
    findings: tuple[Finding, ...] = ()
    report: LiveReport | None = None
    checked: bool = True

    def exit_code(self, require: Sequence[str] = ()) -> int:
        """0 if everything holds; 1 for findings, failed proofs, or items unproven at a level of `require`."""
        serious = [finding for finding in self.findings if finding.severity != "info"]
        if serious or self.ledger.failed or (self.report and self.report.errors):
            return 1
        return int(any(self.ledger.counts(cast(Level, level))["unproven"] for level in require))


def prove_profile(
    built: Built,
    options: Options,
    checked: Sequence[Checked] = (),
    *,
    folder: Path | None = None,
    running: PrometheusClient | None = None,
    live_only: bool = False,
    files: Sequence[LedgerFile] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Prove a bundle at all levels, or live only; the ledger is saved to `files` after each of them.

    The bundle is what the profile yields, or what a written `folder` holds, by what the profile means.
    A `running` server is asked as it is; without any source there is nothing else to run then.
    Endpoints that `checked` finds unusable are failed proofs of their scrape job; the others go on.
    """
    bundle = adopted(read_folder(folder), built.bundle) if folder else built.bundle
    findings: tuple[Finding, ...] = ()
    if live_only:
        ledger = Ledger(bundle.name, tuple(dict.fromkeys(bundle.items)), dormant=dict(bundle.dormant))
    else:
        say("static checks and simulated time")
        result = check_built(built, bundle, "simulated", ())
        ledger, findings = result.ledger, result.findings
    ledger.about = about_items(bundle)

    def save(current: Ledger) -> None:
        for file in files:
            file.save(current)

    save(ledger)
    for one in checked:
        for note in one.notes:
            say(note)
        for problem in one.problems:
            say(problem)
            _add_problem(ledger, built, one, problem)
    if checked and not any(one.ok for one in checked) and not options.replay:
        save(ledger)
        raise MonitorgenError(
            "no endpoint can be scraped: " + "; ".join(p for one in checked for p in one.problems)
        )
    if running is not None:
        say(f"asking {running.url}")
        subject = with_units(subject_of_bundle(bundle, folder), built)
        report = ask_running(running, subject, jobs=[job.job for job in bundle.scrape_jobs])
        add_running(ledger, report)
        save(ledger)
        if not options.has_sources:
            return Outcome(ledger, findings, None, checked=not live_only)
    session = prove_live(built, ledger, options, folder=folder, bundle=bundle, progress=say, save=save)
    return Outcome(ledger, findings, session.report, checked=not live_only)


def _add_problem(ledger: Ledger, built: Built, one: Checked, problem: str) -> None:
    job = next((job for job in built.bundle.scrape_jobs if job.job == one.source.job), None)
    if job is not None:
        ledger.add(
            [
                Proof(
                    job.id, "live", "can be scraped", False, "one GET", one.source.url, problem, kind="scrape"
                )
            ]
        )
    else:
        ledger.notes.append(problem)
