"""Attention by FlexAttention: compiled on CUDA, its block mask made once, masked blocks never computed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from monitorgen.kernels.attention import flex_attention_common as common
from monitorgen.kernels.workload import Run

command = common.make_command("optimized", "Attend with FlexAttention and a block mask made once.")


def main(argv: Sequence[str] | None = None) -> int:
    """The command of this arm; returns the exit code."""
    code: int = common.main("optimized", command, argv)
    return code


def prepare(flags: Sequence[str]) -> Run:
    """This arm ready to be timed. Raises UsageError for flags that it does not take."""
    return common.prepare("optimized", command, flags)


if __name__ == "__main__":
    sys.exit(main())
