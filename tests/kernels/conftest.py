"""Fixtures of the workloads' tests."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest


def _cpu_seconds(process: subprocess.Popen[str]) -> float:
    """What a running process has computed so far, of which the wall clock of a busy machine says little."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _end(process: subprocess.Popen[str]) -> tuple[float, str]:
    """Send SIGTERM; returns the CPU seconds that the end took, and what standard error still said."""
    on_linux = Path("/proc/self/stat").exists()
    before = _cpu_seconds(process) if on_linux else time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    said = process.stderr.read()
    if not on_linux:
        process.wait(timeout=20)
        return time.monotonic() - before, said
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime - before, said


@pytest.fixture
def end_by_sigterm() -> Callable[[subprocess.Popen[str]], tuple[float, str]]:
    """Ends a process by SIGTERM: the seconds that it still worked, and its last words."""
    return _end
