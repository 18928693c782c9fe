"""Work done beside the main work: by a copy of this process, on another core.

    with Aside(draw, ready=import_much) as aside:
        ...                       # meanwhile the copy runs import_much()
        aside.send(dashboards)
        ...                       # meanwhile it runs draw(dashboards)
        texts = aside.result()

The copy is a fork: it knows all that this process knew at `with`. Only what it is sent and what it answers
goes through a pipe, pickled. Nothing depends on it. Where none can be made, and where one fails in whatever
way, `result` runs the function here: errors are raised in this process, as if there were no copy.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Aside(Generic[P, R]):
    """A function that runs in a copy of this process; the copy never outlives the `with` block.

    `function` must not print, and must not change anything outside: it may run twice, here and there.
    `ready` is what the copy does first, before it waits for the arguments.
    """

    def __init__(self, function: Callable[P, R], *, ready: Callable[[], object] = lambda: None) -> None:
        self._function = function
        self._ready = ready
        self._arguments: tuple[Any, ...] = ()
        self._named: dict[str, Any] = {}
        self._copy: _Copy | None = None

    def __enter__(self) -> Aside[P, R]:
        if can_copy():
            self._copy = _Copy(self._serve)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, at: TracebackType | None) -> None:
        if self._copy:
            self._copy.end()
            self._copy = None

    def send(self, *arguments: P.args, **named: P.kwargs) -> None:
        """Let it begin, with these arguments."""
        self._arguments, self._named = arguments, named
        if self._copy:
            self._copy.tell(pickle.dumps((arguments, named)))

    def result(self) -> R:
        """What the function returns for the arguments that were sent. Raises what it raises."""
        answer = self._copy.answer() if self._copy else b""
        if not answer:
            return self._function(*self._arguments, **self._named)
        result: R = pickle.loads(answer)
        return result

    def _serve(self, heard: int, said: int) -> None:
        """The life of the copy: get ready, hear the arguments, say the result."""
        self._ready()
        with os.fdopen(heard, "rb") as pipe:
            arguments, named = pickle.load(pipe)
        answer = pickle.dumps(self._function(*arguments, **named))
        with os.fdopen(said, "wb") as pipe:
            pipe.write(answer)


def can_copy() -> bool:
    """Whether a copy is safe and of use: a fork on Linux, without threads, with a second core to run on.

    A fork copies no thread but the locks that it holds; and system libraries of other platforms do not
    survive it.
    """
    if sys.platform != "linux":
        return False
    return threading.active_count() == 1 and len(os.sched_getaffinity(0)) > 1


class _Copy:
    """A forked process with a pipe to it and a pipe from it."""

    def __init__(self, serve: Callable[[int, int], None]) -> None:
        heard, self._to = os.pipe()
        self._from, said = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(self._to)  # or it would wait for itself when this process has died
            os.close(self._from)
            _live(serve, heard, said)
        os.close(heard)
        os.close(said)

    def tell(self, text: bytes) -> None:
        """Send it its arguments. That nobody hears them is seen when there is no answer."""
        try:
            with os.fdopen(self._to, "wb") as pipe:
                self._to = -1
                pipe.write(text)
        except BrokenPipeError:
            return

    def answer(self) -> bytes:
        """All that it says; nothing if it did not end well."""
        with os.fdopen(self._from, "rb") as pipe:
            self._from = -1
            text = pipe.read()
        return text if self._wait() == 0 else b""

    def end(self) -> None:
        """Stop it if it still runs. No process and no open file stays behind."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            self._wait()
        for pipe in (self._to, self._from):
            if pipe >= 0:
                os.close(pipe)

    def _wait(self) -> int:
        status = os.waitpid(self._pid, 0)[1]
        self._pid = 0
        return status


def _live(serve: Callable[[int, int], None], heard: int, said: int) -> NoReturn:
    """Serve and be gone: whatever happens, nothing of the copy returns into the code that it was made in.

    It ends without a word, also on Ctrl-C, and without flushing what this process had not printed yet.
    """
    status = 1
    try:
        serve(heard, said)
        status = 0
    finally:
        os._exit(status)
