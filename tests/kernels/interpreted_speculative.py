"""Runs the Triton kernels of speculative decoding in Triton's interpreter beside torch's code.

Run as a program, because the interpreter must be chosen before Triton is imported. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, str(Path(__file__).parent / "speculative"))

import torch
from speculative_models import noisy, target

from monitorgen.kernels.decode.config import Config
from monitorgen.kernels.decode.model import forward
from monitorgen.kernels.decode.state import State, static_cache
from monitorgen.kernels.decode.torch_ops import TorchOps
from monitorgen.kernels.decode.triton_ops import Split, Tile, TritonOps
from monitorgen.kernels.speculative.accept import accept_greedy, make_proposal
from monitorgen.kernels.speculative.fused import (
    FusedModelDrafter,
    FusedNgramDrafter,
    FusedVerifier,
    accept,
)
from monitorgen.kernels.speculative.ngram import NgramDrafter
from monitorgen.kernels.speculative.plain import Plain
from monitorgen.kernels.speculative.sequences import Sequences, emit, make_report, make_sequences
from monitorgen.kernels.speculative.speculator import Speculator

# A vocabulary that tiles do not divide, three query heads a KV head.
SHAPE = Config(
    "odd", 61, hidden=32, layers=1, heads=3, kv_heads=1, head_dim=32, intermediate=32, positions=48
)
CONTEXT = 48


def ops(weights: Any, rows: int, *, shared: bool) -> TritonOps:
    """Small tiles, two parts of the context."""
    tiles = {part: Tile(16, 32, 32) for part in ("qkv", "out", "gate_up", "down", "head")}
    return TritonOps(weights, rows, tiles=tiles, split=Split(chunk=16, block=16), write_first=shared)


def loop() -> dict[str, Any]:
    """The whole fused loop on ragged requests, against torch's plain decode."""
    weights = target(SHAPE, seed=6)
    draft = noisy(weights, 0.1)
    prompts, answers, k = [[5, 9, 5, 9, 5, 9, 5, 9, 5, 9, 5, 9], [7]], [6, 3], 3
    plain = Plain(weights, TorchOps(weights), 2, CONTEXT, end=-1)
    plain.start(prompts, answers)
    wanted = plain.run().tokens
    verifier = FusedVerifier(weights, ops(weights, 8, shared=True), 2, k, CONTEXT, None)
    drafter = FusedModelDrafter(
        draft, ops(draft, 4, shared=True), ops(draft, 2, shared=False), 2, CONTEXT, None
    )
    made = Speculator(verifier, drafter, 2, CONTEXT)
    made.start(prompts, answers)
    found = made.run()
    counted = made.speculation
    return {
        "same": found.tokens == wanted,
        "accepted": counted.accepted_tokens,
        "drafted": counted.draft_tokens,
    }


def sharing() -> dict[str, bool]:
    """Four rows of one slot's pages, the last position first, over a cache that is poison beyond the prompt.

    The interpreter runs rows in their order: one reads what a later one writes only if all write first.
    """
    weights, found = target(SHAPE, seed=6), {}
    rows, wanted = torch.tensor([3, 2, 1, 0]), torch.empty(0)
    for name, made in (
        ("torch", TorchOps(weights)),
        ("first", ops(weights, 4, shared=True)),
        ("not first", ops(weights, 4, shared=False)),
    ):
        cache, single = static_cache(SHAPE, 1, CONTEXT, device="cpu", dtype=torch.float32)
        cache.k.normal_(generator=torch.Generator().manual_seed(1))
        cache.v.normal_(generator=torch.Generator().manual_seed(2))
        if name != "torch":  # torch multiplies what it masks by zero
            cache.k[:, :, :, 14:] = cache.v[:, :, :, 14:] = torch.nan
        state = State(
            torch.tensor([1, 2, 3, 4, 0]), torch.tensor([14, 15, 16, 17, 0]), single.table[[0, 0, 0, 0, 1]]
        )
        work = made.workspace(4, CONTEXT)
        forward(weights, cache, state, rows, made, work)
        wanted = work.x.clone() if name == "torch" else wanted
        found[name] = torch.allclose(work.x, wanted, atol=1e-5)
    return found


def accepting() -> list[bool]:
    """The accept kernel on random rows: right and wrong drafts, ends, limits, rows that are done."""
    generator = torch.Generator().manual_seed(1)
    same = []
    for k, rows in ((1, 3), (4, 5)):
        made = ops(target(SHAPE), rows * (k + 1), shared=True)
        logits = torch.randn(rows * (k + 1), 61, generator=generator)
        proposal = make_proposal(rows, k, 61, drawn=False, device="cpu")
        right = logits.view(rows, k + 1, 61).argmax(-1)[:, :k].t()
        wrong = torch.rand(k, rows, generator=generator) < 0.2
        proposal.tokens.copy_(torch.where(wrong, (right + 1) % 61, right))
        proposal.count.copy_(torch.randint(0, k + 1, (rows,), generator=generator))
        tiles = logits.new_full((rows * (k + 1), made.head_tiles * 32), -torch.inf)
        tiles[:, :61] = logits
        best, where = tiles.view(rows * (k + 1), -1, 32).max(-1)
        token = (where + torch.arange(made.head_tiles) * 32).int()
        # An end that some row chooses, wherever it is.
        for end in (-1, int(right[0, 0]), int(logits[k].argmax())):
            both = [_sequences(rows, end, k) for _ in range(2)]
            reports = [make_report(rows, k, "cpu") for _ in range(2)]
            emitted, accepted = accept_greedy(logits.view(rows, k + 1, 61), proposal, k)
            emit(both[0], emitted, accepted, proposal.count, reports[0])
            accept(made, best.contiguous(), token.contiguous(), both[1], proposal, k, reports[1])
            pairs = zip(both[0].tensors()[1:], both[1].tensors()[1:], strict=True)
            same.append(
                all(torch.equal(one, other) for one, other in pairs)
                and torch.equal(both[0].tokens[:, :-1], both[1].tokens[:, :-1])
                and torch.equal(*reports)
            )
    return same


def _sequences(rows: int, end: int, k: int) -> Sequences:
    made = make_sequences(rows, 40, end, "cpu")
    made.lengths.copy_(torch.arange(rows) + 3)
    made.limits.copy_(made.lengths + 1 + torch.arange(rows) % (k + 2))
    made.done.copy_(torch.arange(rows) % 4 == 3)
    return made


def looking_up() -> list[bool]:
    """The lookup kernel on random rows of few tokens."""
    generator = torch.Generator().manual_seed(2)
    same = []
    for least, longest, k in ((2, 4, 5), (1, 3, 8)):
        sequences = make_sequences(9, 21, -1, "cpu")
        sequences.tokens.copy_(torch.randint(0, 3, sequences.tokens.shape, generator=generator))
        sequences.lengths.copy_(torch.tensor([1, 2, 3, 4, 7, 12, 19, 20, 21]))
        found = []
        for drafter in (NgramDrafter(least, longest), FusedNgramDrafter(least, longest)):
            proposal = make_proposal(9, 8, 3, drawn=False, device="cpu")
            drafter.propose(sequences, k, proposal)
            counts = proposal.count.tolist()
            found.append([proposal.tokens[:count, row].tolist() for row, count in enumerate(counts)])
        same.append(found[0] == found[1] and any(found[0]))
    return same


def main() -> int:
    """All checks, by name."""
    found = {
        "loop": loop(),
        "sharing": sharing(),
        "accept": accepting(),
        "lookup": looking_up(),
    }
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
