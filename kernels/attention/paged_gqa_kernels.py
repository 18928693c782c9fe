# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, N803 - Triton's language is not Python's types; constants are in capitals
"""Triton kernels of paged GQA decode: one token a sequence, split over its context.

The work of a batch is a line of units: UNIT tokens of a sequence, one sequence after the other. The programs
of each KV head cut that line into equal shares, whatever the lengths are, and every program finds its own
share by itself from the lengths on the device. So ragged batches are balanced to a unit, nothing is read on
the host, and a launch that was captured holds for other lengths. A sequence starts with a toll, units without
tokens: the time that it takes to begin with one. Programs of all KV heads go along side by side, since the
heads of a token lie next to each other in memory.

The units of one sequence are a segment. A program that owns a whole segment writes the result; of a segment
that several own, each writes a partial sum, and they are joined by their log-sum-exp in the order of the
context: by the one that comes last (FUSED), or by a second kernel. Which one joins never changes a bit.

A length that is negative or beyond the table, or a page that does not exist, gives NaN for its sequence: the
device cannot raise, and must neither fault nor answer wrongly.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _span(length, capacity, window, UNIT: tl.constexpr, WINDOWED: tl.constexpr):
    """(length, first token seen, first unit, units) of a sequence; one unit at least, to be written."""
    length = tl.where((length < 0) | (length > capacity), 0, length)
    low = length * 0
    if WINDOWED:
        low = tl.maximum(length - window, 0)
    first = low // UNIT
    units = tl.maximum((length + UNIT - 1) // UNIT - first, 1)
    return length, low, first, units


@triton.jit
def _line(
    lengths_ptr, batch, capacity, window, toll,
    BATCH: tl.constexpr, UNIT: tl.constexpr, WINDOWED: tl.constexpr,
):  # fmt: skip
    """Where on the line each sequence ends, [BATCH] int32; those beyond the batch have no units."""
    seq = tl.arange(0, BATCH)
    length = tl.load(lengths_ptr + seq, mask=seq < batch, other=0)
    _, _, _, units = _span(length, capacity, window, UNIT, WINDOWED)
    return tl.cumsum(tl.where(seq < batch, units + toll, 0), 0)


@triton.jit
def _shares(total, chunks, least, batch):
    """(chunks in use, units of each, how many have one more): each has `least` units, but for rounding.

    An eighth of the chunks is given up if sequences of equal length are then cut into equal parts, or not cut
    at all: a chunk with parts of two sequences takes longer than one.
    """
    active = tl.minimum(chunks, (total + least - 1) // least)
    rounds = (batch + active - 1) // active  # sequences of a chunk, if there are more of them
    even = tl.where(batch % rounds == 0, batch // rounds, active)
    even = tl.where(active >= batch, active // batch * batch, even)
    active = tl.where((active - even) * 8 <= active, even, active)
    return active, total // active, total % active


@triton.jit
def _owner(unit, share, more):
    """The chunk that a unit is in."""
    return tl.where(
        unit < more * (share + 1), unit // (share + 1), more + (unit - more * (share + 1)) // share
    )


@triton.jit
def _dot(a, b, acc, WIDE: tl.constexpr):
    """acc + a @ b, a rounded to b's type, sums in float32.

    WIDE is for bf16 in Triton's interpreter, whose dot takes the bits of bf16 for integers and whose casts
    cut them off instead of rounding.
    """
    if WIDE:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")
    else:
        return tl.dot(a.to(b.dtype), b, acc)


@triton.jit
def _attend(
    q, k_ptr, v_ptr, table_ptr, begin, end, low, pages, page_shift, scale, softcap,
    GROUP: tl.constexpr, D: tl.constexpr, KV_HEADS: tl.constexpr, BLOCK: tl.constexpr,
    WINDOWED: tl.constexpr, SOFTCAP: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Sums over the tokens [begin, end) that are not before `low`: acc [GROUP, D], top and weight [GROUP].

    acc / weight is the result; top is the maximum of the scores, in units of log2. `scale` holds log2(e)
    unless there is a soft cap.
    """
    full = tl.arange(0, D)
    top = tl.full([GROUP], -float("inf"), tl.float32)
    weight = tl.zeros([GROUP], tl.float32)
    acc = tl.zeros([GROUP, D], tl.float32)
    at = begin + tl.arange(0, BLOCK)
    page = tl.load(table_ptr + (at >> page_shift), mask=at < end, other=0)
    for start in range(begin, end, BLOCK):
        at = start + tl.arange(0, BLOCK)
        ok = at < end
        # A tile ahead, so that the addresses of keys and values are known when they are asked for.
        next_page = tl.load(table_ptr + ((at + BLOCK) >> page_shift), mask=at + BLOCK < end, other=0)
        if WINDOWED:
            ok = ok & (at >= low)
        exists = (page >= 0) & (page < pages)
        inside = at & ((1 << page_shift) - 1)
        base = ((page.to(tl.int64) << page_shift) + inside) * (KV_HEADS * D)  # [BLOCK]
        read = (ok & exists)[:, None]
        k = tl.load(k_ptr + base[:, None] + full[None, :], mask=read, other=0.0)
        scores = _dot(q, tl.trans(k.to(q.dtype)), tl.zeros([GROUP, BLOCK], tl.float32), WIDE) * scale
        if SOFTCAP:
            # tanh by exp2: 1 - 2 / (exp(2 x) + 1)
            scores = 1.0 - 2.0 / (tl.exp2(scores * (2.0 * LOG2E / softcap)) + 1.0)
            scores *= softcap * LOG2E
        scores = tl.where(exists[None, :], scores, float("nan"))
        scores = tl.where(ok[None, :], scores, -float("inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        safe = tl.where(new_top == -float("inf"), 0.0, new_top)  # nothing seen so far
        share = tl.exp2(scores - safe[:, None])
        old = tl.exp2(top - safe)
        weight = weight * old + tl.sum(share, 1)
        v = tl.load(v_ptr + base[:, None] + full[None, :], mask=read, other=0.0)
        acc = _dot(share, v.to(q.dtype), acc * old[:, None], WIDE)
        top, page = new_top, next_page
    return acc, top, weight


@triton.jit
def _finish(acc, top, weight, v_scale):
    """(result, natural log-sum-exp): zeros and -inf where nothing was seen."""
    empty = weight == 0.0
    out = acc * (v_scale / tl.where(empty, 1.0, weight))[:, None]
    lse = tl.where(empty, -float("inf"), (top + tl.log2(tl.where(empty, 1.0, weight))) * LN2)
    return out, lse


@triton.jit
def _join(
    sums_ptr, tops_ptr, kv, head, first, last, v_scale,
    KV_HEADS: tl.constexpr, SHARE: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """(result [ROWS, D], log-sum-exp [ROWS]) of the partial sums of chunks first..last, PARTS at a time.

    `head` [ROWS] are the query heads of the group to join. A program has two places: 0 for the segment that
    it goes on with, 1 for the one that it leaves to others. Only the first of a segment's programs does not
    go on with it.
    """
    full = tl.arange(0, D)
    top = tl.full([ROWS], -float("inf"), tl.float32)
    weight = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, D], tl.float32)
    for start in tl.range(first, last + 1, PARTS, num_stages=1):
        chunk = start + tl.arange(0, PARTS)
        place = 2 * (chunk * KV_HEADS + kv) + (chunk == first).to(tl.int32)
        ok = (chunk <= last)[:, None] & (head < SHARE)[None, :]  # [PARTS, ROWS]
        row = place[:, None] * SHARE + head[None, :]
        # Past L1, which does not see what other SMs have written.
        tops = tl.load(tops_ptr + 2 * row, mask=ok, other=-float("inf"), cache_modifier=".cg")
        weights = tl.load(tops_ptr + 2 * row + 1, mask=ok, other=0.0, cache_modifier=".cg")
        sums = tl.load(
            sums_ptr + row[:, :, None] * D + full[None, None, :], mask=ok[:, :, None], other=0.0,
            cache_modifier=".cg",
        )  # fmt: skip
        new_top = tl.maximum(top, tl.max(tops, 0))
        safe = tl.where(new_top == -float("inf"), 0.0, new_top)
        factor = tl.exp2(tops - safe[None, :])
        old = tl.exp2(top - safe)
        weight = weight * old + tl.sum(weights * factor, 0)
        acc = acc * old[:, None] + tl.sum(sums * factor[:, :, None], 0)
        top = new_top
    return _finish(acc, top, weight, v_scale)


@triton.jit
def _write(out_ptr, lse_ptr, out, lse, row, head, SHARE: tl.constexpr, D: tl.constexpr, LSE: tl.constexpr):
    """Results of some query heads of one (sequence, KV head); `row` is where its first one is."""
    full = tl.arange(0, D)
    at = (row + head).to(tl.int64)[:, None] * D + full[None, :]
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=(head < SHARE)[:, None])
    if LSE:
        tl.store(lse_ptr + row + head, lse, mask=head < SHARE)


