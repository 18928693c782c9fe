"""The bundled decode workload as a source: it decodes on this machine and exports what it really does."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from monitorgen.errors import ToolMissing
from monitorgen.prove.access import NO_ACCESS, NoPageError, get
from monitorgen.prove.processes import LOOPBACK, Child, ProcessError, child, free_port

MODULE = "monitorgen.kernels.decode.v1_bucketed_decode_loop"
PYTHON_VARIABLE = "MONITORGEN_WORKLOAD_PYTHON"
_DECODED = re.compile(rb"^vllm:decode_tokens_total\{[^}]*\} 0*[1-9]", re.MULTILINE)
START = 180.0  # seconds: importing torch and capturing the first steps on a busy machine


@dataclass(frozen=True, slots=True)
class WorkloadServer:
    """A running workload; `target` is the `host:port` to scrape."""

    target: str
    child: Child


def workload_python() -> Path | None:
    """The interpreter that has torch: the environment's choice, else ours; None if ours has none."""
    chosen = os.environ.get(PYTHON_VARIABLE, "")
    if chosen:
        found = shutil.which(chosen)
        if found is None:
            raise ToolMissing(f"{chosen} (from {PYTHON_VARIABLE}) cannot be run", hint="name a Python")
        return Path(found)
    return Path(sys.executable) if importlib.util.find_spec("torch") else None


@contextlib.contextmanager
def serve_workload(workdir: Path, python: Path, flags: tuple[str, ...] = ()) -> Iterator[WorkloadServer]:
    """Run the bucketed decode loop under steady traffic inside the `with` block, once it decodes.

    Raises `ProcessError` with its own words if it does not start.
    """
    port = free_port()
    argv: list[str | Path] = [python, "-m", MODULE, "--prom-port", str(port), *flags]
    url = f"http://{LOOPBACK}:{port}/metrics"

    def decodes() -> bool:
        """Its exporter is there before its decoder is: zeros would prove nothing."""
        with contextlib.suppress(NoPageError):
            return _DECODED.search(get(url, NO_ACCESS, timeout=5.0).body) is not None
        return False

    # One thread: the machine has to run Prometheus beside it.
    environment = {"OMP_NUM_THREADS": "1"}
    with child(argv, name="the decode workload", log=workdir / "workload.log", env=environment) as process:
        try:
            process.wait_until(decodes, timeout=START, what="decoding")
        except ProcessError as error:
            raise ProcessError(error.message, hint=f"log: {process.log}") from error
        yield WorkloadServer(f"{LOOPBACK}:{port}", process)
