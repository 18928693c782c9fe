"""Whether two right ways chose the same tokens, and where they did not, whether the choice was a near tie.

In 16 bits the order of a sum decides between two tokens that are as good as equally likely. What counts as
that follows from rounding: logits of two right ways differ by `logits_tolerance` of their norm, so that one
logit differs by about that share of their root mean square, and the distance of two by sqrt(2) of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monitorgen.kernels.decode.stepper import logits_tolerance

SIGMAS = 3.0  # of the distance's deviation: 0.3% of right near ties lie beyond


@dataclass(frozen=True, slots=True)
class Parity:
    """Tokens compared, those equal, near ties, and those that are different for no such reason.

    `margin` is the largest distance of two likeliest logits at which the ways chose differently, over the
    epsilon that is allowed there: up to 1 for a near tie; 0 where all are equal.
    """

    compared: int = 0
    equal: int = 0
    near_ties: int = 0
    different: int = 0
    margin: float = 0.0
    first: str = ""

    def __add__(self, other: Parity) -> Parity:
        return Parity(
            self.compared + other.compared, self.equal + other.equal, self.near_ties + other.near_ties,
            self.different + other.different, max(self.margin, other.margin), self.first or other.first,
        )  # fmt: skip


def epsilon(logits: Tensor, dtype: torch.dtype, layers: int) -> Tensor:
    """How far apart the two likeliest of a row's logits [..., V] may be for a near tie: [...]; 0 in float32,
    where right ways choose the same."""
    if dtype.itemsize != 2:
        return torch.zeros(logits.shape[:-1], device=logits.device)
    rms = logits.float().pow(2).mean(-1).sqrt()
    allowed: Tensor = SIGMAS * math.sqrt(2) * logits_tolerance(dtype, layers) * rms
    return allowed


def compare_chosen(
    logits: Tensor, tokens: Sequence[int], dtype: torch.dtype, layers: int, name: str = ""
) -> Parity:
    """Tokens that somebody chose, against the reference's logits [T, V] at the same places.

    The logits must come from the same tokens before each place, so that one near tie does not make all that
    follows differ. A near tie is one whose token lies within `epsilon` of the likeliest.
    """
    taken = torch.tensor(list(tokens), device=logits.device)
    best = logits.max(-1)
    behind = best.values - logits.gather(-1, taken[:, None])[:, 0]  # [T]: 0 for the likeliest
    allowed = epsilon(logits, dtype, layers)
    same = (taken == best.indices).tolist()
    near = ((behind <= allowed) & ~(taken == best.indices)).tolist()
    wrong = [at for at, equal in enumerate(same) if not equal and not near[at]]
    share = [float(behind[at] / allowed[at]) if float(allowed[at]) else math.inf for at in _where_not(same)]
    said = ""
    if wrong:
        at = wrong[0]
        said = (
            f"{name}token {at} is {tokens[at]}, the reference chooses {int(best.indices[at])}, "
            f"{float(behind[at]):.3g} likelier in logits ({float(allowed[at]):.3g} would be a near tie)"
        )
    return Parity(len(tokens), sum(same), sum(near), len(wrong), max(share, default=0.0), said)


def _where_not(flags: Sequence[bool]) -> list[int]:
    return [at for at, flag in enumerate(flags) if not flag]
