"""CUDA graph bucketing: graphs captured before decoding, every step padded to one of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from monitorgen.kernels.decode import cudagraph_bucketing_common
from monitorgen.kernels.workload import Run


def prepare(flags: Sequence[str]) -> Run:
    """The arm ready to be timed. Raises UsageError for flags that it does not take."""
    return cudagraph_bucketing_common.prepare("optimized", flags)


def main(argv: Sequence[str] | None = None) -> int:
    """Decode a trace, report captures, replays, padding and memory, and price other sets of buckets."""
    code: int = cudagraph_bucketing_common.run("optimized", argv)
    return code


if __name__ == "__main__":
    sys.exit(main())
