# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, N803 - Triton's language is not Python's types; constants are in capitals
"""Triton kernels of MLA decode: attention over parts of the contexts, and the combination of the parts.

The contexts are cut into blocks of BLOCK tokens, and all blocks of the batch, one request after the other,
are dealt to the programs in equal runs ("stream-K", arXiv:2301.03598, on the tokens). So programs end
together however ragged the lengths are, and the grid does not depend on them: lengths are read on the device
alone.

A program p that holds blocks of request b writes part p + b: along a run both only grow, and one of them with
every part, so that no two parts have the same number, and PROGRAMS + batch parts are enough. A request that
lies in one program is written at once.

A token is loaded once: its 576 numbers are the key, the first 512 of them the value.
"""

from __future__ import annotations

import triton
import triton.language as tl

VALUE = tl.constexpr(512)
ROPE = tl.constexpr(64)
WIDTH = tl.constexpr(576)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _blocks_of(lengths_ptr, longest, batch, BATCH: tl.constexpr, BLOCK: tl.constexpr):
    """Blocks of each request, [BATCH]; lengths beyond the table or below 0 are clamped."""
    row = tl.arange(0, BATCH)
    held = tl.load(lengths_ptr + row, mask=row < batch, other=0)
    return (tl.minimum(tl.maximum(held, 0), longest) + BLOCK - 1) // BLOCK


