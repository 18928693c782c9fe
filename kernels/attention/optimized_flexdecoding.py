"""FlexDecoding: FlexAttention's decoding kernel, a mask whose blocks move on the device, one graph a step."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from monitorgen.kernels.attention import flexdecoding_common as common
from monitorgen.kernels.workload import Run

command = common.make_command(
    "optimized", "Decode with FlexAttention's decoding kernel over the visited blocks."
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
