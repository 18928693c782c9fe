"""Drafting by a smaller model: k decode steps of it, from the same position as the target.

Its first step computes two tokens a row: the last one, and the one before. After a draft that was accepted
whole, the latter is the draft's own last token, which was proposed but never went through the draft model;
otherwise its key and value are written again as they were. So the cache has no hole, whatever was accepted.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from monitorgen.kernels.decode.model import Ops, forward, prefill
from monitorgen.kernels.decode.sampling import Sampling, kept_logits
from monitorgen.kernels.decode.state import State, static_cache
from monitorgen.kernels.decode.torch_ops import advance
from monitorgen.kernels.decode.weights import Weights
from monitorgen.kernels.speculative.accept import Proposal
from monitorgen.kernels.speculative.sequences import Sequences


class ModelDrafter:
    """A draft model with a cache of its own.

    `first` are the ops of the first step, over two rows a request that share pages, so they write all keys
    and values before they attend; `ops` those of the others. `sampling` None drafts greedily.
    """

    name = "draft-model"

    def __init__(
        self, weights: Weights, first: Ops, ops: Ops, rows: int, context: int, sampling: Sampling | None
    ) -> None:
        self.weights, self.first, self.ops, self.sampling = weights, first, ops, sampling
        self.drawn = sampling is not None
        device = weights.device
        self.cache, single = static_cache(weights.config, rows, context, device=device, dtype=weights.dtype)
        # Slots 0 to B - 1 are the rows at their last token, B to 2 B - 1 the same rows one token before.
        table = torch.cat((single.table[:rows], single.table[:rows], single.table[rows:]))
        self.state = State(
            torch.zeros(2 * rows + 1, dtype=torch.int64, device=device),
            torch.zeros(2 * rows + 1, dtype=torch.int64, device=device),
            table.contiguous(),
        )
        self.rows, self.both = torch.arange(rows, device=device), torch.arange(2 * rows, device=device)
        self.first_work, self.work = first.workspace(2 * rows, context), ops.workspace(rows, context)

    @property
    def generators(self) -> tuple[torch.Generator, ...]:
        """The generator of its sampling."""
        return () if self.sampling is None else (self.sampling.generator,)

    def prefill(self, slots: Tensor, tokens: Tensor, lengths: Tensor) -> None:
        """Fill the draft's cache with the prompts."""
        prefill(self.weights, self.cache, self.state, slots, tokens, lengths)

    def propose(self, sequences: Sequences, k: int, proposal: Proposal) -> None:
        """k tokens after each row's last one."""
        rows, state = sequences.rows, self.state
        self.begin(sequences, k, proposal)
        for step in range(k):
            if step == 0:
                ops, work = self.first, self.first_work.rows(rows)
                forward(self.weights, self.cache, state, self.both, ops, self.first_work)
            else:
                ops, work = self.ops, self.work
                forward(self.weights, self.cache, state, self.rows, ops, work)
            if self.sampling is None:
                ops.greedy(state, self.rows, work, proposal.tokens[step])
            else:
                ops.logits(work.x, work)
                draw(work.logits, self.sampling, proposal, step)
                advance(state, self.rows, proposal.tokens[step])

    def begin(self, sequences: Sequences, k: int, proposal: Proposal) -> None:
        """Stand at each row's last token, and at the one before."""
        rows, state = sequences.rows, self.state
        state.tokens[:rows] = sequences.last()
        state.tokens[rows:-1] = sequences.last(1)
        torch.sub(sequences.lengths, 1, out=state.positions[:rows])
        torch.sub(sequences.lengths, 2, out=state.positions[rows:-1])
        proposal.count.fill_(k)

    def tensors(self) -> Iterable[Tensor]:
        """Weights, cache, state and workspaces."""
        yield from self.weights.tensors()
        yield from (self.cache.k, self.cache.v, *self.state.tensors())
        yield from (*self.first_work.tensors(), *self.work.tensors())


def draw(logits: Tensor, sampling: Sampling, proposal: Proposal, step: int) -> None:
    """Draw a draft's token at `step` from logits [B, V], and keep the distribution that it came from."""
    assert proposal.probability is not None
    q = proposal.probability[step]
    torch.softmax(kept_logits(logits, sampling), -1, out=q)
    noise = torch.empty_like(q).exponential_(1.0, generator=sampling.generator)
    torch.argmax(q / noise, -1, out=proposal.tokens[step])
