"""The ledger in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from monitorgen.prove.check import CheckResult
from monitorgen.prove.ledger import Ledger, Level
from monitorgen.prove.simulate import Progress as Report

MARKS = {
    "proven": "[green]proven[/]",
    "failed": "[red]failed[/]",
    "unproven": "[yellow]unproven[/]",
    "none": "[dim]-[/]",
}
KINDS = {"record": "recording rules", "alert": "alerts", "panel": "panels", "scrape": "scrape jobs"}


@contextmanager
def progress_bar(*, enabled: bool) -> Iterator[Report | None]:
    """A progress bar on standard error, where that is a terminal; None otherwise."""
    if not enabled or not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("static checks", total=None)

        def report(text: str, done: int, total: int) -> None:
            bar.update(task, description=text, completed=done, total=total)

        yield report


def print_ledger(result: CheckResult, *, level: str, everything: bool = False) -> None:
    """Findings, failed proofs, what is unproven and why, then the count of every kind of item."""
    console = Console(highlight=False, soft_wrap=True)
    ledger = result.ledger
    levels: tuple[Level, ...] = ("static", "simulated") if level == "simulated" else ("static",)
    for finding in result.findings:
        console.print(escape(str(finding)), style="red" if finding.severity == "error" else "yellow")
        if finding.underlined:
            console.print(escape(finding.underlined), style="dim")
    _print_failures(console, ledger)
    _print_unproven(console, ledger, levels)
    if everything:
        _print_items(console, ledger, levels)
    console.print(_summary(ledger, levels))
    for name, why in ledger.dormant.items():
        console.print(f"[dim]dormant: {escape(name)}: {escape(why)}[/]")
    for note in ledger.notes:
        console.print(f"[yellow]{escape(note)}[/]")
    asked = ", ".join(result.promtools) or "no promtool"
    console.print(f"{len(ledger.proofs)} proofs, {len(result.findings)} findings; asked: {escape(asked)}")


def print_summary(console: Console, ledger: Ledger, levels: tuple[Level, ...]) -> None:
    """The count of every kind of item, by level."""
    console.print(_summary(ledger, levels))


def _print_failures(console: Console, ledger: Ledger) -> None:
    shown: set[tuple[str, str]] = set()
    for proof in ledger.failed:
        if (proof.item, proof.claim) in shown:
            continue
        shown.add((proof.item, proof.claim))
        console.print(
            f"[red]failed[/] {escape(proof.item)}: {escape(proof.claim)} [dim]({escape(proof.source)})[/]"
        )
        if proof.asked:
            console.print(
                f"       asked at {proof.when}: {escape(proof.asked)}"
                if proof.when
                else f"       {escape(proof.asked)}"
            )
        for line in proof.answer.splitlines()[:8]:
            console.print(f"       {escape(line)}")


def _print_unproven(console: Console, ledger: Ledger, levels: tuple[Level, ...]) -> None:
    for item in ledger.items:
        for level in levels:
            if ledger.state(item, level) == "unproven":
                why = ledger.reasons.get(item, {}).get(level, "nothing was asked of it")
                console.print(f"[yellow]unproven[/] ({level}) {escape(item)}: {escape(why)}")


def _print_items(console: Console, ledger: Ledger, levels: tuple[Level, ...]) -> None:
    table = Table("item", *levels, "claims", box=None, pad_edge=False)
    for item in ledger.items:
        claims = list(dict.fromkeys(p.claim for level in levels for p in ledger.of(item, level)))
        table.add_row(
            escape(item), *(MARKS[ledger.state(item, level)] for level in levels), escape("; ".join(claims))
        )
    console.print(table)


def _summary(ledger: Ledger, levels: tuple[Level, ...]) -> Table:
    table = Table("items", "", *levels, title=f"Ledger of {ledger.bundle}", title_justify="left")
    for kind, words in KINDS.items():
        items = [item for item in ledger.items if item.startswith(f"{kind}/")]
        if not items:
            continue
        cells = []
        for level in levels:
            states = [ledger.state(item, level) for item in items]
            concerned = sum(state != "none" for state in states)
            proven = states.count("proven")
            if not concerned:
                cells.append("[dim]not of this kind[/]")
            else:
                style = "green" if proven == concerned else "red" if "failed" in states else "yellow"
                cells.append(f"[{style}]{proven} of {concerned} proven[/]")
        table.add_row(words, str(len(items)), *cells)
    return table
