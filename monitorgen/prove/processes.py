"""Child processes that leave nothing behind, and waiting for a condition instead of a time.

Every child runs in its own process group with its output in a log file. Leaving the context, by whatever
way, ends the whole group: TERM first, KILL for what remains.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from monitorgen.errors import MonitorgenError, ToolMissing
from monitorgen.prove.leaving import clean_exit, is_temporary, shielded, undone
from monitorgen.prove.saved import cannot_write

MARK = "MONITORGEN_CHILD"
LOOPBACK = "127.0.0.1"
_KILLED = 30.0  # seconds that the kernel of a stalled machine may take to end what was killed
_ERROR_LINE = re.compile(
    r"\b(\w*(?:Error|Exception)\b:|error[:=]|level=error|fatal\b)|^(panic|SIG[A-Z]+): ", re.IGNORECASE
)
_LOGFMT_ERROR = re.compile(r'\berr=(?:"((?:[^"\\]|\\.)*)"|(\S+))')  # what Go programs say in a log line


class ProcessError(MonitorgenError):
    """A child process died early, did not get ready in time, or could not be started."""


def free_port() -> int:
    """A TCP port of the loopback interface that nothing listens on at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def poll_until(
    condition: Callable[[], bool],
    *,
    timeout: float,
    pause: Callable[[float], object],
    first: float = 0.02,
    longest: float = 0.5,
) -> bool:
    """Ask until the condition holds or `timeout` seconds have passed; `pause` waits between two questions."""
    deadline = time.monotonic() + timeout
    delay = first
    while not condition():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        pause(min(delay, left))
        delay = min(delay * 1.6, longest)
    return True


@dataclass
class Child:
    """A running child process, its process group and its log file."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    mark: str
    started: float = field(default_factory=time.monotonic)

    @property
    def alive(self) -> bool:
        """Whether the child itself (not only something that it started) still runs."""
        return self.process.poll() is None

    def members(self) -> tuple[int, ...]:
        """The child and all processes that it started and that are still there (Linux only; else empty)."""
        return tuple(sorted({*_marked(self.mark), *_grouped(self.process.pid)}))

    def tail(self, lines: int = 5) -> str:
        """The child's last lines, without empty ones."""
        with contextlib.suppress(OSError):
            text = self.log.read_text(encoding="utf-8", errors="replace")
            return "\n".join([line.rstrip() for line in text.splitlines() if line.strip()][-lines:])
        return ""

    def complaint(self) -> str:
        """What the child itself said went wrong: the line that names an error, else its last lines."""
        lines = self.tail(5000).splitlines()  # a crash of Go ends in a long dump
        errors = [line.strip() for line in lines if _ERROR_LINE.search(line)]
        named = [found[1] or found[2] for line in errors if (found := _LOGFMT_ERROR.search(line))]
        if named:  # Go: the first names the cause, later ones say what was given up for it
            return named[0].replace("\\n", " ").replace('\\"', '"')
        return errors[-1] if errors else "; ".join(lines[-3:])

    def check(self) -> None:
        """Raise `ProcessError` with the child's own words if it has ended."""
        code = self.process.poll()
        if code is not None:
            raise ProcessError(f"{self.name} {self._end(code)}", hint=self._where())

    def wait_until(self, condition: Callable[[], bool], *, timeout: float, what: str) -> float:
        """Wait until the condition holds; the seconds since the child's start.

        Raises `ProcessError` if the child ends before, or if it takes longer than `timeout` seconds.
        """

        def ready() -> bool:
            self.check()
            return condition()

        if not poll_until(ready, timeout=timeout, pause=self._pause):
            said = self.tail(1)
            raise ProcessError(
                f"{self.name}: {what} did not happen within {timeout:.0f} s; last words: {said or 'none'}",
                hint=self._where(),
            )
        return time.monotonic() - self.started

    def _pause(self, seconds: float) -> None:
        """Wait, but wake at once when the child ends."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def stop(self, grace: float = 10.0) -> None:
        """End the child's whole group, and whatever it started outside of the group."""
        try:
            self._signal(signal.SIGTERM)
            poll_until(self._gone, timeout=grace, pause=self._pause_or_sleep)
        finally:
            if not self._gone():
                self._signal(signal.SIGKILL)
                poll_until(self._gone, timeout=_KILLED, pause=self._pause_or_sleep)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_KILLED)

    def kill(self) -> None:
        """End everything at once, without waiting for it."""
        self._signal(signal.SIGKILL)

    def _end(self, code: int) -> str:
        """How the child ended, and what it said of it."""
        said = self.complaint()
        if code == -signal.SIGKILL:  # such a child had no time to say why
            return "was killed (SIGKILL): by someone, or because memory ran out"
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}: {said or 'it said nothing'}"
        return f"ended with code {code}: {said or 'it said nothing'}"

    def _where(self) -> str:
        """Where to read more; nowhere if the log goes with its folder."""
        return "" if is_temporary(self.log) else f"log: {self.log}"

    def _pause_or_sleep(self, seconds: float) -> None:
        if self.process.poll() is None:
            self._pause(seconds)
        else:  # the leader has gone, members of its group have not yet
            threading.Event().wait(seconds)

    def _gone(self) -> bool:
        self.process.poll()
        return not _group_exists(self.process.pid) and not _marked(self.mark)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)
        for pid in _marked(self.mark):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS answers so for a group of zombies
        return False
    return True


def _marked(mark: str) -> tuple[int, ...]:
    """The processes that carry our mark in their environment: also those that left the group (Linux only)."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return tuple(found)


def _grouped(group: int) -> tuple[int, ...]:
    """The processes of a group (Linux only): also those that wrote a title over their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            after_name = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
            if int(after_name.split()[2]) == group:
                found.append(int(folder.name))
    return tuple(found)


@contextlib.contextmanager
def child(
    argv: Sequence[str | Path],
    *,
    name: str,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    grace: float = 10.0,
) -> Iterator[Child]:
    """Run a program in its own process group with its output in `log`; stop all of it at the end.

    `env` is added to our own environment. Raises `ToolMissing` if there is no such program.
    """
    mark = uuid.uuid4().hex
    environment = {**os.environ, **(env or {}), MARK: mark}
    with contextlib.ExitStack() as stack:
        stack.enter_context(clean_exit())
        with shielded():
            process = _start([str(part) for part in argv], name, log, environment, cwd)
            running = Child(name, process, log, mark)
            stack.enter_context(undone(lambda: running.stop(grace), running.kill))
        yield running


def _start(
    argv: Sequence[str], name: str, log: Path, env: Mapping[str, str], cwd: Path | None
) -> subprocess.Popen[bytes]:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        sink = log.open("wb")
    except OSError as error:
        raise cannot_write(log, error) from error
    with sink:
        try:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise ToolMissing(f"{name}: there is no program {argv[0]}") from error
        except OSError as error:
            raise ProcessError(f"{name}: {argv[0]} cannot be started: {error.strerror or error}") from error
