"""Baseline of the V1 engine loop: it stops polling at the first step that executed nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from monitorgen.kernels.decode import engine_loop_common
from monitorgen.kernels.workload import Run


def prepare(flags: Sequence[str]) -> Run:
    """The arm ready to be timed. Raises UsageError for flags that it does not take."""
    return engine_loop_common.prepare("baseline", flags)


def main(argv: Sequence[str] | None = None) -> int:
    """Poll an engine and say what is left behind; `--mode both` shows the right loop beside it."""
    code: int = engine_loop_common.run("baseline", argv, "baseline_v1_engine_loop")
    return code


if __name__ == "__main__":
    sys.exit(main())
