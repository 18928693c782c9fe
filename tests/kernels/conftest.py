"""Fixtures of the workloads' tests."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def gradients() -> Iterator[None]:
    """Workloads are programs: some turn gradients off for their process, which here is that of all tests."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_grad_enabled(True)


PATIENCE = 60.0  # seconds; what is to end on its own would take far longer


def _cpu_seconds(process: subprocess.Popen[str]) -> float:
    """What a running process has computed so far, of which the wall clock of a busy machine says little."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _end(process: subprocess.Popen[str]) -> str:
    """End a process by SIGTERM; returns what standard error still said.

    A busy machine stretches both the wall clock and CPU seconds, so the work that the end takes is compared
    with the work that the process did before, imports included. What does not end within `PATIENCE` is
    killed, which its exit code then tells.
    """
    on_linux = Path("/proc/self/stat").exists()
    before = _cpu_seconds(process) if on_linux else math.inf
    hurry = threading.Timer(PATIENCE, process.kill)
    hurry.start()
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    hurry.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    assert usage.ru_utime + usage.ru_stime - before < before, "its end took more work than all before"
    return said


@pytest.fixture
def end_by_sigterm() -> Callable[[subprocess.Popen[str]], str]:
    """Ends a process by SIGTERM, which must be little work; returns its last words."""
    return _end
