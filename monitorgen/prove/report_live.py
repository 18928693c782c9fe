"""What a live proof prints: progress, the ledger by level and by source, what is unproven and why."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from monitorgen.prove.ledger import LEVELS, Level
from monitorgen.prove.report import print_failures, print_summary, print_unproven
from monitorgen.prove.report_ledger import print_sources
from monitorgen.prove.run import Outcome
from monitorgen.prove.saved import LedgerFile


def say(text: str) -> None:
    """Progress on standard error; on a terminal each line takes the place of the one before."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[2K{text[:110]}")
        sys.stderr.flush()
    else:
        print(text, file=sys.stderr)


def print_proven(outcome: Outcome, files: Sequence[LedgerFile], require: Sequence[str] = ()) -> None:
    """Findings, failed proofs, the unproven items under their reason, the counts, and where the ledger is."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[2K")
    console = Console(highlight=False, soft_wrap=True)
    ledger = outcome.ledger
    for finding in outcome.findings:
        console.print(escape(str(finding)), style="red" if finding.severity == "error" else "yellow")
    places = {item: about.origin for item, about in ledger.about.items()}
    print_failures(console, ledger, places, complained={finding.item for finding in outcome.findings})
    for error in outcome.report.errors if outcome.report else ():
        console.print(f"[red]rule error[/] {escape(error)}")
    levels: tuple[Level, ...] = LEVELS if outcome.checked else ("live",)
    for level in levels:
        print_unproven(console, ledger, level, everything=True)
    print_summary(console, ledger, levels)
    print_sources(console, ledger)
    for note in ledger.notes:
        console.print(f"[yellow]{escape(note)}[/]")
    for name in LEVELS:
        if name in require and (open_items := ledger.counts(name)["unproven"]):
            console.print(f"[red]--require {name}: {open_items} items are unproven[/]")
    for file in files:
        console.print(f"ledger: {file.path}")
