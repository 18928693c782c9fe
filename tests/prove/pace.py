"""Time as a test can judge it on a machine that is shared: what stands still for us is not counted.

A machine that runs many tests at once may give a process no time for many seconds. The wall clock then says
nothing about the code under test; a thread that wakes again and again sees such a pause as one wake.
"""

from __future__ import annotations

import threading
from types import TracebackType

TICK = 0.02


class Pace:
    """Counts its own wakes inside the `with` block; `seconds` is their number times the tick."""

    def __init__(self) -> None:
        self.ticks = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._count, name="pace", daemon=True)

    @property
    def seconds(self) -> float:
        """How long the block has lasted, less what the machine stood still; never more than the truth."""
        return self.ticks * TICK

    def _count(self) -> None:
        while not self._over.wait(TICK):
            self.ticks += 1

    def __enter__(self) -> Pace:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
