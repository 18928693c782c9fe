"""The ledger in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from monitorgen.prove.check import CheckResult
from monitorgen.prove.ledger import Ledger, Level, Proof
from monitorgen.prove.simulate import Progress as Report
from monitorgen.prove.views import (
    KIND_WORDS,
    expected_and_got,
    failures_of,
    kinds_of,
    sources_text,
    unproven_by_reason,
)

MARKS = {
    "proven": "[green]proven[/]",
    "failed": "[red]failed[/]",
    "unproven": "[yellow]unproven[/]",
    "none": "[dim]-[/]",
}
WIDTH = 120  # where there is no terminal that has one
SHORT = 96  # characters of an expected or actual value
CLAIMS = 6  # failed claims shown of an item


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
    places = {item: str(origin) for item, origin in result.origins.items()}
    print_failures(console, ledger, places, complained={finding.item for finding in result.findings})
    for name in levels:
        print_unproven(console, ledger, name, everything=everything)
    if everything:
        _print_items(console, result, levels)
    print_summary(console, ledger, levels)
    print_dormant(console, ledger.dormant)
    for note in ledger.notes:
        console.print(f"[yellow]{escape(note)}[/]")
    failed = len(ledger.failed)
    counted = f"{len(ledger.proofs)} proofs{f', {failed} of them failed' if failed else ''}"
    asked = ", ".join(result.promtools) or "no promtool"
    console.print(f"{counted}; {len(result.findings)} findings; asked: {escape(asked)}")


def print_failures(
    console: Console, ledger: Ledger, places: Mapping[str, str], *, complained: Collection[str] = ()
) -> None:
    """Each item that failed with its place in the profile, and under it the claims that did not hold.

    Of the items that were `complained` of by findings, what the checks found is not said again.
    """
    for item, claims in failures_of(ledger).items():
        untold = [
            (level, claim)
            for level, claim in claims
            # A check that complains of an item is a finding, which was printed.
            if level != "static" or claim.failed[0].source.startswith("promtool") or item not in complained
        ]
        if not untold:
            continue
        place = places.get(item, "")
        console.print(f"[red]failed[/] {escape(item)}{f'  [dim]{escape(place)}[/]' if place else ''}")
        for level, claim in untold[:CLAIMS]:
            console.print(f"  {escape(claim.text)} [dim]({level}; {escape(sources_text(claim.proofs))})[/]")
            for name, text in _shortly(claim.failed[0]):
                console.print(f"    [dim]{name:<9}[/]{escape(text)}")
        if len(untold) > CLAIMS:
            console.print(f"  [dim]and {len(untold) - CLAIMS} more claims[/]")


def _shortly(proof: Proof) -> Iterator[tuple[str, str]]:
    """What was asked, expected and got, a line each, from where expected and got differ."""
    if proof.asked:
        yield "asked", _cut(f"at {proof.when}: {proof.asked}" if proof.when else proof.asked)
    answer = " ".join(proof.answer.split())
    compared = expected_and_got(answer)
    if compared is None:
        if answer:
            yield "answer", _cut(answer)
        return
    expected, got = compared
    same = next((i for i, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b), 0)
    start = max(same - SHORT // 2, 0) if max(len(expected), len(got)) > SHORT else 0
    yield "expected", _cut(expected, start)
    yield "got", _cut(got, start)


def _cut(text: str, start: int = 0) -> str:
    piece = text[start : start + SHORT]
    return f"{'…' if start else ''}{piece}{'…' if len(text) > start + SHORT else ''}"


def print_unproven(console: Console, ledger: Ledger, level: Level, *, everything: bool = False) -> None:
    """The items that have no proof of a level, under the reason that they share."""
    for reason, items in unproven_by_reason(ledger, level).items():
        shown = items if everything else items[:CLAIMS]
        more = f" and {len(items) - len(shown)} more" if len(items) > len(shown) else ""
        console.print(f"[yellow]unproven[/] [dim]({level})[/] {_count(len(items), 'item')}: {escape(reason)}")
        console.print(f"  {escape(', '.join(shown))}{more}", style="dim")


def _print_items(console: Console, result: CheckResult, levels: tuple[Level, ...]) -> None:
    """Every item with its state at each level, how many claims were tried, and its place in the profile."""
    ledger = result.ledger
    table = Table("item", *levels, box=SIMPLE_HEAD, pad_edge=False)
    table.columns[0].overflow = "fold"
    table.add_column("claims", justify="right")
    table.add_column("profile", overflow="fold")
    for item in ledger.items:
        proofs = [proof for level in levels for proof in ledger.of(item, level)]
        claims = {(proof.level, proof.claim) for proof in proofs}
        states = (MARKS[ledger.state(item, level)] for level in levels)
        place = str(result.origins.get(item, ""))
        table.add_row(escape(item), *states, str(len(claims)), f"[dim]{escape(place)}[/]")
    print_table(console, table)


def print_summary(console: Console, ledger: Ledger, levels: tuple[Level, ...]) -> None:
    """The count of every kind of item, by level."""
    console.print(f"[bold]Ledger of {escape(ledger.bundle)}[/]")
    table = Table("", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("items", justify="right")
    for level in levels:
        table.add_column(level)
    for kind, items in kinds_of(ledger).items():
        cells = [_cell([ledger.state(item, level) for item in items]) for level in levels]
        table.add_row(escape(KIND_WORDS.get(kind, kind)), str(len(items)), *cells)
    print_table(console, table)


def _cell(states: list[str]) -> str:
    concerned = sum(state != "none" for state in states)
    if not concerned:
        return "[dim]-[/]"
    proven, failed = states.count("proven"), states.count("failed")
    style = "green" if proven == concerned else "red" if failed else "yellow"
    return f"[{style}]{proven} of {concerned} proven{f', {failed} failed' if failed else ''}[/]"


def print_dormant(console: Console, dormant: Mapping[str, str]) -> None:
    """What was not built, for want of a family: signals with the reason, and whatever rests on them."""
    for name, why in dormant.items():
        resting = [other for other, reason in dormant.items() if f"signal {name} is dormant" in reason]
        if not why.endswith("is dormant") or not any(other in why for other in dormant):
            also = f" (and {', '.join(resting)})" if resting else ""
            console.print(f"[dim]dormant: {escape(name)}{escape(also)}: {escape(why)}[/]")


def print_table(console: Console, table: Table) -> None:
    """A table as wide as the terminal, or WIDTH; without the blanks that fill its lines."""
    width = console.width if console.is_terminal else WIDTH
    wide = Console(
        width=width, highlight=False, force_terminal=console.is_terminal, no_color=console.no_color
    )
    with wide.capture() as captured:
        wide.print(table)
    for line in _trimmed(captured.get().splitlines()):
        console.file.write(f"{line}\n")


def _trimmed(lines: Iterable[str]) -> Iterator[str]:
    return (line.rstrip() for line in lines if line.strip())


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
