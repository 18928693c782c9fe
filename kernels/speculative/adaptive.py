"""How many tokens to draft: few where they are rejected, many where they are accepted."""

from __future__ import annotations

from collections.abc import Sequence


def expected_tokens(acceptance: float, k: int) -> float:
    """Tokens that a step yields on average, if each draft token is accepted with this chance on its own.

    (1 - a^(k + 1)) / (1 - a): Leviathan et al. 2023, equation 1.
    """
    if acceptance >= 1:
        return k + 1.0
    return float((1 - acceptance ** (k + 1)) / (1 - acceptance))


def expected_speedup(acceptance: float, k: int, cost: float) -> float:
    """How much faster than one token a step, if drafting a token costs `cost` target steps.

    expected_tokens / (1 + k cost): Leviathan et al. 2023, theorem 3.8; a verification counts as one step.
    """
    return expected_tokens(acceptance, k) / (1 + k * cost)


class AdaptiveK:
    """Chooses k from 1 to `longest` by the acceptance of the last drafts.

    `acceptance` is the share of accepted among those draft tokens that were really judged: of a draft, those
    up to the first rejected one. It forgets with `memory` (0.9: the last ten steps count most). `cost` is the
    time of drafting a token over that of a target step. k is never 0: without drafts nothing would be learnt.
    """

    def __init__(self, longest: int, cost: float, *, memory: float = 0.9) -> None:
        self.longest, self.cost, self.memory = longest, cost, memory
        self.judged = self.accepted = 0.0
        self.k = longest

    @property
    def acceptance(self) -> float:
        """The remembered share; 1 before anything was judged."""
        return self.accepted / self.judged if self.judged else 1.0

    def observe(self, drafted: Sequence[int], accepted: Sequence[int]) -> None:
        """Learn from a step's rows, and choose the next k."""
        taken = sum(accepted)
        rejected = sum(one < of for of, one in zip(drafted, accepted, strict=True))
        self.judged = self.memory * self.judged + taken + rejected
        self.accepted = self.memory * self.accepted + taken
        self.k = max(
            range(1, self.longest + 1), key=lambda k: expected_speedup(self.acceptance, k, self.cost)
        )
