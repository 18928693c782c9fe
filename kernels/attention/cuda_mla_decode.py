"""MLA decode in our CUDA kernel for Hopper."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from monitorgen.kernels.attention import mla_decode_common as common
from monitorgen.kernels.workload import Run

command = common.make_command("cuda", "MLA decode in CUDA for Hopper (TMA, wgmma).")


def main(argv: Sequence[str] | None = None) -> int:
    """The command of this arm; returns the exit code."""
    code: int = common.main("cuda", command, argv)
    return code


def prepare(flags: Sequence[str]) -> Run:
    """This arm ready to be timed. Raises UsageError for flags that it does not take."""
    return common.prepare("cuda", command, flags)


if __name__ == "__main__":
    sys.exit(main())
