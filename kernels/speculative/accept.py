"""Which draft tokens the target takes, on the device: greedily, or so that its distribution is kept.

Speculative sampling (Leviathan, Kalman, Matias 2023, "Fast Inference from Transformers via Speculative
Decoding", algorithm 1; Chen et al. 2023): a token x drawn from q is accepted with min(1, p(x) / q(x)); the
first one that is not is drawn anew from max(p - q, 0), normalised; if all are accepted, one more is drawn
from p.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monitorgen.kernels.decode.sampling import Sampling, kept_logits


@dataclass(slots=True)
class Proposal:
    """What a draft proposes; allocated once for the longest draft K."""

    tokens: Tensor  # [K, B] int64: a draft's first, second, ... tokens
    count: Tensor  # [B] int64: how many of them are meant; 0 to k
    probability: Tensor | None  # [K, B, V] float32: what each was drawn from; None: each was certain

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors."""
        return (self.tokens, self.count, *([] if self.probability is None else [self.probability]))


def make_proposal(
    rows: int, longest: int, vocab: int, *, drawn: bool, device: torch.device | str
) -> Proposal:
    """Room for drafts of up to `longest` tokens; `drawn` says that they come with their distributions."""
    return Proposal(
        tokens=torch.zeros(longest, rows, dtype=torch.int64, device=device),
        count=torch.zeros(rows, dtype=torch.int64, device=device),
        probability=torch.zeros(longest, rows, vocab, device=device) if drawn else None,
    )


def accept_greedy(logits: Tensor, proposal: Proposal, k: int) -> tuple[Tensor, Tensor]:
    """Accept the draft tokens that the target would have chosen; logits [B, k + 1, V].

    Returns the tokens [B, k + 1], of which the first `accepted` + 1 count, and `accepted` [B]. An accepted
    token is the target's choice, so the tokens are simply its choices.
    """
    chosen = logits.argmax(-1)  # [B, k + 1]
    draft = proposal.tokens[:k].t()  # [B, k]
    return chosen, _leading((draft == chosen[:, :k]) & _meant(proposal, k))


def accept_sampling(logits: Tensor, proposal: Proposal, k: int, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Accept draft tokens so that what is emitted is distributed as the target's own samples.

    logits [B, k + 1, V]; temperature, top-k and top-p of `sampling` make the target's distribution p. Returns
    as `accept_greedy`. A draft token without a distribution was certain: q is 1 for it and 0 for all others.
    """
    rows, _, vocab = logits.shape
    p = kept_logits(logits.reshape(-1, vocab), sampling).softmax(-1).view(rows, k + 1, vocab)
    draft = proposal.tokens[:k].t()  # [B, k]
    p_draft = p[:, :k].gather(2, draft[:, :, None])[:, :, 0]
    if proposal.probability is None:
        q = torch.zeros_like(p[:, :k]).scatter_(2, draft[:, :, None], 1.0)
    else:
        q = proposal.probability[:k].transpose(0, 1)  # [B, k, V]
    q_draft = q.gather(2, draft[:, :, None])[:, :, 0]
    dice = torch.rand(q_draft.shape, generator=sampling.generator, device=logits.device)
    meant = _meant(proposal, k)
    accepted = _leading((dice * q_draft < p_draft) & meant)
    # A place where no token was meant subtracts nothing: there the token comes from p itself.
    q = torch.cat((q * meant[:, :, None], torch.zeros_like(p[:, :1])), 1)
    at = accepted[:, None, None].expand(-1, 1, vocab)
    plain = p.gather(1, at)[:, 0]  # [B, V]
    left = (plain - q.gather(1, at)[:, 0]).clamp(min=0)
    left = torch.where(left.sum(-1, keepdim=True) > 0, left, plain)  # p equal to q, up to rounding
    noise = torch.empty_like(left).exponential_(1.0, generator=sampling.generator)
    last = (left / noise).argmax(-1)  # as in `sampling.sample`, which needs no normalised weights either
    steps = torch.arange(k + 1, device=logits.device)
    padded = torch.cat((draft, draft.new_zeros(rows, 1)), 1)
    return torch.where(steps == accepted[:, None], last[:, None], padded), accepted


def _meant(proposal: Proposal, k: int) -> Tensor:
    """Which of the first k draft tokens count, [B, k] bool."""
    return torch.arange(k, device=proposal.count.device) < proposal.count[:, None]


def _leading(taken: Tensor) -> Tensor:
    """How many of the first ones are true on end, [B] int64."""
    return taken.long().cumprod(1).sum(1)
