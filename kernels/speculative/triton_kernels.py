# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, N803 - Triton's language is not Python's types; constants are in capitals
"""Triton kernels around a verification: what torch does in some thirty small kernels, a row a program.

`sequences`, `accept`, `ngram` and `draft_model` hold the torch code that they stand for. `PDL` as in the
decoder's kernels.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def place_kernel(
    tokens_ptr, stride, lengths_ptr, draft_ptr, state_tokens_ptr, positions_ptr, rows,
    K: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Put a row's last token and its draft into its WIDE slots, at their positions. Grid: (B,)."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    length = tl.load(lengths_ptr + row)
    last = tl.load(tokens_ptr + row * stride + length - 1)
    draft = tl.load(draft_ptr + (at - 1) * rows + row, mask=(at >= 1) & (at <= K), other=0)
    tl.store(state_tokens_ptr + row * WIDE + at, tl.where(at == 0, last, draft), mask=at <= K)
    tl.store(positions_ptr + row * WIDE + at, length - 1 + at, mask=at < WIDE)


@triton.jit
def begin_kernel(
    tokens_ptr, stride, lengths_ptr, state_tokens_ptr, positions_ptr, count_ptr, rows,
    K: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Put a draft model at a row's last token (slot r) and at the one before (slot B + r). Grid: (B,)."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0)
    length = tl.load(lengths_ptr + row)
    here = tokens_ptr + row * stride + length
    tl.store(state_tokens_ptr + row, tl.load(here - 1))
    tl.store(state_tokens_ptr + rows + row, tl.load(here - 2))
    tl.store(positions_ptr + row, length - 1)
    tl.store(positions_ptr + rows + row, length - 2)
    tl.store(count_ptr + row, K)


@triton.jit
def accept_kernel(
    best_ptr, best_token_ptr, tiles, draft_ptr, count_ptr, tokens_ptr, stride, lengths_ptr, limits_ptr,
    done_ptr, report_ptr, report_stride, rows, end,
    K: tl.constexpr, FIELDS: tl.constexpr, TILES: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The target's choices from the best of all tiles; accept, cut, append, report. Grid: (B,).

    TILES is the number of tiles up to a power of two, BLOCK that of K + 1.
    """
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0)
    at, tile_at = tl.arange(0, BLOCK), tl.arange(0, TILES)
    chosen = tl.zeros([BLOCK], tl.int64)
    for step in range(K + 1):
        here = (row * (K + 1) + step) * tiles
        best = tl.load(best_ptr + here + tile_at, mask=tile_at < tiles, other=-float("inf"))
        token = tl.load(best_token_ptr + here + tl.argmax(best, 0)).to(tl.int64)
        chosen = tl.where(at == step, token, chosen)

    drafted = tl.minimum(tl.load(count_ptr + row), K)
    draft = tl.load(draft_ptr + at * rows + row, mask=at < K, other=-1)
    right = (at < drafted) & (draft == chosen)
    accepted = tl.min(tl.where(right, BLOCK, at), 0).to(tl.int64)  # the place of the first that is not

    length, limit = tl.load(lengths_ptr + row), tl.load(limits_ptr + row)
    done = tl.load(done_ptr + row).to(tl.int32)
    live = (done == 0).to(tl.int64)
    first_end = tl.min(tl.where((chosen == end) & (at <= accepted), at, BLOCK), 0).to(tl.int64)
    count = tl.minimum(tl.minimum(accepted, first_end) + 1, limit - length) * live
    ended = (first_end < count) | (length + count >= limit)
    done = tl.where((live > 0) & ended, 1, done)

    tl.store(tokens_ptr + row * stride + length + at, chosen, mask=at < count)
    tl.store(lengths_ptr + row, length + count)
    tl.store(done_ptr + row, done.to(tl.uint8))
    report = report_ptr + row * report_stride
    tl.store(report, count)
    tl.store(report + 1, accepted * live)
    tl.store(report + 2, drafted * live)
    tl.store(report + 3, done.to(tl.int64))
    tl.store(report + FIELDS + at, chosen, mask=at <= K)


@triton.jit
def ngram_kernel(
    tokens_ptr, stride, room, lengths_ptr, draft_ptr, count_ptr, rows,
    LEAST: tl.constexpr, LONGEST: tl.constexpr, K: tl.constexpr, ROOM: tl.constexpr, BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """What followed the latest of the longest matches of a row's end. Grid: (B,).

    ROOM is the room of a row up to a power of two, BLOCK that of K.
    """
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0)
    length = tl.load(lengths_ptr + row).to(tl.int32)
    held = tokens_ptr + row * stride
    at = tl.arange(0, ROOM)
    run = at < length - 1
    matched = tl.zeros([ROOM], tl.int32)
    for back in tl.static_range(LONGEST):
        wanted = tl.load(held + length - 1 - back, mask=length - 1 - back >= 0, other=-1)
        run = run & (at >= back)
        run = run & (tl.load(held + at - back, mask=run, other=-2) == wanted)
        matched += run.to(tl.int32)
    best = tl.max(matched * ROOM + at, 0)
    place = best % ROOM
    steps = tl.arange(0, BLOCK)
    after = tl.load(held + place + 1 + steps, mask=(steps < K) & (place + 1 + steps < room), other=0)
    tl.store(draft_ptr + steps * rows + row, after, mask=steps < K)
    count = tl.where(best // ROOM >= LEAST, tl.minimum(length - 1 - place, K), 0)
    tl.store(count_ptr + row, count.to(tl.int64))
