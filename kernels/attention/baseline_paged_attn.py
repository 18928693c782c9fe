"""Decode attention over pages that are gathered first: torch's SDPA, sequence by sequence."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from monitorgen.kernels.attention import paged_decode_common as common
from monitorgen.kernels.workload import Run

command = common.make_command(
    "baseline", "Paged decode attention: gather the pages of each sequence, then SDPA."
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
