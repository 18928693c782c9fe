"""What a check says: one sentence about one item, with the place that it is about and what to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from monitorgen.bundle import Origin

Severity: TypeAlias = Literal["error", "warning", "info"]
_RANK = {"error": 0, "warning": 1, "info": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """One complaint of one check. `start` and `end` are offsets into `expr`, or -1."""

    check: str
    severity: Severity
    item: str
    message: str
    hint: str = ""
    origin: Origin = field(default_factory=Origin)
    expr: str = ""
    start: int = -1
    end: int = -1

    def __str__(self) -> str:
        place = f"{self.origin}: " if str(self.origin) else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{place}{self.severity}: {self.item}: {self.message}{hint} [{self.check}]"

    @property
    def underlined(self) -> str:
        """The expression with the place that is meant underlined, "" where there is none."""
        if not self.expr or self.start < 0 or self.end <= self.start:
            return ""
        from monitorgen.promql import underline  # only who prints findings needs the parser

        return underline(self.expr, self.start, self.end, self.message)

    @property
    def order(self) -> tuple[str, int, int, int, str, str, int, str]:
        """Sort key: by file and line, then by severity, item and check."""
        return (
            self.origin.file,
            self.origin.line,
            self.origin.column,
            _RANK[self.severity],
            self.item,
            self.check,
            self.start,
            self.message,
        )


def at(origin: Origin) -> str:
    """` at FILE:LINE:COLUMN`, or nothing where it is not known: for messages that name two places."""
    return f" at {origin}" if str(origin) else ""
