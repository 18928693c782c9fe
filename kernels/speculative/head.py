"""Drafting by a small trained head on the target's own last hidden state: no second model, no second cache.

A head is one gated step that is applied again and again: it takes the state that stands for the next token
and the token that was chosen there, and yields the state for the one after,

    s' = s + out silu(state rms_norm(s) + token rms_norm(embed(x)))

which the target's own head reads. It starts from the hidden state that the last verified token came from. The
idea of such recurrent heads is Wertheimer et al. 2024, "Accelerating Production LLMs with Combined
Token/Embedding Speculators".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from monitorgen.kernels.decode.sampling import Sampling
from monitorgen.kernels.decode.torch_ops import rms_norm
from monitorgen.kernels.decode.weights import Weights
from monitorgen.kernels.speculative.accept import Proposal
from monitorgen.kernels.speculative.draft_model import draw
from monitorgen.kernels.speculative.sequences import Sequences
from monitorgen.kernels.speculative.verify import Verifier


@dataclass(frozen=True, slots=True)
class Head:
    """The weights of a head over a target of hidden size H, with an inner size I."""

    state: Tensor  # [I, H]
    token: Tensor  # [I, H]
    out: Tensor  # [H, I]
    norm: Tensor  # [H]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {"state": self.state, "token": self.token, "out": self.out, "norm": self.norm}


def make_head(hidden: int, inner: int, seed: int, device: torch.device) -> Head:
    """A head to train, in float32: it starts as one that keeps the state almost as it is."""
    generator = torch.Generator(device).manual_seed(seed)

    def matrix(rows: int, columns: int, scale: float) -> Tensor:
        made = torch.randn(rows, columns, generator=generator, device=device)
        return made.mul_(scale * columns**-0.5)

    return Head(
        matrix(inner, hidden, 1.0),
        matrix(inner, hidden, 1.0),
        matrix(hidden, inner, 0.1),
        torch.ones(hidden, device=device),
    )


def head_of(tensors: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> Head:
    """A head of trained tensors."""
    return Head(**{name: tensor.to(device, dtype) for name, tensor in tensors.items()})


def following(head: Head, target: Weights, state: Tensor, tokens: Tensor) -> Tensor:
    """The state [..., H] for the token after `tokens` [...], which were chosen at `state`."""
    eps = target.config.norm_eps
    embedded = rms_norm(F.embedding(tokens, target.embed), head.norm, eps)
    inner = F.linear(rms_norm(state, head.norm, eps), head.state) + F.linear(embedded, head.token)
    return state + F.linear(F.silu(inner), head.out)


class HeadDrafter:
    """A head over a verifier that keeps hidden states (`keep`)."""

    name = "head"

    def __init__(self, head: Head, verifier: Verifier, sampling: Sampling | None) -> None:
        self.head, self.verifier, self.sampling = head, verifier, sampling
        self.drawn = sampling is not None

    @property
    def generators(self) -> tuple[torch.Generator, ...]:
        """The generator of its sampling."""
        return () if self.sampling is None else (self.sampling.generator,)

    def prefill(self, slots: Tensor, tokens: Tensor, lengths: Tensor) -> None:
        """Nothing to read: the verifier keeps the state after each prompt."""

    def propose(self, sequences: Sequences, k: int, proposal: Proposal) -> None:
        """k tokens after each row's last one."""
        target = self.verifier.weights
        state, tokens = self.verifier.hidden, sequences.last()
        proposal.count.fill_(k)
        for step in range(k):
            state = following(self.head, target, state, tokens)
            normed = rms_norm(state, target.norm, target.config.norm_eps)
            logits = F.linear(normed, target.head).float()  # [B, V]
            if self.sampling is None:
                torch.argmax(logits, -1, out=proposal.tokens[step])
            else:
                draw(logits, self.sampling, proposal, step)
            tokens = proposal.tokens[step]

    def tensors(self) -> Iterable[Tensor]:
        """The head's weights; the rest is the verifier's."""
        return self.head.tensors().values()
