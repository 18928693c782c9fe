"""Times of calls on a GPU as graph replays with a cold L2 cache: what a decode step sees of a layer."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from monitorgen.kernels.decode.graphs import capture, cuda
from monitorgen.kernels.timing import FLUSH_BYTES


def flush_buffer() -> Tensor:
    """A buffer that is larger than any L2 cache, to be overwritten between calls."""
    return torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")


def replay_seconds(call: Callable[[], Any], flush: Tensor, repeats: int = 15, warm_up: int = 2) -> float:
    """Median seconds of a call, captured once and replayed, with L2 overwritten before each replay.

    A replay costs the device alone: launching from Python takes longer than small calls run.
    """
    graph = capture(call)
    for _ in range(warm_up):
        graph.replay()
    pairs: list[Any] = []
    for _ in range(repeats):
        flush.zero_()
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        pairs.append((start, end))
    cuda.synchronize()
    times: list[float] = [start.elapsed_time(end) / 1e3 for start, end in pairs]
    return statistics.median(times)