@triton.jit
def _pages(table_ptr, start, length, PAGE: tl.constexpr, BLOCK: tl.constexpr):
    """The page of the BLOCK tokens from `start` on, or the page of each, [BLOCK]; 0 beyond `length`."""
    if PAGE >= BLOCK:
        page = tl.load(table_ptr + start // PAGE, mask=start < length, other=0)
    else:
        at = start + tl.arange(0, BLOCK)
        page = tl.load(table_ptr + at // PAGE, mask=at < length, other=0)
    return page


@triton.jit
def _tokens(cache_ptr, page, start, length, PAGE: tl.constexpr, BLOCK: tl.constexpr, MASKED: tl.constexpr):
    """Latent [BLOCK, 512] and position part [BLOCK, 64] of tokens from `start` on, by pointers.

    What lies at or after `length` is 0, not whatever the page holds: 0 * nan is nan.
    """
    at = start + tl.arange(0, BLOCK)
    # 64 bits: a cache of more than 4 GiB has more than 2**31 numbers.
    if PAGE >= BLOCK:
        base = cache_ptr + (page.to(tl.int64) * PAGE + start % PAGE) * WIDTH + tl.arange(0, BLOCK) * WIDTH
    else:
        base = cache_ptr + (page.to(tl.int64) * PAGE + at % PAGE) * WIDTH
    latent_ptr = base[:, None] + tl.arange(0, VALUE)[None, :]
    rope_ptr = base[:, None] + VALUE + tl.arange(0, ROPE)[None, :]
    if MASKED:
        ok = (at < length)[:, None]
        return tl.load(latent_ptr, mask=ok, other=0.0), tl.load(rope_ptr, mask=ok, other=0.0)
    return tl.load(latent_ptr), tl.load(rope_ptr)


@triton.jit
def _attend(q, q_rope, k, k_rope, top, weight, acc, scale, left, MASKED: tl.constexpr, BLOCK: tl.constexpr):
    """One block: q [H, 512], k [BLOCK, 512]; acc [H, 512]; `left` tokens of the block count."""
    s = tl.dot(q_rope, tl.trans(k_rope))
    s = tl.dot(q, tl.trans(k), s) * scale  # [H, BLOCK]
    if MASKED:
        s = tl.where((tl.arange(0, BLOCK) < left)[None, :], s, -float("inf"))
    new_top = tl.maximum(top, tl.max(s, 1))
    share = tl.exp2(s - new_top[:, None])
    old = tl.exp2(top - new_top)
    weight = weight * old + tl.sum(share, 1)
    acc = tl.dot(share.to(k.dtype), k, acc * old[:, None])
    return new_top, weight, acc


@triton.jit(do_not_specialize=["batch", "longest", "least"])
def mla_kernel(
    q_ptr, cache_ptr, latent_desc, rope_desc, table_ptr, lengths_ptr, out_ptr, lse_ptr, part_ptr,
    part_lse_ptr, scale, batch, longest, least,
    HEADS: tl.constexpr, H: tl.constexpr, PAGE: tl.constexpr, BLOCK: tl.constexpr, BATCH: tl.constexpr,
    PROGRAMS: tl.constexpr, TMA: tl.constexpr, LSE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """H heads over one run of blocks. `scale` includes log2(e). Grid: (HEADS / H up, PROGRAMS).

    q [B, HEADS, 576]; out [B, HEADS, 512]; lse [B, HEADS]; parts [PROGRAMS + B, HEADS, 512] float32, divided
    by their weight, and their log2-sum-exp2. `least` is the shortest run of blocks; TMA needs PAGE == BLOCK.
    """
    group, program = tl.program_id(0), tl.program_id(1)
    blocks = _blocks_of(lengths_ptr, longest, batch, BATCH, BLOCK)
    run = tl.maximum((tl.sum(blocks, 0) + PROGRAMS - 1) // PROGRAMS, least)
    at = program * run  # the next block, counted over the batch
    end = tl.minimum(at + run, tl.sum(blocks, 0))
    row = tl.sum((tl.cumsum(blocks, 0) <= at).to(tl.int32), 0)  # its request
    base = tl.sum(tl.where(tl.arange(0, BATCH) < row, blocks, 0), 0)  # the first block of that request
    head = group * H + tl.arange(0, H)
    head_ok = head < HEADS
    column = tl.arange(0, VALUE)
    width = longest // PAGE
    while at < end:
        length = tl.minimum(tl.maximum(tl.load(lengths_ptr + row), 0), longest)
        count = (length + BLOCK - 1) // BLOCK
        if count > 0:
            first, last = at - base, tl.minimum(end - base, count)
            pages = table_ptr + row.to(tl.int64) * width
            q_at = q_ptr + (row.to(tl.int64) * HEADS + head)[:, None] * WIDTH + column[None, :]
            rope_at = q_ptr + (row.to(tl.int64) * HEADS + head)[:, None] * WIDTH + VALUE
            q = tl.load(q_at, mask=head_ok[:, None], other=0.0)
            q_rope = tl.load(rope_at + tl.arange(0, ROPE)[None, :], mask=head_ok[:, None], other=0.0)
            top = tl.full([H], -float("inf"), tl.float32)
            weight = tl.zeros([H], tl.float32)
            acc = tl.zeros([H, VALUE], tl.float32)
            full = tl.minimum(last, length // BLOCK)  # blocks before it need no mask
            # The next page's number is asked for a block ahead: Triton would count it as a stage of its own.
            page = _pages(pages, first * BLOCK, length, PAGE, BLOCK)
            for block in tl.range(first, full, num_stages=STAGES):
                if TMA:
                    k, k_rope = latent_desc.load([page * PAGE, 0]), rope_desc.load([page * PAGE, VALUE])
                else:
                    k, k_rope = _tokens(cache_ptr, page, block * BLOCK, length, PAGE, BLOCK, False)
                page = _pages(pages, (block + 1) * BLOCK, length, PAGE, BLOCK)
                top, weight, acc = _attend(q, q_rope, k, k_rope, top, weight, acc, scale, BLOCK, False, BLOCK)
            if full < last:
                k, k_rope = _tokens(cache_ptr, page, full * BLOCK, length, PAGE, BLOCK, True)
                left = length - full * BLOCK
                top, weight, acc = _attend(q, q_rope, k, k_rope, top, weight, acc, scale, left, True, BLOCK)
            done = acc / weight[:, None]
            sums = top + tl.log2(weight)
            if (first == 0) & (last == count):
                here = row.to(tl.int64) * HEADS + head
                to = out_ptr + here[:, None] * VALUE + column[None, :]
                tl.store(to, done.to(out_ptr.dtype.element_ty), mask=head_ok[:, None])
                if LSE:
                    tl.store(lse_ptr + here, sums * LN2, mask=head_ok)
            else:
                here = (program + row).to(tl.int64) * HEADS + head
                tl.store(part_ptr + here[:, None] * VALUE + column[None, :], done, mask=head_ok[:, None])
                tl.store(part_lse_ptr + here, sums, mask=head_ok)
            at = base + last
        base += count
        row += 1


@triton.jit(do_not_specialize=["batch", "longest", "least"])
def mla_combine_kernel(
    lengths_ptr, out_ptr, lse_ptr, part_ptr, part_lse_ptr, batch, longest, least,
    HEADS: tl.constexpr, BLOCK: tl.constexpr, BATCH: tl.constexpr, PROGRAMS: tl.constexpr,
    PARTS: tl.constexpr, LSE: tl.constexpr,
):  # fmt: skip
    """Join the parts of each request that has several, PARTS at a time; one without tokens gets 0 and -inf.

    Grid: (HEADS, batch).
    """
    head, row = tl.program_id(0), tl.program_id(1)
    blocks = _blocks_of(lengths_ptr, longest, batch, BATCH, BLOCK)
    run = tl.maximum((tl.sum(blocks, 0) + PROGRAMS - 1) // PROGRAMS, least)
    before = tl.sum(tl.where(tl.arange(0, BATCH) < row, blocks, 0), 0)
    count = tl.sum(tl.where(tl.arange(0, BATCH) == row, blocks, 0), 0)
    column = tl.arange(0, VALUE)
    here = row.to(tl.int64) * HEADS + head
    if count == 0:
        tl.store(out_ptr + here * VALUE + column, tl.zeros([VALUE], out_ptr.dtype.element_ty))
        if LSE:
            tl.store(lse_ptr + here, -float("inf"))
    else:
        first, last = before // run, (before + count - 1) // run  # programs
        if first < last:
            top = -float("inf")
            weight = 0.0
            acc = tl.zeros([VALUE], tl.float32)
            for start in range(first, last + 1, PARTS):
                part = start + tl.arange(0, PARTS)
                ok = part <= last
                at = (part + row).to(tl.int64) * HEADS + head
                sums = tl.load(part_lse_ptr + at, mask=ok, other=-float("inf"))
                new_top = tl.maximum(top, tl.max(sums, 0))
                factor = tl.exp2(sums - new_top)  # [PARTS]
                old = tl.exp2(top - new_top)
                parts = tl.load(part_ptr + at[:, None] * VALUE + column[None, :], mask=ok[:, None], other=0.0)
                acc = acc * old + tl.sum(parts * factor[:, None], 0)
                weight = weight * old + tl.sum(factor, 0)
                top = new_top
            tl.store(out_ptr + here * VALUE + column, (acc / weight).to(out_ptr.dtype.element_ty))
            if LSE:
                tl.store(lse_ptr + here, (top + tl.log2(weight)) * LN2)
