"""What a ledger can be written as; the suffix of a file says which."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from monitorgen.errors import InputError
from monitorgen.prove.ledger import Ledger


def _html(ledger: Ledger) -> str:
    from monitorgen.prove.page import page

    return page(ledger)


def _junit(ledger: Ledger) -> str:
    from monitorgen.prove.junit import junit

    return junit(ledger)


FORMATS: dict[str, Callable[[Ledger], str]] = {".json": Ledger.to_json, ".xml": _junit, ".html": _html}
"""The ledger itself, JUnit XML, and a page for people."""


def format_of(path: Path) -> Callable[[Ledger], str]:
    """What makes the text of a file. Raises InputError where its suffix says no format."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(
            f"cannot write {path}: its suffix says no format",
            hint=".json for the ledger, .xml for JUnit, .html for a page",
        )
    return FORMATS[path.suffix.lower()]
