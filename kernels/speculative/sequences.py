"""Where every request is: its tokens so far, on the device. Rolling back is a matter of its length.

The last token of a row of length n stands at position n - 1 and has not been through the target yet: it is
what the next step reads. What caches hold beyond that position is of rejected drafts, and is overwritten
before anything looks at it, so that nothing is ever copied or freed to roll back.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FIELDS = 4  # of a report's row, before its tokens
EMITTED, ACCEPTED, DRAFTED, DONE = range(FIELDS)


@dataclass(slots=True)
class Sequences:
    """The requests of a batch; all tensors keep their addresses."""

    tokens: Tensor  # [B, T + 1] int64: prompt and answer; the last column takes what no row keeps
    lengths: Tensor  # [B] int64: tokens that a row holds
    limits: Tensor  # [B] int64: the length at which a row is done
    done: Tensor  # [B] bool
    end: int  # the token that ends a row, -1 for none

    @property
    def rows(self) -> int:
        """Requests in the batch."""
        return int(self.tokens.shape[0])

    @property
    def room(self) -> int:
        """Tokens that a row can hold."""
        return int(self.tokens.shape[1]) - 1

    def last(self, back: int = 0) -> Tensor:
        """The token `back` places before the last one of each row, [B]."""
        return self.tokens.gather(1, (self.lengths - 1 - back)[:, None])[:, 0]

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors."""
        return (self.tokens, self.lengths, self.limits, self.done)


def make_sequences(rows: int, room: int, end: int, device: torch.device | str) -> Sequences:
    """Empty rows with room for `room` tokens each."""
    return Sequences(
        tokens=torch.zeros(rows, room + 1, dtype=torch.int64, device=device),
        lengths=torch.ones(rows, dtype=torch.int64, device=device),
        limits=torch.ones(rows, dtype=torch.int64, device=device),
        done=torch.ones(rows, dtype=torch.bool, device=device),
        end=end,
    )


def make_report(rows: int, longest: int, device: torch.device | str) -> Tensor:
    """Room for what a step says of each row, [B, FIELDS + longest + 1] int64."""
    return torch.zeros(rows, FIELDS + longest + 1, dtype=torch.int64, device=device)


def emit(sequences: Sequences, emitted: Tensor, accepted: Tensor, drafted: Tensor, report: Tensor) -> None:
    """Give every row that is not done its new tokens: the first `accepted` + 1 of `emitted` [B, k + 1].

    A row is cut after the end token, wherever in the draft it is, and at its limit; both make it done. The
    report's row says how many tokens the row got, how many draft tokens were accepted and drafted (before
    the cut, as vLLM counts them), whether it is done, and the tokens.
    """
    live = ~sequences.done
    steps = torch.arange(emitted.shape[1], device=emitted.device)  # [k + 1]
    count = accepted + 1
    ends = (emitted == sequences.end) & (steps < count[:, None])
    ended = ends.any(1)
    count = torch.where(ended, ends.int().argmax(1) + 1, count)
    count = torch.minimum(count, sequences.limits - sequences.lengths) * live
    ended &= ends.int().argmax(1) < count  # an end beyond the limit is cut off with the rest
    place = sequences.lengths[:, None] + steps
    place = torch.where(steps < count[:, None], place, sequences.room)
    sequences.tokens.scatter_(1, place, emitted)
    sequences.lengths += count
    sequences.done |= live & (ended | (sequences.lengths >= sequences.limits))
    report[:, EMITTED] = count
    report[:, ACCEPTED] = accepted * live
    report[:, DRAFTED] = drafted * live
    report[:, DONE] = sequences.done
    report[:, FIELDS : FIELDS + emitted.shape[1]] = emitted
