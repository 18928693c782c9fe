"""What is done to a vLLM while it is under load, to make conditions that traffic alone does not make.

A process that hangs, an engine that is throttled, an operator who aborts all requests: each is real, and
what vLLM then exports is its own doing. Processes are stopped and continued by signals (on Linux, where
/proc tells their names), and run again when the disturbance ends, by whatever way.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from monitorgen.prove.client import loopback_address
from monitorgen.prove.processes import ProcessError, poll_until
from monitorgen.prove.vllm_server import VllmServer

ENGINE = "VLLM::EngineC"  # the kernel keeps 15 characters of a name; with data parallelism, _DP0 follows
STEPS = "vllm:iteration_tokens_total_count"
ACTIVE = ("vllm:num_requests_running", "vllm:num_requests_waiting")
_SAMPLE = re.compile(r"^(?P<name>[\w:]+)(?:\{.*\})? (?P<value>\S+)", re.MULTILINE)
SLICE = 0.015  # seconds: no longer than a step of the smallest model


class Disturbance(Protocol):
    """Something that is done to a server; it returns after its time, or as soon as `over` is set."""

    def run(self, server: VllmServer, over: threading.Event) -> None:
        """Do it. Raises `ProcessError` where that cannot be done."""


@dataclass(frozen=True, slots=True)
class Stall:
    """The engine hangs for `seconds`, from the moment when `active` requests run or wait."""

    seconds: float
    active: int = 0

    def run(self, server: VllmServer, over: threading.Event) -> None:
        """Wait for the requests, then hang; a load that never grows so much is an error."""
        engine = engine_processes(server)
        if not poll_until(
            lambda: over.is_set() or sample_sum(server.url, ACTIVE) >= self.active,
            timeout=self.seconds,
            pause=over.wait,
            longest=0.1,
        ):
            raise ProcessError(f"there were never {self.active} requests running or waiting at once")
        with stopped(engine):
            over.wait(self.seconds)


@dataclass(frozen=True, slots=True)
class SlowMotion:
    """The engine takes a step every `step` seconds, for `seconds`: as if it was throttled that much.

    Between its steps it is stopped. It counts its steps itself, and two at once are followed by twice the
    time: so the pace does not depend on the machine.
    """

    seconds: float
    step: float

    def run(self, server: VllmServer, over: threading.Event) -> None:
        """Let the engine run in slices until it has counted a step, stop it for the rest of its time."""
        engine = engine_processes(server)
        end = due = time.monotonic()
        end += self.seconds
        before = sample_sum(server.url, (STEPS,))
        while not over.is_set() and time.monotonic() < end:
            with stopped(engine):  # a slice's steps are counted while no other can begin
                now = sample_sum(server.url, (STEPS,))
                due = max(due, time.monotonic()) + (now - before) * self.step
                before = now
                over.wait(max(0.0, min(due, end) - time.monotonic()))
            over.wait(SLICE)


@dataclass(frozen=True, slots=True)
class Aborts:
    """Every `every` seconds, for `seconds`, the operator pauses vLLM, which aborts all requests.

    That is the one way over HTTP by which vLLM 0.32 counts requests as aborted, and it is open with
    VLLM_SERVER_DEV_MODE only: clients that disconnect are not counted. Those that were still waiting are
    counted with a prefill time since the machine's start (seen on 0.32), so PrefillSlow may fire as well.
    """

    seconds: float
    every: float

    def run(self, server: VllmServer, over: threading.Event) -> None:
        """Abort and resume, until the time is over."""
        end = time.monotonic() + self.seconds
        while not over.wait(self.every) and time.monotonic() < end:
            for path in ("/pause?mode=abort", "/resume"):
                status = _call(server.url, "POST", path)[0]
                if status != 200:
                    raise ProcessError(
                        f"vLLM answers {path} with HTTP {status}",
                        hint="start it with VLLM_SERVER_DEV_MODE=1",
                    )


@dataclass(frozen=True, slots=True)
class Hang:
    """All processes of the server hang for `seconds`: it accepts connections and answers nothing."""

    seconds: float

    def run(self, server: VllmServer, over: threading.Event) -> None:
        """Hang."""
        with stopped(server.child.members()):
            over.wait(self.seconds)


@contextlib.contextmanager
def stopped(processes: Sequence[int]) -> Iterator[None]:
    """Stop processes for the time of the `with` block; they run again after it, whatever happens in it."""
    try:
        for process in processes:
            _signal(process, signal.SIGSTOP)
        yield
    finally:
        for process in processes:
            _signal(process, signal.SIGCONT)


def engine_processes(server: VllmServer) -> tuple[int, ...]:
    """The processes that hold vLLM's engine cores. Raises `ProcessError` if there are none to be found."""
    found = tuple(process for process in server.child.members() if _name(process).startswith(ENGINE))
    if not found:
        raise ProcessError("no process of vLLM is called an engine core", hint="this needs Linux and /proc")
    return found


def sample_sum(url: str, names: Sequence[str]) -> float:
    """The sum of all samples of these names on a server's metrics page. Raises `ProcessError` without one."""
    try:
        page = _call(url, "GET", "/metrics")[1]
    except (OSError, http.client.HTTPException) as error:
        raise ProcessError(f"{url}/metrics cannot be read: {error!r}") from error
    return sum(float(found["value"]) for found in _SAMPLE.finditer(page) if found["name"] in names)


def _call(url: str, method: str, path: str, timeout: float = 10.0) -> tuple[int, str]:
    connection = http.client.HTTPConnection(*loopback_address(url), timeout=timeout)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
    finally:
        connection.close()


def _name(process: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/comm").read_text(encoding="utf-8").strip()
    return ""


def _signal(process: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)