# Numbers are not specialised, so that no batch, context or page size compiles anew.
@triton.jit(
    do_not_specialize=["batch", "capacity", "pages", "width", "window", "page_shift", "least", "toll"]
)
def split_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, sums_ptr, tops_ptr, arrived_ptr, lengths_ptr, table_ptr,
    k_scale_ptr, v_scale_ptr, scale, softcap, window, batch, capacity, pages, width, page_shift, least, toll,
    BATCH: tl.constexpr, KV_HEADS: tl.constexpr, SHARE: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr,
    D: tl.constexpr, BLOCK: tl.constexpr, UNIT: tl.constexpr,
    PARTS: tl.constexpr, WINDOWED: tl.constexpr, SOFTCAP: tl.constexpr,
    K_SCALES: tl.constexpr, V_SCALES: tl.constexpr, LSE: tl.constexpr, FUSED: tl.constexpr,
    WIDE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The share of one program. Grid: (chunks * KV_HEADS,), the KV heads of a chunk side by side.

    K_SCALES and V_SCALES are the numbers of scales: 0, 1, or one for each KV head.
    """
    if PDL:
        # In this order: when the second kernel starts, all that came before this one is in memory.
        gdc_wait()
        gdc_launch_dependents()
    program = tl.program_id(0)
    chunk, kv = program // KV_HEADS, program % KV_HEADS
    ends = _line(lengths_ptr, batch, capacity, window, toll, BATCH, UNIT, WINDOWED)
    active, share, more = _shares(tl.max(ends, 0), tl.num_programs(0) // KV_HEADS, least, batch)
    at = chunk * share + tl.minimum(chunk, more)
    stop = at + share + (chunk < more).to(tl.int32)
    stop = tl.where(chunk < active, stop, at)
    head, full = tl.arange(0, GROUP), tl.arange(0, D)
    head_ok = head < SHARE
    while at < stop:
        seq = tl.sum((ends <= at).to(tl.int32), 0)
        segment = tl.max(tl.where(ends <= at, ends, 0), 0)
        said = tl.load(lengths_ptr + seq)
        length, low, first_unit, units = _span(said, capacity, window, UNIT, WINDOWED)
        segment_end = segment + toll + units
        until = tl.minimum(stop, segment_end)
        begin = (first_unit + tl.maximum(at - segment - toll, 0)) * UNIT
        end = tl.minimum((first_unit + tl.maximum(until - segment - toll, 0)) * UNIT, length)
        row = (seq * KV_HEADS + kv) * SHARE  # the first query head
        q_at = q_ptr + (row + head).to(tl.int64)[:, None] * D + full[None, :]
        q = tl.load(q_at, mask=head_ok[:, None], other=0.0)
        factor = scale
        if K_SCALES:
            factor = scale * tl.load(k_scale_ptr + (kv if K_SCALES > 1 else 0))
        v_scale = 1.0
        if V_SCALES:
            v_scale = tl.load(v_scale_ptr + (kv if V_SCALES > 1 else 0))
        acc, top, weight = _attend(
            q, k_ptr + kv * D, v_ptr + kv * D, table_ptr + seq.to(tl.int64) * width, begin, end, low, pages,
            page_shift, factor, softcap, GROUP, D, KV_HEADS, BLOCK, WINDOWED, SOFTCAP, WIDE,
        )  # fmt: skip
        weight = tl.where(said == length, weight, float("nan"))  # a length beyond the table
        if until - at == toll + units:
            out, lse = _finish(acc, top, weight, v_scale)
            _write(out_ptr, lse_ptr, out, lse, row, head, SHARE, D, LSE)
        else:
            place = (2 * program + (at == segment).to(tl.int32)) * SHARE
            part = (place + head)[:, None] * D + full[None, :]
            tl.store(sums_ptr + part, acc, mask=head_ok[:, None])
            tl.store(tops_ptr + 2 * (place + head), top, mask=head_ok)
            tl.store(tops_ptr + 2 * (place + head) + 1, weight, mask=head_ok)
            if FUSED:
                first, last = _owner(segment, share, more), _owner(segment_end - 1, share, more)
                count_at = arrived_ptr + seq * KV_HEADS + kv
                tl.debug_barrier()  # all threads' sums are written before this program is counted
                if tl.atomic_add(count_at, 1, sem="acq_rel", scope="gpu") == last - first:
                    tl.debug_barrier()
                    part_head = tl.arange(0, ROWS)
                    out, lse = _join(
                        sums_ptr, tops_ptr, kv, part_head, first, last, v_scale, KV_HEADS, SHARE, ROWS, D,
                        PARTS,
                    )  # fmt: skip
                    _write(out_ptr, lse_ptr, out, lse, row, part_head, SHARE, D, LSE)
                    tl.store(count_at, 0)  # as the next launch expects it
        at = until


@triton.jit(do_not_specialize=["batch", "capacity", "window", "chunks", "least", "toll"])
def join_kernel(
    out_ptr, lse_ptr, sums_ptr, tops_ptr, lengths_ptr, v_scale_ptr, window, batch, capacity, chunks, least,
    toll,
    BATCH: tl.constexpr, KV_HEADS: tl.constexpr, SHARE: tl.constexpr, D: tl.constexpr, UNIT: tl.constexpr,
    PARTS: tl.constexpr, WINDOWED: tl.constexpr,
    V_SCALES: tl.constexpr, LSE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Joins the partial sums of one query head, if its segment was shared. Grid: (query heads, batch)."""
    if PDL:
        gdc_launch_dependents()
    kv, seq = tl.program_id(0) // SHARE, tl.program_id(1)
    head = tl.program_id(0) % SHARE + tl.arange(0, 1)
    ends = _line(lengths_ptr, batch, capacity, window, toll, BATCH, UNIT, WINDOWED)
    _, share, more = _shares(tl.max(ends, 0), chunks, least, batch)
    segment = tl.max(tl.where(tl.arange(0, BATCH) < seq, ends, 0), 0)
    _, _, _, units = _span(tl.load(lengths_ptr + seq), capacity, window, UNIT, WINDOWED)
    first, last = _owner(segment, share, more), _owner(segment + toll + units - 1, share, more)
    if PDL:
        gdc_wait()  # lengths were there before the first kernel started; its sums are there only now
    if last > first:
        v_scale = 1.0
        if V_SCALES:
            v_scale = tl.load(v_scale_ptr + (kv if V_SCALES > 1 else 0))
        out, lse = _join(sums_ptr, tops_ptr, kv, head, first, last, v_scale, KV_HEADS, SHARE, 1, D, PARTS)
        _write(out_ptr, lse_ptr, out, lse, (seq * KV_HEADS + kv) * SHARE, head, SHARE, D, LSE)
