"""A decoder over a static cache: prompts in, then a token of every row a step, on CUDA as one graph.

Rows are fixed: row b is slot b. A row without a request idles on the scratch slot, so that the batch keeps
its shape and one captured step serves whoever comes and goes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from monitorgen.kernels.attention.flexdecoding_blocks import BlockIndex
from monitorgen.kernels.attention.flexdecoding_ops import EagerOps, FlexOps, MathOps
from monitorgen.kernels.attention.flexdecoding_prefill import CHUNK, prefill
from monitorgen.kernels.counters import DecodeCounters
from monitorgen.kernels.decode.device import graph_pool_bytes, held_bytes
from monitorgen.kernels.decode.graphs import capture, cuda
from monitorgen.kernels.decode.model import Ops, decode_step, forward
from monitorgen.kernels.decode.options import build_ops
from monitorgen.kernels.decode.state import Cache, State, Workspace, make_cache, make_state
from monitorgen.kernels.decode.torch_ops import TorchOps
from monitorgen.kernels.decode.weights import Weights
from monitorgen.kernels.workload import UsageError

Way = Literal["eager", "math", "flex", "triton"]
BLOCK = 128  # tokens: FlexAttention's own default


@dataclass(slots=True)
class StaticDecoder:
    """Weights, a static cache, and a step of fixed shape over it."""

    weights: Weights
    ops: Ops
    cache: Cache
    state: State
    work: Workspace
    rows: Tensor  # [B] int64: each row's slot, the scratch slot where it idles
    chosen: Tensor  # [B] int64: the tokens of the last step
    context: int
    window: int
    block: int
    counters: DecodeCounters
    chunk: int = CHUNK
    graph: Any = None

    @property
    def batch(self) -> int:
        """Rows of a step."""
        return int(self.rows.shape[0])

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where it runs."""
        return "cuda" if self.weights.device.type == "cuda" else "cpu"

    def admit(self, slots: Sequence[int], prompts: Sequence[Sequence[int]], steps: int = 1) -> Tensor:
        """Fill slots with prompts and let their rows decode; the logits after each prompt, [n, V] float32.

        The likeliest token after each prompt becomes its row's next. Raises UsageError for a prompt that is
        empty or leaves no room for `steps` decode steps after it: a step itself checks nothing.
        """
        for prompt in prompts:
            if not 0 < len(prompt) <= self.context - steps:
                raise UsageError(
                    f"a prompt of {len(prompt)} tokens and {steps} steps after it: the cache holds "
                    f"{self.context} tokens a row"
                )
        device, longest = self.weights.device, max(map(len, prompts))
        where = torch.tensor(list(slots), device=device)
        filled = [[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts]
        padded = torch.tensor(filled, device=device)  # [n, T]
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        # A chunk's scores are the largest thing there is, so many prompts go in shorter chunks.
        chunk = max(64, self.chunk // len(prompts))
        logits: Tensor = prefill(
            self.weights, self.cache, self.state, where, padded, lengths, window=self.window, chunk=chunk
        )
        self.state.tokens[where] = logits.argmax(-1)
        self.rows[where] = where
        return logits

    def retire(self, slots: Sequence[int]) -> None:
        """Let rows idle: they are computed as padding until a prompt comes."""
        self.rows[torch.tensor(list(slots), device=self.weights.device)] = self.state.slots

    def launch(self) -> None:
        """A step, kernel by kernel."""
        decode_step(self.weights, self.cache, self.state, self.rows, self.ops, self.work, self.chosen)

    def step(self) -> None:
        """Decode one token of every row into `chosen`, without waiting for the device."""
        if self.graph is None:
            self.launch()
        else:
            self.graph.replay()

    def step_logits(self) -> Tensor:
        """The logits of a step, [B, V] float32, kernel by kernel; the state stays where it is.

        What the step writes into the cache is what the step itself will write there.
        """
        forward(self.weights, self.cache, self.state, self.rows, self.ops, self.work)
        self.ops.logits(self.work.x, self.work)
        found: Tensor = self.work.logits
        return found

    def tensors(self) -> Iterator[Tensor]:
        """All tensors that it holds."""
        yield from self.weights.tensors()
        yield from (self.cache.k, self.cache.v, *self.state.tensors(), *self.work.tensors(), self.chosen)

    def close(self) -> None:
        """Free the graph; tensors go with the last reference."""
        self.graph = None
        if self.device == "cuda":
            cuda.empty_cache()


def make_ops(
    way: Way, weights: Weights, blocks: BlockIndex, rows: int, *, compiled: bool, rest: str = "auto"
) -> Ops:
    """What computes a step; `rest` is what computes all but attention beside `flex` on CUDA, `auto` being our
    Triton kernels. Raises UsageError for a way that cannot run here.
    """
    if way == "eager":
        return EagerOps(TorchOps(weights), weights, blocks)
    if way == "math":
        return MathOps(TorchOps(weights), weights, blocks)
    if way == "triton":
        if blocks.window:
            raise UsageError(
                f"triton has no sliding window (window {blocks.window}); take eager, math or flex"
            )
        return build_ops({"ops": "triton"}, weights, rows)[0]
    on_cuda = weights.device.type == "cuda"
    name = ("triton" if on_cuda else "torch") if rest == "auto" else rest
    made = FlexOps(build_ops({"ops": name}, weights, rows)[0], weights, blocks, compiled=compiled or on_cuda)
    if name.startswith("triton"):
        from monitorgen.kernels.attention import flexdecoding_kernels

        made.rotate = flexdecoding_kernels.rotate_and_write
    return made


def make_decoder(
    weights: Weights,
    way: Way,
    slots: int,
    *,
    context: int,
    window: int = 0,
    block: int = BLOCK,
    graph: bool = False,
    compiled: bool = False,
    rest: str = "auto",
    counters: DecodeCounters | None = None,
) -> StaticDecoder:
    """A decoder with `slots` rows of up to `context` tokens each, all idle, with a captured step if `graph`.

    `compiled` is for `flex` on a CPU: on CUDA it always is; `rest` as `make_ops` has it. Raises
    UsageError for a context beyond the model's positions, and for a way that cannot run here.
    """
    config, device = weights.config, weights.device
    if context > weights.cos.shape[0]:
        raise UsageError(
            f"a context of {context} tokens: {config.name} has {weights.cos.shape[0]} positions here"
        )
    # Whole blocks, so that no kernel has to ask where the cache ends.
    size = -(-context // block) * block
    blocks = BlockIndex(slots, size, window, block, device)
    ops = make_ops(way, weights, blocks, slots, compiled=compiled, rest=rest)
    cache = make_cache(config, slots, size, device=device, dtype=weights.dtype)
    state = make_state(slots, 1, slots, device)
    state.table[:, 0] = torch.arange(slots + 1, dtype=torch.int32, device=device)
    made = StaticDecoder(
        weights, ops, cache, state, ops.workspace(slots, size),
        rows=torch.full((slots,), slots, dtype=torch.int64, device=device),
        chosen=torch.zeros(slots, dtype=torch.int64, device=device),
        context=context, window=window, block=block, counters=counters or DecodeCounters(config.name),
    )  # fmt: skip
    _count_memory(made)
    made.counters.mode = "eager"
    if graph:
        started = time.perf_counter()
        made.graph = capture(made.launch)
        cuda.synchronize()
        made.counters.mode, made.counters.graphs = "full", True
        made.counters.captured(time.perf_counter() - started)
    return made


def _count_memory(made: StaticDecoder) -> None:
    if made.device == "cuda":
        made.counters.allocator_bytes = partial(cuda.memory_reserved, made.weights.device)
        made.counters.pool_bytes = graph_pool_bytes
    else:
        tensors = tuple(made.tensors())
        made.counters.allocator_bytes = lambda: held_bytes(tensors)
