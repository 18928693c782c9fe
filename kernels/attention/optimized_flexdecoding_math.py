"""Decoding with math only: products and a softmax over the blocks that a window leaves, in a CUDA graph."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from monitorgen.kernels.attention import flexdecoding_common as common
from monitorgen.kernels.workload import Run

command = common.make_command("math", "Decode with products and a softmax over the visited blocks alone.")


def main(argv: Sequence[str] | None = None) -> int:
    """The command of this arm; returns the exit code."""
    code: int = common.main("math", command, argv)
    return code


def prepare(flags: Sequence[str]) -> Run:
    """This arm ready to be timed. Raises UsageError for flags that it does not take."""
    return common.prepare("math", command, flags)


if __name__ == "__main__":
    sys.exit(main())
