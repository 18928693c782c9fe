"""The same prompts without speculation, as fast as we can: what speculation has to beat."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from monitorgen.kernels.speculative import common
from monitorgen.kernels.workload import Run

command = common.make_command("plain")


def main(argv: Sequence[str] | None = None) -> int:
    """The command of this arm; returns the exit code."""
    return int(common.main("plain", command, argv))


def prepare(flags: Sequence[str]) -> Run:
    """This arm ready to be timed. Raises UsageError for flags that it does not take."""
    return common.prepare("plain", command, flags)


if __name__ == "__main__":
    sys.exit(main())
