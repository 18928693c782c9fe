"""What a decode step launches: kernels on the device, calls of the host that launch them, and its time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

LAUNCHES = (
    "cudaLaunchKernel",
    "cudaLaunchKernelExC",
    "cuLaunchKernel",
    "cuLaunchKernelEx",
    "cudaGraphLaunch",
)


@dataclass(frozen=True, slots=True)
class Launched:
    """Per decode step: calls that launch (a graph's replay is one), kernels that ran on the device whoever
    launched them, and torch operators that the host went through. On a CPU, which launches no kernels, the
    first two are 0."""

    launches: float
    kernels: float
    operators: float

    def plain(self) -> dict[str, float]:
        """By name."""
        return asdict(self)


def count_launched(step: Callable[[], Any], steps: int, *, on_cuda: bool) -> Launched:
    """Run a step some times under torch.profiler and count. It has run before: nothing is compiled now."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            step()
        if on_cuda:
            torch.cuda.synchronize()
    launches = kernels = operators = 0
    for event in profiler.events() or ():
        name = str(event.name)
        if getattr(event, "is_user_annotation", False):
            continue  # a name for a stretch of time, not a kernel
        if str(event.device_type).endswith("CUDA"):
            kernels += not name.startswith(("Memcpy", "Memset"))
        elif name in LAUNCHES:
            launches += 1
        elif name.startswith("aten::") and (event.cpu_parent is None or _outermost(event)):
            operators += 1
    return Launched(launches / steps, kernels / steps, operators / steps)


def _outermost(event: Any) -> bool:
    """Whether no other operator of torch called this one."""
    parent = event.cpu_parent
    while parent is not None:
        if str(parent.name).startswith("aten::"):
            return False
        parent = parent.cpu_parent
    return True
