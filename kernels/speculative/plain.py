"""Our own plain decode of the same requests: one token a step, as fast as we can, to compare with.

On CUDA a step is a graph of the same kernels, with the tiles that are best for one token a row. The host is
one step behind here too. A row that is done goes on until all are, and what it decodes is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from monitorgen.kernels.counters import DecodeCounters
from monitorgen.kernels.decode.graphs import capture, cuda
from monitorgen.kernels.decode.model import Ops, decode_step, prefill
from monitorgen.kernels.decode.sampling import Sampling, sample
from monitorgen.kernels.decode.state import static_cache
from monitorgen.kernels.decode.weights import Weights
from monitorgen.kernels.speculative.speculator import Answers, check_room


class Plain:
    """Decodes a batch of requests token by token; the same face as `Speculator`."""

    def __init__(
        self,
        weights: Weights,
        ops: Ops,
        rows: int,
        context: int,
        *,
        end: int = -1,
        graphs: bool = False,
        sampling: Sampling | None = None,
        counters: DecodeCounters | None = None,
    ) -> None:
        self.weights, self.ops, self.context, self.end, self.graphs = weights, ops, context, end, graphs
        self.sampling, self.counters = sampling, counters or DecodeCounters(weights.config.name)
        device = self.device = weights.device
        self.cache, self.state = static_cache(
            weights.config, rows, context, device=device, dtype=weights.dtype
        )
        self.rows = torch.arange(rows, device=device)
        self.chosen = torch.zeros(rows, dtype=torch.int64, device=device)
        self.work = ops.workspace(rows, context)
        pin = device.type == "cuda"
        self.out = [torch.zeros(rows, dtype=torch.int64, pin_memory=pin) for _ in range(2)]
        self.ready = [cuda.Event() for _ in range(2)] if pin else []
        self.graph: Any = None

    def start(self, prompts: Sequence[Sequence[int]], answers: Sequence[int]) -> None:
        """Read prompts; `answers` are the most tokens of each answer. Raises UsageError as the speculator."""
        check_room(prompts, answers, 0, self.context)
        longest = max(map(len, prompts))
        tokens = torch.tensor([[*p, *[0] * (longest - len(p))] for p in prompts], device=self.device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        logits = prefill(self.weights, self.cache, self.state, self.rows, tokens, lengths)
        torch.argmax(logits, -1, out=self.chosen)
        if self.sampling is not None:
            sample(logits, self.sampling, self.chosen)
        self.state.tokens[:-1] = self.chosen
        self.answers = list(answers)
        self.first: list[int] = self.chosen.tolist()
        self.begin = (self.state.tokens.clone(), self.state.positions.clone())

    def reset(self) -> None:
        """Back to where `start` ended."""
        self.state.tokens.copy_(self.begin[0])
        self.state.positions.copy_(self.begin[1])

    def launch(self) -> None:
        """Launch a step kernel by kernel."""
        decode_step(
            self.weights, self.cache, self.state, self.rows, self.ops, self.work, self.chosen, self.sampling
        )

    def capture(self) -> None:
        """On CUDA with `graphs`, make the step a graph; needs `start` before."""
        if self.graphs and self.graph is None:
            generators = () if self.sampling is None else (self.sampling.generator,)
            started = time.perf_counter()
            self.graph = capture(self.launch, None, generators)
            cuda.synchronize()
            self.counters.captured(time.perf_counter() - started)
        self.reset()

    def run(self) -> Answers:
        """Decode all requests to their ends."""
        answers = Answers([[token] for token in self.first])
        live = [row for row, token in enumerate(self.first) if self._open(row, 1, token)]
        one = self.launch if self.graph is None else self.graph.replay
        # The longest answer bounds the steps, so that no row outgrows its cache while the host is behind.
        self.before = time.perf_counter()
        ahead = None
        for index in range(max(self.answers) - 1):
            if not live:
                break
            one()
            self.out[index % 2].copy_(self.chosen, non_blocking=True)
            launched: int | None = index
            if self.ready:
                self.ready[index % 2].record()
                launched, ahead = ahead, launched
            if launched is not None:
                live = self._collect(launched, live, answers)
        if ahead is not None and live:
            self._collect(ahead, live, answers)
        return answers

    def _open(self, row: int, count: int, token: int) -> bool:
        return count < self.answers[row] and token != self.end

    def _collect(self, index: int, live: list[int], answers: Answers) -> list[int]:
        """Take a step's tokens; returns the rows that go on."""
        if self.ready:
            self.ready[index % 2].synchronize()
        tokens = self.out[index % 2].tolist()
        for row in live:
            answers.tokens[row].append(tokens[row])
        now = time.perf_counter()
        self.counters.step(len(live), len(tokens), now - self.before)
        if self.graph is not None:
            self.counters.replayed(len(tokens))
        self.before = now
        still = partial(filter, lambda row: self._open(row, len(answers.tokens[row]), tokens[row]))
        return list(still(live))

    def tensors(self) -> Iterator[Tensor]:
        """All that the loop holds on its device."""
        yield from (*self.weights.tensors(), self.cache.k, self.cache.v, *self.state.tensors())
        yield from (*self.work.tensors(), self.chosen)

    def close(self) -> None:
        """Free the graph."""
        self.graph = None
