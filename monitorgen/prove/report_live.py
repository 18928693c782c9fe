"""The ledger of a live proof in a terminal: what is proven by kind, and what is not, by reason."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from monitorgen.prove.ledger import Ledger
from monitorgen.prove.report import print_summary


def print_live(ledger: Ledger) -> None:
    """Failed proofs, the unproven items under their reason, then the count of every kind of item."""
    console = Console(highlight=False, soft_wrap=True)
    for proof in ledger.failed:
        console.print(f"[red]failed[/] {escape(proof.item)}: {escape(proof.answer)}")
        console.print(f"       asked: {escape(proof.asked)}", style="dim")
    by_reason: dict[str, list[str]] = {}
    for item in ledger.items:
        if ledger.state(item, "live") == "unproven":
            by_reason.setdefault(ledger.reasons.get(item, {}).get("live", "not asked"), []).append(item)
    for reason, items in sorted(by_reason.items()):
        console.print(f"[yellow]unproven[/] ({len(items)}) {escape(reason)}")
        console.print(f"       {escape(', '.join(items))}", style="dim")
    print_summary(console, ledger, ("live",))
