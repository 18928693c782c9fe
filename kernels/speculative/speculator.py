"""The loop of speculative decoding: draft, verify, and the host always one step behind the device.

On CUDA each of the two halves is a graph, one pair for each k. The host asks for nothing inside a step: what
a step did comes back in a report, read while the next one runs, so that streaming, counting and adapting k
cost the device nothing. The price is at most one step too many at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from monitorgen.kernels.counters import DecodeCounters, SpeculationCounters
from monitorgen.kernels.decode.graphs import capture, cuda
from monitorgen.kernels.speculative.accept import make_proposal
from monitorgen.kernels.speculative.adaptive import AdaptiveK
from monitorgen.kernels.speculative.drafter import Drafter
from monitorgen.kernels.speculative.sequences import (
    ACCEPTED,
    DONE,
    DRAFTED,
    EMITTED,
    FIELDS,
    make_report,
    make_sequences,
)
from monitorgen.kernels.speculative.verify import Verifier
from monitorgen.kernels.workload import UsageError


@dataclass(slots=True)
class Pair:
    """The two halves of a step for one k: launched, or replayed."""

    draft: Callable[[], Any]
    verify: Callable[[], Any]


@dataclass(slots=True)
class Told:
    """What the host was told of a step: what the counters count, for tests and sweeps."""

    k: int
    emitted: list[int]
    accepted: list[int]
    drafted: list[int]


@dataclass(slots=True)
class Answers:
    """What a run decoded: each request's tokens, the prefill's first, and what every step did."""

    tokens: list[list[int]]
    steps: list[Told] = field(default_factory=list)


class Speculator:
    """Decodes a batch of requests speculatively. Buffers are made once, for `rows` and the longest draft."""

    def __init__(
        self,
        verifier: Verifier,
        drafter: Drafter,
        rows: int,
        context: int,
        *,
        end: int = -1,
        graphs: bool = False,
        adaptive: AdaptiveK | None = None,
        counters: DecodeCounters | None = None,
        speculation: SpeculationCounters | None = None,
    ) -> None:
        self.verifier, self.drafter, self.adaptive, self.graphs = verifier, drafter, adaptive, graphs
        self.longest, self.context = verifier.longest, context
        config, device = verifier.weights.config, verifier.weights.device
        self.device = device
        self.counters = counters or DecodeCounters(config.name)
        self.speculation = speculation or SpeculationCounters(config.name, self.longest)
        self.sequences = make_sequences(rows, context, end, device)
        self.proposal = make_proposal(rows, self.longest, config.vocab, drawn=drafter.drawn, device=device)
        self.report = make_report(rows, self.longest, device)
        pin = device.type == "cuda"
        self.reports = [torch.zeros(self.report.shape, dtype=torch.int64, pin_memory=pin) for _ in range(2)]
        self.ready = [cuda.Event() for _ in range(2)] if pin else []
        self.pairs: dict[int, Pair] = {}
        self.begin: list[Tensor] = []

    @property
    def k(self) -> int:
        """How many tokens the next step drafts."""
        k: int = self.longest if self.adaptive is None else self.adaptive.k
        return k

    def start(self, prompts: Sequence[Sequence[int]], answers: Sequence[int]) -> None:
        """Read prompts; `answers` are the most tokens of each answer. Ragged, as many as rows.

        Raises UsageError if a request does not fit, before anything is computed.
        """
        check_room(prompts, answers, self.longest, self.context)
        longest = max(map(len, prompts))
        padded = [[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts]
        tokens = torch.tensor(padded, device=self.device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        sequences = self.sequences
        sequences.tokens.zero_()
        sequences.tokens[:, :longest] = tokens
        chosen = self.verifier.prefill(tokens, lengths)
        self.drafter.prefill(torch.arange(len(prompts), device=self.device), tokens, lengths)
        sequences.tokens[torch.arange(len(prompts), device=self.device), lengths] = chosen
        sequences.lengths.copy_(lengths + 1)
        sequences.limits.copy_(lengths + torch.tensor(list(answers), device=self.device))
        sequences.done.copy_((chosen == sequences.end) | (sequences.lengths >= sequences.limits))
        self.first: list[int] = chosen.tolist()
        self.ended: list[bool] = sequences.done.tolist()
        self.begin = [tensor.clone() for tensor in self._moving()]

    def reset(self) -> None:
        """Back to where `start` ended; caches hold the prompts still."""
        for tensor, before in zip(self._moving(), self.begin, strict=True):
            tensor.copy_(before)

    def _moving(self) -> tuple[Tensor, ...]:
        """What a run changes, but for what it overwrites before it reads it."""
        return (*self.sequences.tensors(), self.verifier.hidden)

    def capture(self, ks: Iterable[int] = ()) -> None:
        """Make the steps for each k, on CUDA with `graphs` as two graphs each; needs `start` before.

        Captures run a step first, which moves the rows on: `reset` follows.
        """
        for k in ks or (self.k,):
            self._pair(k)
        self.reset()

    def _pair(self, k: int) -> Pair:
        if k not in self.pairs:
            sequences, proposal = self.sequences, self.proposal

            def draft() -> None:
                self.drafter.propose(sequences, k, proposal)

            def verify() -> None:
                self.verifier.verify(sequences, proposal, k, self.report)

            self.pairs[k] = self._captured(draft, verify) if self.graphs else Pair(draft, verify)
        return self.pairs[k]

    def _captured(self, draft: Callable[[], None], verify: Callable[[], None]) -> Pair:
        sampling = self.verifier.sampling
        made = []
        for half, generators in (
            (draft, self.drafter.generators),
            (verify, () if sampling is None else (sampling.generator,)),
        ):
            started = time.perf_counter()
            made.append(capture(half, None, tuple(generators)))
            cuda.synchronize()
            self.counters.captured(time.perf_counter() - started)
        return Pair(made[0].replay, made[1].replay)

    def step(self, index: int, k: int) -> None:
        """One step, without waiting: draft k tokens, verify, and send the report on its way."""
        pair = self._pair(k)
        pair.draft()
        pair.verify()
        self.reports[index % 2].copy_(self.report, non_blocking=True)
        if self.ready:
            self.ready[index % 2].record()

    def run(self) -> Answers:
        """Decode all requests to their ends."""
        answers = Answers([[token] for token in self.first])
        index, ahead, ended = 0, None, all(self.ended)
        self.before = time.perf_counter()
        while not ended:
            k = self.k
            self.step(index, k)
            launched: tuple[int, int] | None = (index, k)
            if self.ready:
                launched, ahead = ahead, launched
            if launched is not None:
                ended = self._collect(*launched, answers)
            index += 1
        if ahead is not None:
            self._collect(*ahead, answers)
        return answers

    def _collect(self, index: int, k: int, answers: Answers) -> bool:
        """Take a step's report: its tokens, its counts. Returns whether all rows are done."""
        if self.ready:
            self.ready[index % 2].synchronize()
        told = Told(k, [], [], [])
        done, live = True, 0
        for row, said in zip(answers.tokens, self.reports[index % 2].tolist(), strict=True):
            count = said[EMITTED]
            row.extend(said[FIELDS : FIELDS + count])
            told.emitted.append(count)
            told.accepted.append(said[ACCEPTED])
            told.drafted.append(said[DRAFTED])
            live += count > 0
            done = done and bool(said[DONE])
        if live:
            answers.steps.append(told)
            self._count(told, live)
        return done

    def _count(self, told: Told, live: int) -> None:
        now = time.perf_counter()
        self.counters.step(live, len(told.emitted), now - self.before, tokens=sum(told.emitted))
        if self.graphs:
            self.counters.replayed(len(told.emitted) * (told.k + 1))
        self.before = now
        for drafted, accepted in zip(told.drafted, told.accepted, strict=True):
            if drafted:
                self.speculation.draft(drafted, accepted)
        if self.adaptive is not None:
            self.adaptive.observe(told.drafted, told.accepted)

    def tensors(self) -> Iterator[Tensor]:
        """All that the loop holds on its device."""
        yield from (*self.verifier.tensors(), *self.drafter.tensors(), *self.sequences.tensors())
        yield from (*self.proposal.tensors(), self.report)

    def close(self) -> None:
        """Free the graphs."""
        self.pairs.clear()


def check_room(prompts: Sequence[Sequence[int]], answers: Sequence[int], longest: int, context: int) -> None:
    """Raise UsageError for a request that would outgrow the cache, drafts beyond its end included."""
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        if not prompt or answer < 1:
            raise UsageError(
                f"request {number}: a prompt of {len(prompt)} tokens and {answer} to decode; 1 is least"
            )
        if (need := len(prompt) + answer + longest) > context:
            raise UsageError(
                f"request {number}: {len(prompt)} prompt tokens, {answer} to decode and drafts of {longest} "
                f"need {need} places, the cache has {context} a row; shorten them or take a larger --context"
            )
