"""Runs a target in a process of its own and gathers what it measured."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monitorgen.bench.environment import ROOT
from monitorgen.bench.result import Arm, Result
from monitorgen.bench.targets import Chosen

# monitorgen of a bare checkout must be found, and yet its folder `kernels` must not be importable by that
# name: transformers would take it for another package.
BOOT = """
import sys
root = sys.argv.pop(1)
added = root not in sys.path
if added:
    sys.path.insert(0, root)
import monitorgen
if added:
    sys.path.remove(root)
from monitorgen.kernels.measure import main
sys.exit(main(sys.argv[1:]))
"""

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """How to time: profile, iterations, and how many seconds one target may take."""

    profile: str = "none"
    iterations: int = 20
    warmup: int = 5
    timeout: float = 600.0


@dataclass(slots=True)
class Ran:
    """A target's result, the device that it ran on, and the ceilings that were measured beside it."""

    result: Result
    device: dict[str, Any] = field(default_factory=dict)
    ceilings: dict[str, float] = field(default_factory=dict)


def run_target(
    chosen: Chosen, settings: Settings, folder: Path, progress: OnProgress = lambda arm, done, of: None
) -> Ran:
    """Time the arms of a target; logs, traces and the raw answer go to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    request, answer, log = folder / "request.json", folder / "measured.json", folder / "log.txt"
    answer.unlink(missing_ok=True)
    reading, writing = os.pipe()
    content = {
        "arms": {arm: chosen.target.arms[arm] for arm in chosen.arms},
        "flags": {arm: chosen.flags.get(arm, []) for arm in chosen.arms},
        "iterations": settings.iterations,
        "warmup": settings.warmup,
        "profile": settings.profile,
        "traces": str(folder.resolve()),
        "progress_fd": writing,
    }
    request.write_text(json.dumps(content), encoding="utf-8")
    command = [sys.executable, "-P", "-c", BOOT, str(ROOT), str(request), str(answer)]
    try:
        with log.open("w", encoding="utf-8") as output, _started(command, output, writing) as process:
            os.close(writing)
            writing = -1
            died = _follow(process, reading, settings.timeout, progress)
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
    if not answer.is_file():
        return Ran(_failed(chosen, died or "it ended without a result", log))
    return _gathered(chosen, json.loads(answer.read_text(encoding="utf-8")))


@contextmanager
def _started(command: list[str], output: Any, fd: int) -> Iterator[subprocess.Popen[bytes]]:
    """The process, which is gone with all that it started when this ends, however it ends."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=[fd], start_new_session=True
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _follow(process: subprocess.Popen[bytes], fd: int, timeout: float, progress: OnProgress) -> str:
    """Pass progress on until the process ends; says how it ended, or nothing when it ended well."""
    until, rest = time.monotonic() + timeout, b""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while process.poll() is None:
            if time.monotonic() > until:
                return f"it took more than {timeout:g} s (--timeout)"
            if not selector.select(0.1):
                continue
            if not (read := os.read(fd, 65536)):
                selector.unregister(fd)
                break
            *lines, rest = (rest + read).split(b"\n")
            if lines:
                told = json.loads(lines[-1])
                progress(told["arm"], told["done"], told["of"])
    try:
        code = process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        return f"it took more than {timeout:g} s (--timeout)"
    if code < 0:
        return f"it was killed by {signal.Signals(-code).name}"
    return f"it ended with exit code {code}" if code else ""


def _failed(chosen: Chosen, why: str, log: Path) -> Result:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    text = f"{why}; last it said: {lines[-1][:200]}" if lines else why
    return Result(
        chosen.target.name, chosen.target.group, chosen.target.rivals, {},
        error={"kind": "failed", "arm": "", "text": text},
    )  # fmt: skip


def _gathered(chosen: Chosen, told: dict[str, Any]) -> Ran:
    """The answer of the process as data of ours, with each arm's place under the ceilings."""
    from monitorgen.kernels.timing import roofline

    limits = told.get("ceilings") or {}
    arms = {}
    for name, said in told["arms"].items():
        arm = Arm(**said)
        if limits:
            shares = roofline(limits, arm.bytes_moved, arm.flops, arm.median_ms / 1e3)
            arm.roofline.update(shares)
        arms[name] = arm
    agreement = told["agreement"] or {"compared": 0, "differences": []}
    result = Result(
        chosen.target.name,
        chosen.target.group,
        chosen.target.rivals,
        arms,
        compared=agreement["compared"],
        differences=agreement["differences"] if chosen.target.rivals else [],
        error=told["error"] or {},
    )
    return Ran(result, told["device"], limits)
