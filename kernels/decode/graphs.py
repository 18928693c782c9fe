"""Capturing a decode step as a CUDA graph.

The rules that a captured step keeps: every tensor that it reads or writes has a fixed address and outlives
the graph; nothing asks the host for a value; what it allocates comes from the graph's pool; kernels were
compiled and libraries started before, by a run outside the capture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

cuda: Any = torch.cuda  # parts of it have no types


def run_aside(step: Callable[[], Any]) -> None:
    """Run a step once on a side stream, as it has to be before a capture; the current stream waits for it."""
    stream = cuda.Stream()
    stream.wait_stream(cuda.current_stream())
    with cuda.stream(stream):
        step()
    cuda.current_stream().wait_stream(stream)


def capture(
    step: Callable[[], Any], pool: Any = None, generators: tuple[torch.Generator, ...] = ()
) -> torch.cuda.CUDAGraph:
    """A graph of what `step` launches; a run of it must not have harmed anything, for one comes before.

    `pool` is a pool to share (`torch.cuda.graph_pool_handle()`), None makes one for this graph alone. The
    step's own random generators are registered, so that each replay draws anew.
    """
    run_aside(step)
    graph: torch.cuda.CUDAGraph = cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    # Other threads may use CUDA meanwhile: the exporter asks the allocator for its numbers.
    with cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        step()
    return graph
