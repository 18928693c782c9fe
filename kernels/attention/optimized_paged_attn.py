"""Decode attention over pages where they are: Triton, the context split into equal shares."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from monitorgen.kernels.attention import paged_decode_common as common
from monitorgen.kernels.workload import Run

command = common.make_command(
    "optimized", "Paged decode attention: Triton kernels over the pages, in a CUDA graph."
)


def main(argv: Sequence[str] | None = None) -> int:
    """The command of this arm; returns the exit code."""
    code: int = common.main("optimized", command, argv)
    return code


def prepare(flags: Sequence[str]) -> Run:
    """This arm ready to be timed. Raises UsageError for flags that it does not take."""
    return common.prepare("optimized", command, flags)


if __name__ == "__main__":
    sys.exit(main())
