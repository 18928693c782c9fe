"""Which device a workload runs on, what it has free, and how fast it copies."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from monitorgen.kernels.decode.graphs import cuda
from monitorgen.kernels.workload import UsageError

GIB = 1 << 30


def choose_device(name: str) -> torch.device:
    """The device of `--device auto|cpu|cuda`. Raises UsageError for cuda where there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device here; CUDA graphs need one (--device cpu)")
    return torch.device(name, torch.cuda.current_device()) if name == "cuda" else torch.device(name)


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated: of the device, or of the machine's memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_fits(what: str, needed: int, device: torch.device, advice: str) -> None:
    """Raise UsageError if `needed` bytes are not free, with the numbers and what would help."""
    free = free_bytes(device)
    if needed > free:
        raise UsageError(
            f"{what} takes {needed / GIB:.1f} GiB, {free / GIB:.1f} GiB are free on {device.type}: {advice}"
        )


def held_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the memory behind tensors; views and tied weights count once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in list(tensors)}
    return sum(storages.values())


def graph_pool_bytes() -> int:
    """Device memory in the private pools of CUDA graphs, as torch's allocator lists it."""
    # The default pool has the id (0, 0); every other one is a graph's.
    sizes: list[int] = [
        segment["total_size"]
        for segment in cuda.memory_snapshot()
        if tuple(segment.get("segment_pool_id", (0, 0))) != (0, 0)
    ]
    return sum(sizes)


def measure(work: Callable[[], Any], device: torch.device, repeats: int, warm_up: int = 3) -> list[float]:
    """Seconds of each of several runs of some work: by CUDA events on a CUDA device, else by the clock."""
    for _ in range(warm_up):
        work()
    if device.type != "cuda":
        marks = [time.perf_counter()]
        for _ in range(repeats):
            work()
            marks.append(time.perf_counter())
        return [end - start for start, end in pairwise(marks)]
    events: list[Any] = [[cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, end in events:
        start.record()
        work()
        end.record()
    cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in events]


def copy_rate(device: torch.device) -> float:
    """Bytes a second, read and written, of a large copy on a device: the median of 20."""
    size = GIB if device.type == "cuda" else GIB // 8
    source = torch.empty(size // 4, dtype=torch.int32, device=device).random_()
    target = torch.empty_like(source)
    return 2 * size / statistics.median(measure(lambda: target.copy_(source), device, 20))
