"""What is wrong with an expression: an error where it does not parse, problems where it does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with an expression that parses. `start` and `end` are character offsets into it."""

    kind: str
    message: str
    start: int
    end: int


class PromQLError(ValueError):
    """An expression that Prometheus would refuse. `start` and `end` are character offsets into `expr`."""

    def __init__(self, message: str, expr: str, start: int, end: int) -> None:
        super().__init__(message)
        self.message = message
        self.expr = expr
        self.start = max(0, min(start, len(expr)))
        self.end = max(self.start, min(end, len(expr)))

    def underlined(self) -> str:
        """The line that holds the place, and below it carets and the message."""
        return underline(self.expr, self.start, self.end, self.message)


def underline(expr: str, start: int, end: int, message: str) -> str:
    """The line of `expr` that holds `start`, and below it carets under the place, then the message."""
    line_start = expr.rfind("\n", 0, start) + 1
    line_end = expr.find("\n", line_start)
    line_end = len(expr) if line_end < 0 else line_end
    margin = "".join("\t" if char == "\t" else " " for char in expr[line_start:start])
    carets = "^" * max(1, min(end, line_end) - start)
    return f"{expr[line_start:line_end]}\n{margin}{carets} {message}"
