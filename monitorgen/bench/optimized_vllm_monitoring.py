"""The optimized monitoring bundle as an arm of the target `vllm_monitoring`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from monitorgen.bench import monitoring
from monitorgen.kernels.workload import Run


def prepare(flags: Sequence[str]) -> Run:
    """The arm ready to be timed."""
    return monitoring.prepare("optimized", flags)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the bundle."""
    return monitoring.main("optimized", sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
