"""What serves a workload's requests: our decoder, whose rows requests take and leave while others decode."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from monitorgen.kernels.attention.static_decoder import StaticDecoder, Way, make_decoder
from monitorgen.kernels.counters import DecodeCounters
from monitorgen.kernels.decode.graphs import cuda
from monitorgen.kernels.decode.weights import Weights
from monitorgen.kernels.decode.workload_config import Decoder, Request

WAYS: dict[str, Way] = {"torch": "eager", "math": "math", "flex": "flex", "triton": "triton"}


@dataclass(slots=True)
class Served:
    """What one request got: tokens, the seconds from the run's start at which each reached its reader, and
    the log-probability of each where the server tells them."""

    request: Request
    tokens: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def ttft(self) -> float:
        """Seconds from arrival to the first token, queueing included."""
        return self.times[0] - float(self.request.arrival)

    @property
    def gaps(self) -> list[float]:
        """Seconds between tokens that follow each other."""
        return [later - sooner for sooner, later in zip(self.times, self.times[1:], strict=False)]


class Backend(Protocol):
    """Something that decodes greedily."""

    name: str

    def serve(self, requests: Sequence[Request]) -> list[Served]:
        """Serve requests when they come; returns when all are done, in their order."""

    def logits(self, served: Served) -> Tensor | None:
        """The logits before each of a served request's tokens, [T, V] float32; None if they cannot be had."""

    def close(self) -> None:
        """Free what it holds."""


class DecoderBackend:
    """Our decoder with one way to attend: continuous batching over the rows of a static cache."""

    def __init__(self, name: str, weights: Weights, sizes: Decoder, counters: DecodeCounters) -> None:
        self.name, self.counters = name, counters
        self.decoder: StaticDecoder = make_decoder(
            weights, WAYS[name], sizes.slots, context=sizes.context, window=sizes.window, block=sizes.block,
            graph=weights.device.type == "cuda", counters=counters,
        )  # fmt: skip
        self.warm_up()

    def warm_up(self) -> None:
        """One request through prefill and a step, so that nothing is compiled while requests wait."""
        self.decoder.admit([0], [[0]])
        self.decoder.step()
        self.decoder.retire([0])
        if self.decoder.device == "cuda":
            cuda.synchronize()

    def serve(self, requests: Sequence[Request]) -> list[Served]:
        """Serve requests when they come: a free row takes the one that waits longest."""
        waiting = sorted(requests, key=lambda one: (one.arrival, one.number))
        served = {one.number: Served(one) for one in requests}
        rows: list[Served | None] = [None] * self.decoder.batch
        started = time.perf_counter()
        while waiting or any(rows):
            now = time.perf_counter() - started
            free = [row for row, taken in enumerate(rows) if taken is None]
            come = [one for one in waiting[: len(free)] if one.arrival <= now]
            if come:
                del waiting[: len(come)]
                taken = free[: len(come)]
                for row, one in zip(taken, come, strict=True):
                    rows[row] = served[one.number]
                self._admit(taken, [served[one.number] for one in come], rows, started)
            elif not any(rows):
                time.sleep(max(0.0, waiting[0].arrival - now))
            if any(rows):
                self._step(rows, started)
        return [served[one.number] for one in requests]

    def _admit(self, taken: list[int], come: list[Served], rows: list[Served | None], started: float) -> None:
        """Prefill the requests that came; each gets its first token."""
        prompts = [one.request.prompt for one in come]
        first = self.decoder.admit(taken, prompts).argmax(-1).tolist()
        now = time.perf_counter() - started
        for one, token in zip(come, first, strict=True):
            one.tokens.append(token)
            one.times.append(now)
        self._leave(rows)

    def _step(self, rows: list[Served | None], started: float) -> None:
        """Decode one token of every row that is taken."""
        before = time.perf_counter()
        self.decoder.step()
        chosen = self.decoder.chosen.tolist()
        now = time.perf_counter()
        live = 0
        for row, one in enumerate(rows):
            if one is not None:
                one.tokens.append(chosen[row])
                one.times.append(now - started)
                live += 1
        self.counters.step(live, self.decoder.batch, now - before)
        if self.decoder.graph is not None:
            self.counters.replayed(self.decoder.batch)
        self._leave(rows)

    def _leave(self, rows: list[Served | None]) -> None:
        """Free the rows whose requests have all of their tokens."""
        done = [
            row for row, one in enumerate(rows)
            if one is not None and len(one.tokens) >= one.request.new_tokens
        ]  # fmt: skip
        if done:
            self.decoder.retire(done)
        for row in done:
            rows[row] = None

    def logits(self, served: Served) -> Tensor | None:
        """The logits of the prefill and of each step after it, if these tokens are decoded."""
        decoder, device = self.decoder, self.decoder.weights.device
        out = [decoder.admit([0], [served.request.prompt])[0]]
        for token in served.tokens[:-1]:
            decoder.state.tokens[:1] = torch.tensor([token], device=device)
            out.append(decoder.step_logits()[0].clone())
            decoder.state.positions[:1] += 1
        decoder.retire([0])
        return torch.stack(out)

    def close(self) -> None:
        """Free the graph."""
        self.decoder.close()
