"""The optimized arm's halves: the Triton decoder with the work around it in a kernel each.

Greedy acceptance reads the head's best token of each tile, so that logits are never written. Sampling needs
the whole distributions, so acceptance and draws are torch's there, in the same graphs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monitorgen.kernels.decode.model import forward
from monitorgen.kernels.decode.triton_ops import TritonOps
from monitorgen.kernels.speculative import triton_kernels as kernels
from monitorgen.kernels.speculative.accept import Proposal
from monitorgen.kernels.speculative.draft_model import ModelDrafter
from monitorgen.kernels.speculative.ngram import NgramDrafter
from monitorgen.kernels.speculative.sequences import FIELDS, Sequences
from monitorgen.kernels.speculative.verify import Verifier


def _power(number: int) -> int:
    """The least power of two that is not under a number."""
    return 1 << (number - 1).bit_length()


def _launch(pdl: bool) -> dict[str, Any]:
    return {"PDL": pdl, **({"launch_pdl": True} if pdl else {})}


class FusedVerifier(Verifier):  # type: ignore[misc]
    """`Verifier` over Triton ops that write keys and values first."""

    ops: TritonOps

    def place(self, sequences: Sequences, proposal: Proposal, k: int) -> None:
        """As `Verifier.place`, in one kernel."""
        wide = self.longest + 1
        kernels.place_kernel[(sequences.rows,)](
            sequences.tokens, sequences.tokens.stride(0), sequences.lengths, proposal.tokens,
            self.state.tokens, self.state.positions, sequences.rows, K=k, WIDE=wide, BLOCK=_power(wide),
            num_warps=1, **_launch(self.ops.pdl),
        )  # fmt: skip

    def verify(self, sequences: Sequences, proposal: Proposal, k: int, report: Tensor) -> None:
        """As `Verifier.verify`; greedily, without logits."""
        if self.sampling is not None:
            super().verify(sequences, proposal, k, report)
            return
        self.place(sequences, proposal, k)
        work, ops = self.work.rows(sequences.rows * (k + 1)), self.ops
        forward(self.weights, self.cache, self.state, self.slots[k], ops, work)
        ops.head(work.x, work, write=False)
        accept(ops, work.best, work.best_token, sequences, proposal, k, report)
        self.remember(k, report)


def accept(
    ops: TritonOps,
    best: Tensor,
    best_token: Tensor,
    sequences: Sequences,
    proposal: Proposal,
    k: int,
    report: Tensor,
) -> None:
    """`accept_greedy` and `emit` in one kernel; best and best_token [B (k + 1), tiles] are the head's."""
    tiles = ops.head_tiles
    kernels.accept_kernel[(sequences.rows,)](
        best, best_token, tiles, proposal.tokens, proposal.count, sequences.tokens,
        sequences.tokens.stride(0), sequences.lengths, sequences.limits, sequences.done.view(torch.uint8),
        report, report.stride(0), sequences.rows, sequences.end, K=k, FIELDS=FIELDS, TILES=_power(tiles),
        BLOCK=_power(k + 1), num_warps=4, **_launch(ops.pdl),
    )  # fmt: skip


class FusedNgramDrafter(NgramDrafter):  # type: ignore[misc]
    """`NgramDrafter` in one kernel."""

    def propose(self, sequences: Sequences, k: int, proposal: Proposal) -> None:
        """As `NgramDrafter.propose`."""
        kernels.ngram_kernel[(sequences.rows,)](
            sequences.tokens, sequences.tokens.stride(0), sequences.room, sequences.lengths, proposal.tokens,
            proposal.count, sequences.rows, LEAST=self.least, LONGEST=self.longest, K=k,
            ROOM=_power(sequences.room), BLOCK=_power(k), num_warps=4, PDL=False,
        )  # fmt: skip


class FusedModelDrafter(ModelDrafter):  # type: ignore[misc]
    """`ModelDrafter` over Triton ops."""

    ops: TritonOps

    def begin(self, sequences: Sequences, k: int, proposal: Proposal) -> None:
        """As `ModelDrafter.begin`, in one kernel."""
        kernels.begin_kernel[(sequences.rows,)](
            sequences.tokens, sequences.tokens.stride(0), sequences.lengths, self.state.tokens,
            self.state.positions, proposal.count, sequences.rows, K=k, num_warps=1, **_launch(self.ops.pdl),
        )  # fmt: skip
