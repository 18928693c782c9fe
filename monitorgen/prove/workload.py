"""The bundled workloads as sources: they do real work on this machine, and export what they do."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from monitorgen import promql, telemetry
from monitorgen.bundle import Bundle
from monitorgen.errors import ToolMissing
from monitorgen.prove.access import NO_ACCESS, NoPageError, get
from monitorgen.prove.processes import LOOPBACK, Child, ProcessError, child, free_port

PYTHON_VARIABLE = "MONITORGEN_WORKLOAD_PYTHON"
START = 180.0  # seconds: importing torch, capturing first steps, training a tiny pair on a busy machine


@dataclass(frozen=True, slots=True)
class Program:
    """A workload that serves metrics: its module, and a family that is above zero once it is ready.

    `slowly` are flags that make it leave the machine to others. `as_vllm`: a vLLM exports its families as
    well, so that it is started for bundles that need no workload but it.
    """

    name: str
    module: str
    families: tuple[telemetry.Metric, ...]
    ready: str
    slowly: tuple[str, ...] = ("--rate", "1")
    as_vllm: bool = False

    def exports(self, names: frozenset[str]) -> bool:
        """Whether it exports one of these names; a histogram's series are named after it."""
        return any(
            metric.name in names
            or (metric.type == "histogram" and any(f"{metric.name}_{part}" in names for part in _PARTS))
            for metric in self.families
        )


_PARTS = ("bucket", "sum", "count")
DECODE = Program(
    "the decode workload",
    "monitorgen.kernels.decode.v1_bucketed_decode_loop",
    telemetry.DECODE,
    "vllm:decode_tokens_total",
)
KERNELS = Program(
    "the kernel workload",
    "monitorgen.kernels.attention.optimized_tensor_cores",
    telemetry.KERNELS,
    "monitorgen_kernel_expected_seconds",  # measured last
)
SPECULATION = Program(
    "the speculative workload",
    "monitorgen.kernels.speculative.optimized_speculative_decoding",
    telemetry.SPECULATION,
    "vllm:spec_decode_num_drafts_total",
    slowly=("--rate", "0.5"),
    as_vllm=True,
)
PROGRAMS = (DECODE, KERNELS, SPECULATION)


def programs_for(bundle: Bundle) -> tuple[Program, ...]:
    """The workloads that export what the items of a bundle read, directly or through a recorded name."""
    names = frozenset(name for expr in _expressions(bundle) for name in _names(expr))
    read = tuple(program for program in PROGRAMS if program.exports(names))
    return tuple(program for program in read if not program.as_vllm) or read


def _expressions(bundle: Bundle) -> Iterator[str]:
    yield from (rule.expr for group in bundle.groups for rule in group.rules)
    for dashboard in bundle.dashboards:
        yield from (query.expr for panel in dashboard.panels for query in panel.queries)


def _names(expr: str) -> Iterator[str]:
    # A bundle that was read from files may hold anything; what does not parse is told by its own check.
    with contextlib.suppress(promql.PromQLError):
        yield from (one.name for one in promql.selectors(promql.grafana_substitute(expr)))


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
def serve_workload(
    program: Program, workdir: Path, python: Path, flags: tuple[str, ...] = ()
) -> Iterator[WorkloadServer]:
    """Run a workload under steady traffic inside the `with` block, once it is ready.

    Raises `ProcessError` with its own words if it does not start.
    """
    port = free_port()
    argv: list[str | Path] = [python, "-m", program.module, "--prom-port", str(port), *flags]
    url = f"http://{LOOPBACK}:{port}/metrics"

    def is_ready() -> bool:
        """Its exporter is there before its work is: zeros would prove nothing."""
        with contextlib.suppress(NoPageError):
            page = get(url, NO_ACCESS, timeout=5.0).body.decode(errors="replace")
            lines = (line for line in page.splitlines() if line.startswith(program.ready + "{"))
            return any(float(line.rpartition(" ")[2]) > 0 for line in lines)
        return False

    # One thread: the machine has to run Prometheus beside it.
    environment = {"OMP_NUM_THREADS": "1"}
    log = workdir / f"{program.module.rpartition('.')[2]}.log"
    with child(argv, name=program.name, log=log, env=environment) as process:
        try:
            process.wait_until(is_ready, timeout=START, what="doing its work")
        except ProcessError as error:
            raise ProcessError(error.message, hint=f"log: {process.log}") from error
        yield WorkloadServer(f"{LOOPBACK}:{port}", process)
