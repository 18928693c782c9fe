"""Timing one call on the device with a cold L2, in two ways of making it cold."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch

from monitorgen.kernels.decode.graphs import cuda
from monitorgen.kernels.timing import FLUSH_BYTES

Flush = Callable[[], None]
LEAST, MOST = 5, 60  # repeats


def overwrite(device: torch.device) -> Flush:
    """Fill L2 with zeros that were not written to memory yet, as triton.testing.do_bench does."""
    buffer = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)

    def flush() -> None:
        buffer.zero_()

    return flush


def read_over(device: torch.device) -> Flush:
    """Fill L2 by reading: nothing has to be written back before other lines come in."""
    buffer = torch.zeros(FLUSH_BYTES // 4, dtype=torch.float32, device=device)
    total = torch.empty((), dtype=torch.float32, device=device)

    def flush() -> None:
        torch.sum(buffer, dim=0, out=total)

    return flush


FLUSHES: Mapping[str, Callable[[torch.device], Flush]] = {"dirty": overwrite, "clean": read_over}
"""Ways to make L2 cold, by name."""


def timed(call: Callable[[], Any], flush: Flush, budget: float) -> float:
    """Median seconds of a call between CUDA events: as many as fit `budget` seconds, 5 to 60."""
    first = _samples(call, flush, 2)
    count = min(MOST, max(LEAST, int(budget / max(min(first), 1e-6))))
    return statistics.median(_samples(call, flush, count))


def _samples(call: Callable[[], Any], flush: Flush, count: int) -> list[float]:
    """Seconds of each call; all are enqueued before the host waits."""
    pairs: list[Any] = [[cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    for start, end in pairs:
        flush()
        start.record()
        call()
        end.record()
    cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in pairs]
