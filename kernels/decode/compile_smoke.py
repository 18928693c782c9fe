"""How many programs torch.compile makes of a step when batch sizes vary, and what happens past its limit.

With static shapes every batch size is a new specialisation; past torch's recompile limit the step runs
without compilation. Buckets keep the number of sizes under that limit. On CUDA the backend is inductor with
CUDA graph trees (`reduce-overhead`), on the CPU `aot_eager`, which needs no C++ compiler.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from monitorgen.kernels.decode.step_graphs import Step, StepShape

SMOKE_SHAPE = StepShape(hidden=64, inner=128, layers=1)


@dataclass(frozen=True, slots=True)
class Smoke:
    """Batch sizes fed in, programs compiled for them, torch's limit, and the largest difference to eager."""

    backend: str
    sizes: int
    programs: int
    limit: int
    largest_difference: float

    def says(self) -> str:
        """The result in a sentence."""
        left = self.sizes - self.programs
        tail = f"; the limit is {self.limit}, so {left} sizes run without compilation" if left else ""
        made = f"{self.programs} programs for {self.sizes} sizes{tail}"
        return f"torch.compile ({self.backend}, static shapes): {made}"


def compile_smoke(sizes: Iterable[int], device: torch.device) -> Smoke:
    """Compile a small step with static shapes and feed it every size, twice on CUDA to record graphs."""
    import torch._dynamo as dynamo
    from torch._dynamo.utils import counters

    distinct = sorted(set(sizes))
    step = Step(SMOKE_SHAPE, device)
    options: dict[str, Any] = (
        {"mode": "reduce-overhead"} if device.type == "cuda" else {"backend": "aot_eager"}
    )
    log = logging.getLogger("torch._dynamo")
    level = log.level
    log.setLevel(logging.ERROR)  # that the limit is hit is our result, and no news
    dynamo.reset()
    counters.clear()
    compiled: Any = torch.compile(step, dynamic=False, **options)
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    with torch.inference_mode():
        for size in distinct:
            rows = torch.randn(size, SMOKE_SHAPE.hidden, generator=generator).to(device, step.dtype)
            for _ in range(2 if device.type == "cuda" else 1):
                made = compiled(rows).clone()  # graph trees own the memory that they return
            largest = max(largest, float((made - step(rows)).abs().max()))
    programs = int(counters["stats"]["unique_graphs"])
    limit = int(dynamo.config.recompile_limit)
    dynamo.reset()
    log.setLevel(level)
    backend = "inductor, reduce-overhead" if device.type == "cuda" else "aot_eager"
    return Smoke(backend, len(distinct), programs, limit, largest)
