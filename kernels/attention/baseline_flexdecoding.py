"""Decoding as eager torch does it: the whole static cache under a mask, every kernel launched by the host."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from monitorgen.kernels.attention import flexdecoding_common as common
from monitorgen.kernels.workload import Run

command = common.make_command(
    "baseline", "Decode eagerly: attention over the whole static cache under a mask."
)


def main(argv: Sequence[str] | None = None) -> int:
    """The command of this arm; returns the exit code."""
    code: int = common.main("baseline", command, argv)
    return code


def prepare(flags: Sequence[str]) -> Run:
    """This arm ready to be timed. Raises UsageError for flags that it does not take."""
    return common.prepare("baseline", command, flags)


if __name__ == "__main__":
    sys.exit(main())
