"""Speculative decoding in plain torch: draft and verify launched kernel by kernel."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from monitorgen.kernels.speculative import common
from monitorgen.kernels.workload import Run

command = common.make_command("baseline")


def main(argv: Sequence[str] | None = None) -> int:
    """The command of this arm; returns the exit code."""
    return int(common.main("baseline", command, argv))


def prepare(flags: Sequence[str]) -> Run:
    """This arm ready to be timed. Raises UsageError for flags that it does not take."""
    return common.prepare("baseline", command, flags)


if __name__ == "__main__":
    sys.exit(main())
