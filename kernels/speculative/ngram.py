"""Drafting by lookup: what followed the last tokens where they occurred before in the same row.

Prompt lookup needs no model. The longest n-gram that occurred before counts, of equal ones the latest; where
none did, nothing is drafted.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from monitorgen.kernels.speculative.accept import Proposal
from monitorgen.kernels.speculative.sequences import Sequences
from monitorgen.kernels.workload import UsageError


class NgramDrafter:
    """Looks n-grams of `longest` down to `least` tokens up. Raises UsageError for impossible lengths."""

    name = "ngram"
    drawn = False
    generators: tuple[torch.Generator, ...] = ()

    def __init__(self, least: int = 2, longest: int = 4) -> None:
        if not 1 <= least <= longest:
            raise UsageError(f"ngram lengths {least} to {longest}: they must go from at least 1 upwards")
        self.least, self.longest = least, longest

    def prefill(self, slots: Tensor, tokens: Tensor, lengths: Tensor) -> None:
        """Nothing to read: the prompts are in the sequences."""

    def propose(self, sequences: Sequences, k: int, proposal: Proposal) -> None:
        """What followed the latest of the longest matches; at most as many tokens as the row still has."""
        held, lengths = sequences.tokens[:, :-1], sequences.lengths  # [B, T], [B]
        places = torch.arange(held.shape[1], device=held.device)  # [T]: where a match could end
        matched = torch.zeros_like(held)  # tokens that match, counted backwards from each place
        run = places < lengths[:, None] - 1  # the last token itself is no match
        for back in range(self.longest):
            wanted = held.gather(1, (lengths - 1 - back).clamp(min=0)[:, None])  # [B, 1]
            # place >= back also keeps the wanted token inside the row: a match lies before the end.
            run = run & (places >= back) & (held.roll(back, 1) == wanted)
            matched += run
        best = (matched * held.shape[1] + places).argmax(1)  # [B]
        found = matched.gather(1, best[:, None])[:, 0] >= self.least
        steps = torch.arange(1, k + 1, device=held.device)
        after = (best[:, None] + steps).clamp(max=held.shape[1] - 1)  # [B, k]
        proposal.tokens[:k] = held.gather(1, after).t()
        proposal.count.copy_((lengths - 1 - best).clamp(max=k) * found)

    def tensors(self) -> Iterable[Tensor]:
        """Nothing is held."""
        return ()
