"""Errors that reach a person: one line that says what is wrong, where, and what to do; never a traceback."""

from __future__ import annotations

from monitorgen.bundle import Origin


class MonitorgenError(Exception):
    """Base of the errors that the command line prints as one message; `exit_code` is the process's."""

    exit_code = 1

    def __init__(self, message: str, *, origin: Origin | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.origin = origin
        self.hint = hint

    def __str__(self) -> str:
        place = f"{self.origin}: " if self.origin and str(self.origin) else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{place}{self.message}{hint}"


class InputError(MonitorgenError):
    """What a person wrote is wrong."""

    exit_code = 2


class ToolMissing(MonitorgenError):  # noqa: N818 - the name says it all
    """A program that is needed is not there."""

    exit_code = 3
