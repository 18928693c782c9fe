"""How late a client learns of things: a small question, asked over and over while a load runs.

The answer takes the same ways as a streamed token: the network, the server's event loop, a thread of ours
that must be scheduled. So what holds a token up for longer than nothing is asked holds up an answer as well.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from dataclasses import dataclass
from itertools import pairwise

QUESTION = "/version"
TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Beat:
    """One question: asked at `at` (seconds since the epoch), answered or given up after `took` seconds."""

    at: float
    took: float


class Pulse:
    """Asks a server the question every `every` seconds inside the `with` block; 0 asks nothing."""

    def __init__(self, address: tuple[str, int], every: float) -> None:
        self.beats: list[Beat] = []
        self._address, self._every = address, every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="pulse", daemon=True)

    def __enter__(self) -> Pulse:
        if self._every:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._every:
            self._thread.join(1.0)  # a question to a server that hangs is not awaited

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=TIMEOUT)
        with contextlib.closing(connection):
            while not self._over.is_set():
                at, start = time.time(), time.monotonic()
                try:
                    connection.request("GET", QUESTION)
                    connection.getresponse().read()
                except (OSError, http.client.HTTPException):
                    connection.close()  # the next question opens it again
                self.beats.append(Beat(at, time.monotonic() - start))
                self._over.wait(self._every)


def lag_within(beats: tuple[Beat, ...], start: float, end: float) -> float | None:
    """The seconds by which something may have come late from `start` to `end` (seconds since the epoch).

    That is the slowest answer that was under way in that time, and the longest that nothing was asked. None
    where the beats do not cover the time.
    """
    near = [n for n, beat in enumerate(beats) if beat.at + beat.took >= start and beat.at <= end]
    if not near or beats[0].at > start or beats[-1].at + beats[-1].took < end:
        return None
    around = beats[max(0, near[0] - 1) : near[-1] + 2]
    unasked = (after.at - before.at - before.took for before, after in pairwise(around))
    return max(beats[n].took for n in near) + max(0.0, *unasked)
