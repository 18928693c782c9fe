"""The library of mutations lies beside its test: this folder is where its modules are imported from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

TITLES = ("kind", "applied", "by checks", "by proofs", "survived", "simulated", "by proofs alone")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what became of the mutations of each kind: who caught them, and how many proofs alone would."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    rows = [
        row
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "mutations" and report.when == "call"
        for row in value
    ]
    if not rows:
        return
    total = ["all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])]
    terminalreporter.section("mutations")
    for row in (TITLES, *sorted(rows), total):
        terminalreporter.write_line(f"{row[0]:32}" + "".join(f"{cell:>16}" for cell in row[1:]))
