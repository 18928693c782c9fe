"""The target's side: one step over k + 1 positions of every row, and what of a draft it accepts.

A position is a slot of its own: the k + 1 slots of a row share its pages and stand one after another, so that
a decode step over them is the verification. It reads the weights once, as a step of one token does.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from monitorgen.kernels.decode.model import Ops, forward, prefill
from monitorgen.kernels.decode.sampling import Sampling, sample
from monitorgen.kernels.decode.state import State, static_cache
from monitorgen.kernels.decode.weights import Weights
from monitorgen.kernels.speculative.accept import Proposal, accept_greedy, accept_sampling
from monitorgen.kernels.speculative.full_pass import hidden_states
from monitorgen.kernels.speculative.sequences import ACCEPTED, Sequences, emit


class Verifier:
    """The target with its cache. `ops` must write all keys and values of a layer before they attend.

    With `keep`, `hidden` [B, H] is the state that each row's last token was chosen from, for a drafting head.
    """

    def __init__(
        self,
        weights: Weights,
        ops: Ops,
        rows: int,
        longest: int,
        context: int,
        sampling: Sampling | None,
        *,
        keep: bool = False,
    ) -> None:
        self.weights, self.ops, self.sampling, self.longest = weights, ops, sampling, longest
        device, wide = weights.device, longest + 1
        self.cache, single = static_cache(weights.config, rows, context, device=device, dtype=weights.dtype)
        # Slot r (K + 1) + j is position j of row r; the last one is scratch.
        owner = torch.arange(rows, device=device).repeat_interleave(wide)
        self.state = State(
            torch.zeros(rows * wide + 1, dtype=torch.int64, device=device),
            torch.zeros(rows * wide + 1, dtype=torch.int64, device=device),
            torch.cat((single.table[owner], single.table[rows:])).contiguous(),
        )
        self.first = torch.arange(rows, device=device) * wide  # [B]: the slot of each row's last token
        self.slots = {
            k: (self.first[:, None] + torch.arange(k + 1, device=device)).flatten()
            for k in range(1, longest + 1)
        }
        self.work = ops.workspace(rows * wide, context)
        self.keep = keep
        size = (rows if keep else 0, weights.config.hidden)
        self.hidden = torch.zeros(size, device=device, dtype=weights.dtype)

    def prefill(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Read the prompts; returns the first token of each answer, [B] int64."""
        logits = prefill(self.weights, self.cache, self.state, self.first, tokens, lengths)
        chosen: Tensor = logits.argmax(-1)
        if self.sampling is not None:
            sample(logits, self.sampling, chosen)
        if self.keep:
            last = torch.arange(len(lengths), device=lengths.device)
            self.hidden.copy_(hidden_states(self.weights, tokens)[last, lengths - 1])
        return chosen

    def verify(self, sequences: Sequences, proposal: Proposal, k: int, report: Tensor) -> None:
        """Check drafts of k tokens, and give every row what was accepted and one more."""
        self.place(sequences, proposal, k)
        rows, work = sequences.rows, self.work.rows(sequences.rows * (k + 1))
        forward(self.weights, self.cache, self.state, self.slots[k], self.ops, work)
        self.ops.logits(work.x, work)
        logits = work.logits.view(rows, k + 1, -1)
        if self.sampling is None:
            emitted, accepted = accept_greedy(logits, proposal, k)
        else:
            emitted, accepted = accept_sampling(logits, proposal, k, self.sampling)
        emit(sequences, emitted, accepted, proposal.count.clamp(max=k), report)
        self.remember(k, report)

    def remember(self, k: int, report: Tensor) -> None:
        """Keep the state of the last accepted position of each row, where its last token comes from."""
        if self.keep:
            rows = report.shape[0]
            states = self.work.x[: rows * (k + 1)].view(rows, k + 1, -1)
            at = report[:, ACCEPTED, None, None].expand(-1, 1, states.shape[2])
            self.hidden.copy_(states.gather(1, at)[:, 0])

    def place(self, sequences: Sequences, proposal: Proposal, k: int) -> None:
        """Put each row's last token and its draft into the slots, at the positions where they stand."""
        wide = self.longest + 1
        tokens = self.state.tokens[:-1].view(-1, wide)  # [B, K + 1]
        tokens[:, 0] = sequences.last()
        tokens[:, 1 : k + 1] = proposal.tokens[:k].t()
        positions = self.state.positions[:-1].view(-1, wide)
        steps = torch.arange(wide, device=tokens.device)
        torch.add(sequences.lengths[:, None] - 1, steps, out=positions)

    def tensors(self) -> Iterable[Tensor]:
        """Weights, cache, state and workspace."""
        yield from self.weights.tensors()
        yield from (self.cache.k, self.cache.v, *self.state.tensors(), *self.work.tensors(), self.hidden)
