"""Which checks there are. A check is one function in one file, put here by its decorator."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from monitorgen.checks.finding import Finding
from monitorgen.errors import InputError

if TYPE_CHECKING:
    from monitorgen.checks.context import Context

CheckFunction: TypeAlias = "Callable[[Context], Iterable[Finding]]"

ROOMS = ("expressions", "rules", "metrics", "dashboards")


@dataclass(frozen=True, slots=True)
class Check:
    """A check: its id, the sentence that says what it asks, its group (`rules`, ...), its function."""

    id: str
    sentence: str
    room: str
    function: CheckFunction

    def __call__(self, context: Context) -> Iterator[Finding]:
        """The check's findings, each carrying the check's id."""
        return (replace(finding, check=self.id) for finding in self.function(context))


_CHECKS: dict[str, Check] = {}


def check(check_id: str) -> Callable[[CheckFunction], CheckFunction]:
    """Register a function as the check `check_id`; the first line of its docstring is its sentence."""

    def register(function: CheckFunction) -> CheckFunction:
        if check_id in _CHECKS:
            raise ValueError(f"two checks are called {check_id!r}")
        sentence = (function.__doc__ or "").strip().splitlines()[0]
        room = function.__module__.split(".")[-2]
        _CHECKS[check_id] = Check(check_id, sentence, room, function)
        return function

    return register


def all_checks() -> tuple[Check, ...]:
    """Every check, by room and id. The first call imports them."""
    for room in ROOMS:
        package = importlib.import_module(f"monitorgen.checks.{room}")
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")
    return tuple(sorted(_CHECKS.values(), key=lambda found: (ROOMS.index(found.room), found.id)))


def run(context: Context, only: Collection[str] | None = None) -> tuple[Finding, ...]:
    """The findings of all checks (or of those named in `only`), sorted by place.

    InputError where `only` names a check that there is not.
    """
    checks = all_checks()
    if only is not None:
        unknown = sorted(set(only) - {found.id for found in checks})
        if unknown:
            raise InputError(
                f"there is no check called {', '.join(unknown)}", hint="`monitorgen check --list` names them"
            )
        checks = tuple(found for found in checks if found.id in only)
    findings = {finding for one in checks for finding in one(context)}
    return tuple(sorted(findings, key=lambda finding: finding.order))
