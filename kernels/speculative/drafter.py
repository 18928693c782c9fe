"""What a draft is: something that proposes tokens from what the device holds, without asking the host."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from monitorgen.kernels.speculative.accept import Proposal
from monitorgen.kernels.speculative.sequences import Sequences


class Drafter(Protocol):
    """A way to draft. `drawn`: tokens come with the distributions that they were drawn from."""

    name: str
    drawn: bool

    @property
    def generators(self) -> tuple[torch.Generator, ...]:
        """The random generators that a captured draft draws from."""

    def prefill(self, slots: Tensor, tokens: Tensor, lengths: Tensor) -> None:
        """Read prompts, as `decode.model.prefill` takes them."""

    def propose(self, sequences: Sequences, k: int, proposal: Proposal) -> None:
        """Propose up to k tokens after each row's last one; the work has the same shape each time."""

    def tensors(self) -> Iterable[Tensor]:
        """All that it holds on the device."""
