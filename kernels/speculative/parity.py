"""Whether decoded tokens are the target's own choices, judged by the target itself on whole sequences.

A token is right if it is the likeliest after what stands before it. Where arithmetic is rounded, two tokens
that are nearly as likely may change places; then the margin, by how much the logit of the best is larger,
says how near they were. Every arm is judged by the same pass over its own tokens, so nothing depends on where
sequences first differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from monitorgen.kernels.decode.stepper import logits_tolerance
from monitorgen.kernels.decode.weights import Weights
from monitorgen.kernels.speculative.full_pass import hidden_states, logits_of

CHUNK = 8  # sequences judged at once


@dataclass(frozen=True, slots=True)
class Parity:
    """Of `tokens` decoded tokens, how many were not the likeliest one, and the largest margin among these.

    `epsilon` is the largest margin that counts as rounding, in logits.
    """

    tokens: int
    not_first: int
    largest_margin: float
    epsilon: float

    @property
    def holds(self) -> bool:
        """Whether every token is the target's choice, up to rounding."""
        return self.largest_margin <= self.epsilon

    def __str__(self) -> str:
        """A line for people."""
        if not self.not_first:
            return f"parity: all {self.tokens} tokens are the target's own choices"
        word = "holds" if self.holds else "FAILS"
        return (
            f"parity {word}: {self.not_first} of {self.tokens} tokens are not the likeliest, the margin is "
            f"at most {self.largest_margin:.3g} logits (epsilon {self.epsilon:.3g})"
        )


def check_greedy(
    target: Weights, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> Parity:
    """Judge greedy answers.

    epsilon is four deviations of the difference of two logits, each off by what `logits_tolerance` allows of
    the logits' root mean square: 4 sqrt(2) times that.
    """
    total = wrong = 0
    worst = scale = 0.0
    pairs = [(list(prompt), list(answer)) for prompt, answer in zip(prompts, answers, strict=True)]
    for start in range(0, len(pairs), CHUNK):
        part = pairs[start : start + CHUNK]
        longest = max(len(prompt) + len(answer) for prompt, answer in part)
        rows = [[*prompt, *answer, *[0] * (longest - len(prompt) - len(answer))] for prompt, answer in part]
        tokens = torch.tensor(rows, device=target.device)
        logits = logits_of(target, hidden_states(target, tokens[:, :-1])).float()  # [b, T - 1, V]
        behind = logits.amax(-1) - logits.gather(2, tokens[:, 1:, None])[:, :, 0]  # [b, T - 1]
        for row, (prompt, answer) in enumerate(part):
            answered = slice(len(prompt) - 1, len(prompt) + len(answer) - 1)
            margins = behind[row, answered]
            total += len(answer)
            wrong += int((margins > 0).sum())
            worst = max(worst, float(margins.max()))
            scale = max(scale, float(logits[row, answered].square().mean().sqrt()))
    epsilon = 4 * math.sqrt(2) * logits_tolerance(target.dtype, len(target.layers)) * scale
    return Parity(total, wrong, worst, epsilon)
