"""A ledger alone in a terminal, of one run or of several put together."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from monitorgen.prove.ledger import LEVELS, Ledger
from monitorgen.prove.report import (
    print_dormant,
    print_failures,
    print_summary,
    print_table,
    print_unproven,
)
from monitorgen.prove.views import KIND_WORDS, kinds_of, proven_by, source_words


def print_report(ledger: Ledger) -> None:
    """What failed, what is unproven and why, how much is proven, and by which source."""
    console = Console(highlight=False, soft_wrap=True)
    print_failures(console, ledger, {item: about.origin for item, about in ledger.about.items()})
    for level in LEVELS:
        print_unproven(console, ledger, level)
    print_summary(console, ledger, LEVELS)
    print_sources(console, ledger)
    print_dormant(console, ledger.dormant)
    for note in ledger.notes:
        console.print(f"[yellow]{escape(note)}[/]")
    failed = len(ledger.failed)
    console.print(f"{len(ledger.proofs)} proofs{f', {failed} of them failed' if failed else ''}")


def print_sources(console: Console, ledger: Ledger) -> None:
    """How many items of each kind were proven live by each kind of source; nothing where none was.

    An item counts once, for the most telling source that it has a proof of.
    """
    found = proven_by(ledger)
    if not found:
        return
    kinds = list(kinds_of(ledger))
    table = Table("proven live by", box=SIMPLE_HEAD, pad_edge=False)
    for kind in kinds:
        table.add_column(escape(KIND_WORDS.get(kind, kind)), justify="right")
    table.add_column("all", justify="right")
    for source, counts in found.items():
        name = f"{source}: {source_words(source)}" if source else source_words(source)
        cells = (str(counts[kind]) if kind in counts else "[dim]-[/]" for kind in kinds)
        table.add_row(escape(name), *cells, str(sum(counts.values())))
    print_table(console, table)
