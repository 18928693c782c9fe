"""Where a run was made: commit, hardware, software. Read only; no setting of the machine is touched."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import monitorgen

ROOT = Path(monitorgen.__file__).resolve().parent.parent
TOLD = (
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "TORCH_LOGS",
)
SMI = "name,driver_version,clocks.sm,clocks.mem,power.limit,temperature.gpu,persistence_mode"


def commit() -> tuple[str, bool]:
    """The commit of the checkout that runs, and whether files differ from it; `""` outside of a checkout."""
    head = _said(["git", "-C", str(ROOT), "rev-parse", "HEAD"])
    if not head or not (ROOT / "pyproject.toml").is_file():
        return "", False
    # Artifacts and other ignored files change nothing that is timed.
    return head, bool(_said(["git", "-C", str(ROOT), "status", "--porcelain"]))


def environment() -> dict[str, Any]:
    """What a reader needs to judge the numbers."""
    facts: dict[str, Any] = {
        "monitorgen": monitorgen.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": list(os.getloadavg()),
        "variables": {name: os.environ[name] for name in TOLD if name in os.environ},
    }
    if shutil.which("nvidia-smi"):
        facts["nvidia_smi"] = _said(["nvidia-smi", f"--query-gpu={SMI}", "--format=csv"]).splitlines()
    return facts


def hardware_key(device: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """A name for the hardware, fit for a file: the GPU's, else the CPU's with its cores."""
    name = device.get("gpu") or f"{facts['cpu']} {facts['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "_", str(name).lower()).strip("_")


def cpu_name() -> str:
    """The CPU's model as it calls itself."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    match = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _said(command: list[str]) -> str:
    """What a program prints; nothing where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
