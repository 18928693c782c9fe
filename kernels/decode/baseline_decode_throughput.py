"""Decode steps in plain torch, launched kernel by kernel: what a decoder does before anyone tunes it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from monitorgen.kernels.decode import decode_throughput_common as common
from monitorgen.kernels.workload import Run

command = common.make_command("baseline", "Decode with torch's kernels, launched one by one.")


def main(argv: Sequence[str] | None = None) -> int:
    """The command of this arm; returns the exit code."""
    code: int = common.main("baseline", command, argv)
    return code


def prepare(flags: Sequence[str]) -> Run:
    """This arm ready to be timed. Raises UsageError for flags that it does not take."""
    return common.prepare("baseline", command, flags)


if __name__ == "__main__":
    sys.exit(main())
