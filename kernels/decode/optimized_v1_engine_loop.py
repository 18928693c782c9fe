"""The right V1 engine loop: it polls while there are requests, and yields when nothing was executed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from monitorgen.kernels.decode import engine_loop_common
from monitorgen.kernels.workload import Run


def prepare(flags: Sequence[str]) -> Run:
    """The arm ready to be timed. Raises UsageError for flags that it does not take."""
    return engine_loop_common.prepare("v1", flags)


def main(argv: Sequence[str] | None = None) -> int:
    """Poll an engine and say what is left behind; `--mode both` shows the baseline beside it."""
    code: int = engine_loop_common.run("v1", argv, "optimized_v1_engine_loop")
    return code


if __name__ == "__main__":
    sys.exit(main())
