"""Progress of a run on standard error: bars where rich is and someone watches, else a line an arm."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from monitorgen.bench.runner import OnProgress
from monitorgen.bench.targets import Chosen


@contextmanager
def watching(quiet: bool = False) -> Iterator[Callable[[Chosen], OnProgress]]:
    """Gives a function that makes a listener for each target."""
    bars = None if quiet or not sys.stderr.isatty() else _rich_bars()
    if quiet:
        yield lambda chosen: lambda arm, done, of: None
    elif bars is None:
        yield lambda chosen: _lines(chosen.target.name)
    else:
        with bars:
            yield lambda chosen: _bar(bars, chosen.target.name)


def _rich_bars() -> Any:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        return None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True))


def _bar(bars: Any, target: str) -> OnProgress:
    tasks: dict[str, Any] = {}

    def tell(arm: str, done: int, of: int) -> None:
        if arm not in tasks:
            tasks[arm] = bars.add_task(f"{target} {arm}", total=of)
        bars.update(tasks[arm], completed=done)

    return tell


def _lines(target: str) -> OnProgress:
    said: set[str] = set()

    def tell(arm: str, done: int, of: int) -> None:
        if arm not in said:
            said.add(arm)
            print(f"{target} {arm}: {of} iterations", file=sys.stderr, flush=True)

    return tell
