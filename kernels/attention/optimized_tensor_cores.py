"""Prefill as one fused Triton kernel: scores stay on the chip, keys and values come by TMA.

On a CPU it is torch's fused attention, and the run says so.
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
    return triton_way(problem, dtype, device, specialize=False)


command = common.make_command("optimized", make, "Prefill attention as one fused kernel.")


def main(argv: Sequence[str] | None = None) -> int:
    """The command of this arm; returns the exit code."""
    code: int = common.main("optimized", command, argv)
    return code


def prepare(flags: Sequence[str]) -> Run:
    """This arm ready to be timed. Raises UsageError for flags that it does not take."""
    return common.prepare("optimized", make, command, flags)


if __name__ == "__main__":
    sys.exit(main())
