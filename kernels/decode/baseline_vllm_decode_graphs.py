"""The decode loop without a plan for ragged batches: a CUDA graph and a workspace for every batch size seen.

A graph is captured when its batch size first comes, and replayed when the size comes back; graphs, pools and
workspaces add up. The KV pool starts with what the first step needs and doubles when it runs out, which
changes its address: every graph is captured again. Every hole in the pool is closed at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from monitorgen.kernels.decode import decode_graphs_common as common
from monitorgen.kernels.workload import Run

command = common.make_command(
    "baseline",
    "Decode a ragged trace, with a CUDA graph captured for every batch size when it is first seen.",
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
