"""Runs the Triton kernels in Triton's interpreter and compares them with the torch reference.

Run as a program, because the interpreter must be chosen before Triton is imported. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import torch

from monitorgen.kernels.decode.config import Config
from monitorgen.kernels.decode.model import forward
from monitorgen.kernels.decode.state import Cache, State, make_cache, make_state
from monitorgen.kernels.decode.torch_ops import TorchOps
from monitorgen.kernels.decode.triton_ops import Split, Tile, TritonOps
from monitorgen.kernels.decode.weights import random_weights

# Odd on purpose: a vocabulary and sizes that tiles do not divide, three query heads a KV head.
SHAPE = Config(
    "odd", 151, hidden=80, layers=2, heads=6, kv_heads=2, head_dim=32, intermediate=112, positions=64
)
PAGE, SLOTS, WIDTH = 5, 5, 9
TILES = {part: Tile(16, 64, 64) for part in ("qkv", "out", "gate_up", "down", "head")}
ONE = {part: Tile(1, 64, 64) for part in TILES}


def made(positions: list[int]) -> tuple[Cache, State]:
    """A random cache with shuffled pages, poisoned where no row may look."""
    generator = torch.Generator().manual_seed(2)
    cache = make_cache(SHAPE, SLOTS * WIDTH, PAGE, device="cpu", dtype=torch.float32)
    state = make_state(SLOTS, WIDTH, cache.pages, "cpu")
    state.table[:SLOTS] = torch.randperm(cache.pages, generator=generator).int().view(SLOTS, WIDTH)
    for tensor in (cache.k, cache.v):
        tensor.normal_(generator=generator)
    for slot, position in enumerate(positions):
        state.positions[slot] = position
        state.tokens[slot] = (slot * 37 + 11) % SHAPE.vocab
        for later in range(position, WIDTH * PAGE):
            page = state.table[slot, later // PAGE].long()
            cache.k[:, page, :, later % PAGE] = torch.nan
            cache.v[:, page, :, later % PAGE] = torch.nan
    return cache, state


def reference_cache(cache: Cache) -> Cache:
    """The same without poison: the reference multiplies what it masks by zero."""
    return Cache(cache.k.nan_to_num(0.0), cache.v.nan_to_num(0.0))


def one_case(positions: list[int], rows: list[int], triton: TritonOps, reference: TorchOps) -> dict[str, Any]:
    """A decode step by both, and all its logits; distances, and whether tokens and state agree."""
    where, context, found = torch.tensor(rows), WIDTH * PAGE, []
    for ops in (reference, triton):
        cache, state = made(positions)
        if ops is reference:
            cache = reference_cache(cache)
        work, chosen = ops.workspace(len(rows), context), torch.zeros(len(rows), dtype=torch.int64)
        forward(ops.weights, cache, state, where, ops, work)
        ops.logits(work.x, work)
        logits = work.logits.clone()
        ops.greedy(state, where, work, chosen)
        found.append((logits, chosen, state, cache))
    (want, chosen, state, cache), (got, their_chosen, their_state, their_cache) = found
    live = [at for at, row in enumerate(rows) if row < SLOTS]
    written = [
        (their[:, page, :, at] - mine[:, page, :, at]).abs().max().item()
        for mine, their in ((cache.k, their_cache.k), (cache.v, their_cache.v))
        for slot in set(rows) - {SLOTS}
        for page, at in [(state.table[slot, positions[slot] // PAGE].long(), positions[slot] % PAGE)]
    ]
    return {
        "logits": ((got[live] - want[live]).norm() / want[live].norm()).item(),
        "finite": bool(got.isfinite().all()),
        "tokens": their_chosen[live].tolist() == chosen[live].tolist(),
        "state": bool(
            torch.equal(state.positions, their_state.positions)
            and torch.equal(state.tokens, their_state.tokens)
        ),
        "written": max(written),
    }


def invariance(triton: TritonOps) -> bool:
    """Whether a row's logits keep every bit as the batch around it grows."""
    found = []
    for rows in ([1], [1, 3] + [SLOTS] * 15):
        cache, state = made([0, 17, 44, 9, 30])
        work = triton.workspace(len(rows), WIDTH * PAGE)
        forward(triton.weights, cache, state, torch.tensor(rows), triton, work)
        triton.logits(work.x, work)
        found.append(work.logits[0].clone())
    return all(torch.equal(found[0], other) for other in found[1:])


def main() -> int:
    """All cases, by name."""
    weights = random_weights(SHAPE, device="cpu", dtype=torch.float32, seed=9)
    reference = TorchOps(weights)
    positions = [0, 17, 44, 9, 30]
    many = TritonOps(weights, 16, tiles=TILES, split=Split(chunk=64, block=16))
    split = TritonOps(weights, 16, tiles=TILES, split=Split(chunk=16, block=16))
    one = TritonOps(weights, 1, tiles=ONE, split=Split(chunk=64, block=16))
    cases = {
        "one part, padded": one_case(positions, [1, 3, SLOTS], many, reference),
        "parts": one_case([16, 17, 44, 31, 0], [0, 2, 3], split, reference),
        **{f"one row at {positions[r]}": one_case(positions, [r], one, reference) for r in (0, 4)},
    }
    json.dump({"cases": cases, "invariant": invariance(split)}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
