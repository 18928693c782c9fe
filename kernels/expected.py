"""What a call is expected to take on this hardware: read from `kernels/expectations/HARDWARE.json`.

The bench writes these files and names the hardware as here; a file says how an arm was flagged when it was
timed, and only a run with the same options is held to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monitorgen.kernels.counters import Expected
from monitorgen.kernels.workload import UsageError

FOLDER = Path(__file__).parent / "expectations"


def hardware_key(gpu: str) -> str:
    """The name of a GPU as files of expectations have it."""
    return re.sub(r"[^a-z0-9]+", "_", gpu.lower()).strip("_")


def expected(
    gpu: str,
    workload: str,
    arm: str,
    same: Callable[[list[str]], bool],
    folder: Path = FOLDER,
) -> Expected | None:
    """The time that the file of a GPU gives for an arm; None where it has none, or one of other options.

    `same` is asked whether the flags of the expectation mean the options of this run. Raises UsageError for a
    file that cannot be read.
    """
    path = folder / f"{hardware_key(gpu)}.json"
    if not gpu or not path.is_file():
        return None
    try:
        examples: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))["examples"]
        metrics = examples.get(workload, {}).get("metrics", {})
        milliseconds = metrics.get(f"{arm}_time_ms")
        if milliseconds is None or not same(list(metrics.get(f"{arm}_flags", []))):
            return None
        return Expected(float(milliseconds) / 1e3, "expectations")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UsageError(f"{path} holds no expectations: {type(error).__name__}: {error}") from None
