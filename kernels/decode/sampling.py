"""Choosing tokens at random: temperature, top-k and top-p, with a generator of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monitorgen.kernels.workload import UsageError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. `top_k` 0 keeps all tokens, `top_p` 1 too.

    A graph that captures a step must have the generator registered
    (`torch.cuda.CUDAGraph.register_generator_state`), or each replay would draw the same tokens.
    """

    generator: torch.Generator
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UsageError(
                f"a temperature of {self.temperature:g}: it must be positive; greedy decoding is 0"
            )
        if self.top_k < 0 or not 0 < self.top_p <= 1:
            raise UsageError(f"top-k {self.top_k} must be 0 or more, top-p {self.top_p:g} over 0 and up to 1")


def kept_logits(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits [B, V] over the temperature, with those that top-k and top-p leave out at minus infinity.

    top-p keeps the fewest likeliest tokens whose probabilities reach it together (nucleus sampling), of those
    that top-k left. Tokens that tie with the last one kept stay too.
    """
    scaled = logits / sampling.temperature
    if 0 < sampling.top_k < scaled.shape[-1]:
        least = scaled.topk(sampling.top_k, -1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    if sampling.top_p < 1:
        ordered = scaled.sort(-1, descending=True).values
        probability = ordered.softmax(-1)
        before = probability.cumsum(-1) - probability  # what the likelier ones reach without this one
        least = ordered.masked_fill(before >= sampling.top_p, torch.inf).amin(-1, keepdim=True)
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    return scaled


def sample(logits: Tensor, sampling: Sampling, out: Tensor) -> None:
    """Draw a token of each row of logits [B, V] into `out` [B] int64.

    The argmax of p / e with e exponential is distributed as p (the Gumbel-max trick in other words); unlike
    multinomial it needs no word from the host, so that it can be captured.
    """
    probability = kept_logits(logits, sampling).softmax(-1)
    noise = torch.empty_like(probability).exponential_(1.0, generator=sampling.generator)
    torch.argmax(probability / noise, -1, out=out)
