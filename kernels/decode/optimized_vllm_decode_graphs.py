"""The decode loop with a plan: few batch sizes, captured before the first step, and no allocation after it.

Batches are padded to buckets, whose graphs share one pool, largest first; padded rows are masked by a scratch
slot. The KV pool has its full size from the start. Holes are closed once they are many for long.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from monitorgen.kernels.decode import decode_graphs_common as common
from monitorgen.kernels.workload import Run

command = common.make_command(
    "optimized", "Decode a ragged trace in padded buckets, with CUDA graphs captured before the first step."
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
