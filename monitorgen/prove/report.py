"""The ledger in a terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from monitorgen.prove.check import CheckResult
from monitorgen.prove.ledger import Ledger, Level, Proof
from monitorgen.prove.simulate import Progress as Report

MARKS = {
    "proven": "[green]proven[/]",
    "failed": "[red]failed[/]",
    "unproven": "[yellow]unproven[/]",
    "none": "[dim]-[/]",
}
KINDS = {"record": "recording rules", "alert": "alerts", "panel": "panels", "scrape": "scrape jobs"}
WIDTH = 120  # where there is no terminal that has one
SHORT = 96  # characters of an expected or actual value
CLAIMS = 6  # failed claims shown of an item
_COMPARED = re.compile(r"exp: ?(?P<exp>.*?),?\s+got: ?(?P<got>.*)", re.DOTALL)


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
    _print_failures(console, result, complained={finding.item for finding in result.findings})
    for name in levels:
        print_unproven(console, ledger, name, everything=everything)
    if everything:
        _print_items(console, result, levels)
    print_summary(console, ledger, levels)
    _print_dormant(console, ledger.dormant)
    for note in ledger.notes:
        console.print(f"[yellow]{escape(note)}[/]")
    failed = len(ledger.failed)
    counted = f"{len(ledger.proofs)} proofs{f', {failed} of them failed' if failed else ''}"
    asked = ", ".join(result.promtools) or "no promtool"
    console.print(f"{counted}; {len(result.findings)} findings; asked: {escape(asked)}")


def _print_failures(console: Console, result: CheckResult, *, complained: set[str]) -> None:
    """Each item that failed with its place in the profile, and under it the claims that did not hold."""
    by_item: dict[str, dict[tuple[str, str], list[Proof]]] = {}
    for proof in result.ledger.failed:
        if proof.level == "static" and not proof.source.startswith("promtool") and proof.item in complained:
            continue  # the finding has said it
        claims = by_item.setdefault(proof.item, {})
        claims.setdefault((proof.level, proof.claim), []).append(proof)
    for item, claims in by_item.items():
        place = str(result.origins.get(item, ""))
        console.print(f"[red]failed[/] {escape(item)}{f'  [dim]{escape(place)}[/]' if place else ''}")
        for (level, claim), proofs in list(claims.items())[:CLAIMS]:
            sources = _sources(proofs)
            console.print(f"  {escape(claim)} [dim]({level}; {escape(sources)})[/]")
            for name, text in _shortly(proofs[0]):
                console.print(f"    [dim]{name:<9}[/]{escape(text)}")
        if len(claims) > CLAIMS:
            console.print(f"  [dim]and {len(claims) - CLAIMS} more claims[/]")


def _sources(proofs: Iterable[Proof]) -> str:
    """`promtool 2.42.0, 2.53.3` of several sources with one name."""
    names: dict[str, list[str]] = {}
    for source in dict.fromkeys(proof.source for proof in proofs):
        name, _, version = source.rpartition(" ") if source.startswith("promtool ") else (source, "", "")
        names.setdefault(name, []).append(version)
    return "; ".join(f"{name} {', '.join(versions)}".strip() for name, versions in names.items())


def _shortly(proof: Proof) -> Iterator[tuple[str, str]]:
    """What was asked, expected and got, a line each, from where expected and got differ."""
    if proof.asked:
        yield "asked", _cut(f"at {proof.when}: {proof.asked}" if proof.when else proof.asked)
    answer = " ".join(proof.answer.split())
    match = _COMPARED.search(answer)
    if match is None:
        if answer:
            yield "answer", _cut(answer)
        return
    expected, got = match["exp"], match["got"]
    same = next((i for i, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b), 0)
    start = max(same - SHORT // 2, 0) if max(len(expected), len(got)) > SHORT else 0
    yield "expected", _cut(expected, start)
    yield "got", _cut(got, start)


def _cut(text: str, start: int = 0) -> str:
    piece = text[start : start + SHORT]
    return f"{'…' if start else ''}{piece}{'…' if len(text) > start + SHORT else ''}"


def print_unproven(console: Console, ledger: Ledger, level: Level, *, everything: bool = False) -> None:
    """The items that have no proof of a level, under the reason that they share."""
    by_reason: dict[str, list[str]] = {}
    for item in ledger.items:
        if ledger.state(item, level) == "unproven":
            reason = ledger.reasons.get(item, {}).get(level, "nothing was asked of it")
            by_reason.setdefault(reason, []).append(item)
    for reason, items in sorted(by_reason.items()):
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
    _print_table(console, table)


def print_summary(console: Console, ledger: Ledger, levels: tuple[Level, ...]) -> None:
    """The count of every kind of item, by level."""
    console.print(f"[bold]Ledger of {escape(ledger.bundle)}[/]")
    table = Table("", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("items", justify="right")
    for level in levels:
        table.add_column(level)
    for kind, words in KINDS.items():
        items = [item for item in ledger.items if item.startswith(f"{kind}/")]
        if items:
            cells = [_cell([ledger.state(item, level) for item in items]) for level in levels]
            table.add_row(words, str(len(items)), *cells)
    _print_table(console, table)


def _cell(states: list[str]) -> str:
    concerned = sum(state != "none" for state in states)
    if not concerned:
        return "[dim]-[/]"
    proven, failed = states.count("proven"), states.count("failed")
    style = "green" if proven == concerned else "red" if failed else "yellow"
    return f"[{style}]{proven} of {concerned} proven{f', {failed} failed' if failed else ''}[/]"


def _print_dormant(console: Console, dormant: Mapping[str, str]) -> None:
    """What was not built, for want of a family: signals with the reason, and whatever rests on them."""
    for name, why in dormant.items():
        resting = [other for other, reason in dormant.items() if f"signal {name} is dormant" in reason]
        if not why.endswith("is dormant") or not any(other in why for other in dormant):
            also = f" (and {', '.join(resting)})" if resting else ""
            console.print(f"[dim]dormant: {escape(name)}{escape(also)}: {escape(why)}[/]")


def _print_table(console: Console, table: Table) -> None:
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
