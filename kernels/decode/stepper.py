"""One batch size that decodes over and over: what the decoder's speed is measured on.

All requests stand at the same context length, filled with random keys and values; `tokens` steps in a row
are one run, and every run starts there again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from monitorgen.kernels.counters import DecodeCounters
from monitorgen.kernels.decode.device import graph_pool_bytes, held_bytes
from monitorgen.kernels.decode.graphs import capture, cuda
from monitorgen.kernels.decode.loop import StepFunction
from monitorgen.kernels.decode.model import Ops, decode_step, forward
from monitorgen.kernels.decode.state import Cache, State, Workspace, static_cache
from monitorgen.kernels.decode.weights import Weights
from monitorgen.kernels.workload import Outcome


@dataclass(slots=True)
class Stepper:
    """A batch that decodes `tokens` tokens a run from `context` tokens on, as a graph where there is one."""

    weights: Weights
    ops: Ops
    cache: Cache
    state: State
    work: Workspace
    rows: Tensor
    chosen: Tensor
    first: Tensor  # [N + 1]: the tokens that every run starts with
    context: int
    tokens: int
    function: StepFunction
    counters: DecodeCounters
    graph: Any = None

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where it runs."""
        return "cuda" if self.weights.device.type == "cuda" else "cpu"

    @property
    def batch(self) -> int:
        """Requests in the batch."""
        return int(self.rows.shape[0])

    @property
    def bytes_moved(self) -> float:
        """Bytes that a run has to move at least."""
        config, element = self.weights.config, self.weights.dtype.itemsize
        contexts = range(self.context, self.context + self.tokens)
        moved = [config.step_bytes(self.batch, self.batch * context, element) for context in contexts]
        return float(sum(moved))

    @property
    def flops(self) -> float:
        """Floating point operations that a run has to do."""
        contexts = range(self.context, self.context + self.tokens)
        done = [self.weights.config.step_flops(self.batch, self.batch * context) for context in contexts]
        return float(sum(done))

    def reset(self) -> None:
        """Back to the start of a run."""
        self.state.tokens.copy_(self.first)
        self.state.positions[:-1] = self.context

    def one(self) -> None:
        """Decode one token of every request."""
        if self.graph is None:
            self.launch()
        else:
            self.graph.replay()

    def launch(self) -> None:
        """Launch a step kernel by kernel."""
        self.function(self.weights, self.cache, self.state, self.rows, self.ops, self.work, self.chosen)

    def step(self) -> None:
        """One run, without waiting for the device."""
        self.reset()
        for _ in range(self.tokens):
            self.one()

    def logits(self) -> Tensor:
        """The logits of a run's first step, [B, V] float32 on the host."""
        self.reset()
        forward(self.weights, self.cache, self.state, self.rows, self.ops, self.work)
        self.ops.logits(self.work.x, self.work)
        found: Tensor = self.work.logits.cpu()
        return found

    def outcome(self) -> Outcome:
        """The logits of the first step, as close as `logits_tolerance` says, whatever computes them.

        Not the tokens: in 16 bits, two likely ones may change places with the order of a sum.
        """
        tolerance = logits_tolerance(self.weights.dtype, len(self.weights.layers))
        return Outcome(close={"logits": (self.logits().flatten().tolist(), tolerance)})

    def metrics(self) -> Mapping[str, float]:
        """Captures and memory."""
        found: dict[str, float] = self.counters.summary()
        return {name: found[name] for name in found if name.endswith("bytes") or name.startswith("capture")}

    def close(self) -> None:
        """Free the graph; tensors go with the last reference."""
        self.graph = None
        if self.device == "cuda":
            cuda.empty_cache()


def make_stepper(
    weights: Weights,
    ops: Ops,
    batch: int,
    *,
    context: int,
    tokens: int,
    graph: bool,
    function: StepFunction = decode_step,
    seed: int = 0,
) -> Stepper:
    """A stepper, warmed up, with a captured step if `graph`. Raises UsageError for too long a context."""
    config, device = weights.config, weights.device
    cache, state = static_cache(config, batch, context + tokens + 1, device=device, dtype=weights.dtype)
    generator = torch.Generator(device).manual_seed(seed)
    for tensor in (cache.k, cache.v):
        tensor[:, :, :, :context].normal_(generator=generator)
    first = torch.randint(config.vocab, (batch + 1,), generator=generator, device=device)
    first[-1] = 0
    made = Stepper(
        weights, ops, cache, state, ops.workspace(batch, context + tokens + 1),
        rows=torch.arange(batch, device=device),
        chosen=torch.empty(batch, dtype=torch.int64, device=device),
        first=first, context=context, tokens=tokens, function=function, counters=DecodeCounters(config.name),
    )  # fmt: skip
    made.reset()
    made.launch()
    counters = made.counters
    if device.type == "cuda":
        counters.allocator_bytes = partial(cuda.memory_reserved, device)
        counters.pool_bytes = graph_pool_bytes
    else:
        held = (*weights.tensors(), cache.k, cache.v, *state.tensors(), *made.work.tensors())
        counters.allocator_bytes = lambda: held_bytes(held)
    if graph:
        counters.mode, counters.graphs = "full", True
        made.reset()
        made.graph = capture(made.launch)
    return made


def logits_tolerance(dtype: torch.dtype, layers: int) -> float:
    """The relative norm by which two right ways to compute the same logits may differ.

    In bf16 each way rounds the residual stream four times a layer, by up to half of 2**-7, and the errors of
    two ways add up like a random walk: 2**-8 * sqrt(8 * layers), 4.4% at 16 layers. fp32 sums differ by
    order alone.
    """
    return 2.0**-8 * math.sqrt(8 * layers) if dtype.itemsize == 2 else 1e-4
