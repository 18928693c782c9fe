"""The fused prefill kernel with warp specialisation: producer warps fetch, consumer warps compute.

The compiler is asked for it; whether it did it is read from the kernel that it made, and reported as
`warp_specialized` 1 or 0. What it made is compared with the plain kernel first, which runs in its place where
they differ. On a CPU it is torch's fused attention. The run says which.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

from monitorgen.kernels.attention import tensor_cores_common as common
from monitorgen.kernels.attention.prefill_common import Problem
from monitorgen.kernels.attention.ways import triton_way
from monitorgen.kernels.workload import Run


def make(problem: Problem, dtype: torch.dtype, device: torch.device) -> common.Way:
    """The way of this arm."""
    return triton_way(problem, dtype, device, specialize=True)


command = common.make_command("warp_specialized", make, "Prefill attention with specialised warps.")


def main(argv: Sequence[str] | None = None) -> int:
    """The command of this arm; returns the exit code."""
    code: int = common.main("warp_specialized", command, argv)
    return code


def prepare(flags: Sequence[str]) -> Run:
    """This arm ready to be timed. Raises UsageError for flags that it does not take."""
    return common.prepare("warp_specialized", make, command, flags)


if __name__ == "__main__":
    sys.exit(main())
