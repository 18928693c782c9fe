"""Times the arms of one workload in a process of its own: `python -m monitorgen.kernels.measure IN OUT`.

A process for each workload, because captured graphs, compiled code and allocator pools outlive the objects
that made them, and because work that crashes the device must not take the other results with it. IN is a JSON
file (see `Request`), OUT the file that is written, and `progress_fd` a pipe for lines of progress.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitorgen.kernels import agreement, timing
from monitorgen.kernels.workload import Outcome, Run, UsageError

TRACED_STEPS = 3


@dataclass(frozen=True)
class Request:
    """What to time: a module and flags for each arm, in order."""

    arms: dict[str, str]
    flags: dict[str, list[str]]
    iterations: int
    warmup: int
    profile: str
    traces: str = ""
    progress_fd: int = -1


def main(argv: list[str]) -> int:
    """Serve one request. 0 when a result was written, whatever it says."""
    request = Request(**json.loads(Path(argv[0]).read_text(encoding="utf-8")))
    result = serve(request)
    whole = Path(argv[1])
    part = whole.with_suffix(".part")
    part.write_text(json.dumps(result), encoding="utf-8")
    part.replace(whole)
    return 0


def serve(request: Request) -> dict[str, Any]:
    """Time every arm, then compare what they produced."""
    result: dict[str, Any] = {"arms": {}, "agreement": None, "error": None}
    outcomes: dict[str, Outcome] = {}
    limits: dict[str, float] = {}
    for name in request.arms:
        try:
            result["arms"][name] = _one_arm(request, name, outcomes, limits)
        except UsageError as error:
            result["error"] = {"kind": "usage", "arm": name, "text": str(error)}
            break
        except Exception as error:
            # Told to the person who asked, with the traceback in the log of this process.
            traceback.print_exc()
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            kind = "missing" if isinstance(error, ModuleNotFoundError) else "failed"
            result["error"] = {"kind": kind, "arm": name, "text": text}
            break
    result["device"] = timing.device_facts()
    if limits:
        result["ceilings"] = limits
    if result["error"] is None and len(outcomes) > 1:
        result["agreement"] = _agreement(outcomes)
    return result


def _one_arm(
    request: Request, name: str, outcomes: dict[str, Outcome], limits: dict[str, float]
) -> dict[str, Any]:
    """Prepare, time, profile and close one arm."""
    said = _Progress(request, name)
    run = _prepare(request.arms[name], request.flags[name])
    try:
        if request.profile == "roofline" and not limits and (run.bytes_moved > 0 or run.flops > 0):
            limits |= timing.ceilings(run.device)
        timed = timing.measure(run, request.iterations, request.warmup, said)
        outcomes[name] = run.outcome()
        told: dict[str, Any] = {
            "module": request.arms[name],
            "flags": request.flags[name],
            "device": run.device,
            "cold_cache": timed.cold,
            "samples_ms": timed.samples_ms,
            "peak_device_bytes": timed.peak_bytes,
            "bytes_moved": run.bytes_moved,
            "flops": run.flops,
            "metrics": dict(run.metrics()),
            "digest": agreement.digest(outcomes[name]),
        }
        if request.profile in ("minimal", "deep_dive"):
            chrome = Path(request.traces) / f"{name}.trace.json" if request.profile == "deep_dive" else None
            told["operators"] = timing.trace(run, TRACED_STEPS, chrome)
            if chrome is not None and chrome.is_file():
                told["trace"] = chrome.name
    finally:
        run.close()
    return told


def _prepare(module: str, flags: list[str]) -> Run:
    """Make an arm ready; a parser that exits is a wrong flag like any other."""
    try:
        run: Run = importlib.import_module(module).prepare(flags)
    except SystemExit as stopped:
        raise UsageError(f"{' '.join(flags)!r} is not taken (exit code {stopped.code})") from None
    return run


def _agreement(outcomes: dict[str, Outcome]) -> dict[str, Any]:
    """Every arm against the first one."""
    (first, reference), *others = outcomes.items()
    found = [
        f"{name} against {first}: {line}"
        for name, outcome in others
        for line in agreement.differences(reference, outcome)
    ]
    return {"compared": agreement.compared(reference), "differences": found}


class _Progress:
    """Writes a line for each iteration; a pipe that has gone does not matter."""

    def __init__(self, request: Request, arm: str) -> None:
        self.fd, self.arm, self.of = request.progress_fd, arm, request.warmup + request.iterations

    def __call__(self, done: int) -> None:
        if self.fd >= 0:
            line = json.dumps({"arm": self.arm, "done": done, "of": self.of}) + "\n"
            with suppress(OSError):
                os.write(self.fd, line.encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
