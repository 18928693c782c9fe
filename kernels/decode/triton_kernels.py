# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, N803, N806 - Triton's language is not Python's types; constants are in capitals
"""Triton kernels of a decode step: five a layer, all bound by memory.

A row's result does not depend on the other rows nor on how many there are, as long as the tile is the same:
each row has its own accumulators, summed in the order of K. So padding a batch changes no bit of it.

The number of rows is not specialised, so that a batch of a new size compiles nothing.

`PDL` is programmatic dependent launch (Hopper): a kernel starts while the one before it ends, and waits for
its results only after its first weights are on their way.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def _project(
    x_ptr, w_ptr, norm_ptr, rows, row_ok, cols, col_ok, eps,
    K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, NORM: tl.constexpr,
    GEMV: tl.constexpr, PRECISION: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """rms_norm(x[rows]) @ w[cols].T as [BM, BN] float32; K a multiple of BK; GEMV: BM is 1, rows are [0].

    The norm's scale is one number a row, so it is applied to the sum, not to the terms.
    """
    ks = tl.arange(0, BK)
    w_ptrs = w_ptr + cols.to(tl.int64)[:, None] * K + ks[None, :]  # [BN, BK]
    if GEMV:
        w = tl.load(w_ptrs, mask=col_ok[:, None], other=0.0)
        if PDL:
            gdc_launch_dependents()
            gdc_wait()
        total = tl.zeros([BN, BK], tl.float32)
        squares = tl.zeros([BK], tl.float32)
        for start in range(0, K, BK):
            x = tl.load(x_ptr + start + ks).to(tl.float32)
            # The next weights are asked for before these are used.
            more = col_ok[:, None] & (start + BK < K)
            following = tl.load(w_ptrs + (start + BK), mask=more, other=0.0)
            if NORM:
                squares += x * x
                x *= tl.load(norm_ptr + start + ks).to(tl.float32)
            total += w.to(tl.float32) * x[None, :]
            w = following
        acc = tl.sum(total, 1)[None, :]
        if NORM:
            acc *= tl.rsqrt(tl.sum(squares, 0) / K + eps)
    else:
        if PDL:
            gdc_launch_dependents()
            gdc_wait()
        acc = tl.zeros([BM, BN], tl.float32)
        square = tl.zeros([BM], tl.float32)
        for start in range(0, K, BK):
            at = rows[:, None] * K + (start + ks)[None, :]
            x = tl.load(x_ptr + at, mask=row_ok[:, None], other=0.0)  # [BM, BK]
            w = tl.load(w_ptrs + start, mask=col_ok[:, None], other=0.0)
            if NORM:
                wide = x.to(tl.float32)
                square += tl.sum(wide * wide, 1)
                x = (wide * tl.load(norm_ptr + start + ks).to(tl.float32)[None, :]).to(x.dtype)
            acc = tl.dot(x, tl.trans(w), acc, input_precision=PRECISION)
        if NORM:
            acc *= tl.rsqrt(square / K + eps)[:, None]
    return acc


@triton.jit(do_not_specialize=["m_rows"])
def linear_kernel(
    x_ptr, w_ptr, norm_ptr, out_ptr, m_rows, n_out, eps,
    K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, NORM: tl.constexpr,
    ADD: tl.constexpr, GEMV: tl.constexpr, PRECISION: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out [M, N] = w @ rms_norm(x), or out += w @ x with ADD. Grid: (N / BN, M / BM)."""
    cols = tl.program_id(0) * BN + tl.arange(0, BN)
    rows = tl.program_id(1) * BM + tl.arange(0, BM)
    col_ok, row_ok = cols < n_out, rows < m_rows
    acc = _project(
        x_ptr, w_ptr, norm_ptr, rows, row_ok, cols, col_ok, eps, K, BM, BN, BK, NORM, GEMV, PRECISION, PDL
    )
    at = rows[:, None] * n_out + cols[None, :]
    ok = row_ok[:, None] & col_ok[None, :]
    if ADD:
        acc += tl.load(out_ptr + at, mask=ok, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, acc.to(out_ptr.dtype.element_ty), mask=ok)


@triton.jit(do_not_specialize=["m_rows"])
def gate_up_kernel(
    x_ptr, w_ptr, norm_ptr, out_ptr, m_rows, n_out, eps,
    K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GEMV: tl.constexpr,
    PRECISION: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out [M, I] = silu(gate) * up of rms_norm(x); w is [2 I, K], gate first. Grid: (I / BN, M / BM).

    A tile holds BN rows of gate and the BN rows of up that belong to them.
    """
    pair = tl.arange(0, 2 * BN)
    inner = tl.program_id(0) * BN + pair % BN
    rows = tl.program_id(1) * BM + tl.arange(0, BM)
    row_ok = rows < m_rows
    acc = _project(
        x_ptr, w_ptr, norm_ptr, rows, row_ok, inner + (pair // BN) * n_out, inner < n_out, eps,
        K, BM, 2 * BN, BK, True, GEMV, PRECISION, PDL,
    )  # fmt: skip
    gate, up = tl.split(tl.permute(tl.reshape(acc, [BM, 2, BN]), (0, 2, 1)))  # [BM, BN] each
    cols = tl.program_id(0) * BN + tl.arange(0, BN)
    ok = row_ok[:, None] & (cols < n_out)[None, :]
    done = gate * tl.sigmoid(gate) * up
    tl.store(out_ptr + rows[:, None] * n_out + cols[None, :], done.to(out_ptr.dtype.element_ty), mask=ok)


@triton.jit(do_not_specialize=["m_rows"])
def head_kernel(
    x_ptr, w_ptr, norm_ptr, logits_ptr, best_ptr, token_ptr, m_rows, n_out, tiles, eps,
    K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GEMV: tl.constexpr,
    WRITE: tl.constexpr, PRECISION: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Logits of a tile of the vocabulary: written with WRITE, else only its best one and the token of it."""
    cols = tl.program_id(0) * BN + tl.arange(0, BN)
    rows = tl.program_id(1) * BM + tl.arange(0, BM)
    col_ok, row_ok = cols < n_out, rows < m_rows
    acc = _project(
        x_ptr, w_ptr, norm_ptr, rows, row_ok, cols, col_ok, eps, K, BM, BN, BK, True, GEMV, PRECISION, PDL
    )
    if WRITE:
        at = rows.to(tl.int64)[:, None] * n_out + cols[None, :]
        tl.store(logits_ptr + at, acc, mask=row_ok[:, None] & col_ok[None, :])
    else:
        best, where = tl.max(tl.where(col_ok[None, :], acc, -float("inf")), 1, return_indices=True)
        at = rows * tiles + tl.program_id(0)
        tl.store(best_ptr + at, best, mask=row_ok)
        tl.store(token_ptr + at, tl.program_id(0) * BN + where, mask=row_ok)


@triton.jit
def embed_kernel(
    embed_ptr, rows_ptr, tokens_ptr, out_ptr, HIDDEN: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr
):
    """The embedding of each row's token. Grid: (B,)."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0)
    token = tl.load(tokens_ptr + tl.load(rows_ptr + row))
    at = tl.arange(0, BLOCK)
    ok = at < HIDDEN
    tl.store(out_ptr + row * HIDDEN + at, tl.load(embed_ptr + token * HIDDEN + at, mask=ok), mask=ok)


@triton.jit
def greedy_kernel(
    best_ptr, token_ptr, rows_ptr, tokens_ptr, positions_ptr, chosen_ptr, tiles, scratch,
    BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The best of all tiles becomes the row's token; its slot moves on, scratch does not. Grid: (B,)."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    best = tl.load(best_ptr + row * tiles + at, mask=at < tiles, other=-float("inf"))
    tile = tl.argmax(best, 0)
    token = tl.load(token_ptr + row * tiles + tile).to(tl.int64)
    slot = tl.load(rows_ptr + row)
    live = (slot != scratch).to(tl.int64)
    tl.store(chosen_ptr + row, token)
    tl.store(tokens_ptr + slot, token * live)
    tl.store(positions_ptr + slot, tl.load(positions_ptr + slot) + live)


@triton.jit
def write_kernel(
    qkv_ptr, k_ptr, v_ptr, rows_ptr, positions_ptr, table_ptr, cos_ptr, sin_ptr,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, PAGE: tl.constexpr, WIDTH: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Rotate the new token of each row, and write its key and value. Grid: (B, KV_HEADS).

    Rows may share pages as long as they stand at different positions.
    """
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    D: tl.constexpr = 2 * HALF
    row, kv = tl.program_id(0), tl.program_id(1)
    kind = k_ptr.dtype.element_ty
    slot = tl.load(rows_ptr + row)
    position = tl.load(positions_ptr + slot).to(tl.int32)
    half, full = tl.arange(0, HALF), tl.arange(0, D)
    cos, sin = tl.load(cos_ptr + position * HALF + half), tl.load(sin_ptr + position * HALF + half)
    qkv_ptr += row * (HEADS + 2 * KV_HEADS) * D
    k_at = qkv_ptr + (HEADS + kv) * D + half
    k1, k2 = tl.load(k_at).to(tl.float32), tl.load(k_at + HALF).to(tl.float32)
    page = tl.load(table_ptr + slot * WIDTH + position // PAGE).to(tl.int64)
    at = ((page * KV_HEADS + kv) * PAGE + position % PAGE) * D
    tl.store(k_ptr + at + half, (k1 * cos - k2 * sin).to(kind))
    tl.store(k_ptr + at + HALF + half, (k2 * cos + k1 * sin).to(kind))
    tl.store(v_ptr + at + full, tl.load(qkv_ptr + (HEADS + KV_HEADS + kv) * D + full))


@triton.jit
def attend_kernel(
    qkv_ptr, k_ptr, v_ptr, out_ptr, partial_ptr, rows_ptr, positions_ptr, table_ptr, cos_ptr, sin_ptr,
    scale, part_stride, row_stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, GROUP: tl.constexpr, PAGE: tl.constexpr,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr,
    PRECISION: tl.constexpr, STORE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Attention of one new token a row over its pages, after rotating it and writing its key and value.

    Without STORE it writes neither: `write_kernel` did, for rows that share pages and read each other's. A
    program does the query heads that share a KV head, over CHUNK tokens of the context. The new token never
    goes through memory: it is the first term of the sums of the part that it belongs to. `scale` includes
    log2(e). Grid: (B, KV_HEADS, SPLITS).
    """
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    D: tl.constexpr = 2 * HALF
    SHARE: tl.constexpr = HEADS // KV_HEADS
    row, kv, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    kind = k_ptr.dtype.element_ty
    slot = tl.load(rows_ptr + row)
    position = tl.load(positions_ptr + slot).to(tl.int32)
    half, full, head = tl.arange(0, HALF), tl.arange(0, D), tl.arange(0, GROUP)
    cos, sin = tl.load(cos_ptr + position * HALF + half), tl.load(sin_ptr + position * HALF + half)

    qkv_ptr += row * (HEADS + 2 * KV_HEADS) * D
    q_at = qkv_ptr + (kv * SHARE + head)[:, None] * D + half[None, :]
    head_ok = head < SHARE
    q1 = tl.load(q_at, mask=head_ok[:, None], other=0.0).to(tl.float32)
    q2 = tl.load(q_at + HALF, mask=head_ok[:, None], other=0.0).to(tl.float32)
    r1 = (q1 * cos[None, :] - q2 * sin[None, :]).to(kind)  # [GROUP, HALF]
    r2 = (q2 * cos[None, :] + q1 * sin[None, :]).to(kind)
    k_at = qkv_ptr + (HEADS + kv) * D + half
    k1, k2 = tl.load(k_at).to(tl.float32), tl.load(k_at + HALF).to(tl.float32)
    new1, new2 = (k1 * cos - k2 * sin).to(kind), (k2 * cos + k1 * sin).to(kind)  # [HALF]
    new_v = tl.load(qkv_ptr + (HEADS + KV_HEADS + kv) * D + full)  # [D]

    owner = position // CHUNK  # the part that the new token belongs to
    owns = part == owner
    owns_half = tl.zeros([HALF], tl.int32) + part == owner
    owns_full = tl.zeros([D], tl.int32) + part == owner
    new_page = tl.load(table_ptr + slot * WIDTH + position // PAGE).to(tl.int64)
    new_at = ((new_page * KV_HEADS + kv) * PAGE + position % PAGE) * D
    if STORE:
        tl.store(k_ptr + new_at + half, new1, mask=owns_half)
        tl.store(k_ptr + new_at + HALF + half, new2, mask=owns_half)
        tl.store(v_ptr + new_at + full, new_v, mask=owns_full)

    score = tl.sum(r1.to(tl.float32) * new1.to(tl.float32)[None, :], 1)
    score += tl.sum(r2.to(tl.float32) * new2.to(tl.float32)[None, :], 1)
    top = tl.where(owns, score * scale, -float("inf"))  # [GROUP]
    weight = tl.where(owns, 1.0, 0.0) + tl.zeros([GROUP], tl.float32)
    acc = tl.where(owns, new_v.to(tl.float32)[None, :], 0.0) + tl.zeros([GROUP, D], tl.float32)
    begin = part * CHUNK
    end = tl.minimum(begin + CHUNK, position)
    for start in range(begin, end, BLOCK):
        at = start + tl.arange(0, BLOCK)
        ok = at < end
        page = tl.load(table_ptr + slot * WIDTH + at // PAGE, mask=ok, other=0).to(tl.int64)
        base = ((page * KV_HEADS + kv) * PAGE + at % PAGE) * D  # [BLOCK]
        t1 = tl.load(k_ptr + base[None, :] + half[:, None], mask=ok[None, :], other=0.0)  # [HALF, BLOCK]
        t2 = tl.load(k_ptr + base[None, :] + HALF + half[:, None], mask=ok[None, :], other=0.0)
        scores = tl.dot(r1, t1, input_precision=PRECISION)
        scores = tl.dot(r2, t2, scores, input_precision=PRECISION) * scale  # [GROUP, BLOCK]
        scores = tl.where(ok[None, :], scores, -float("inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        share = tl.exp2(scores - new_top[:, None])
        old = tl.exp2(top - new_top)
        weight = weight * old + tl.sum(share, 1)
        values = tl.load(v_ptr + base[:, None] + full[None, :], mask=ok[:, None], other=0.0)  # [BLOCK, D]
        acc = tl.dot(share.to(kind), values, acc * old[:, None], input_precision=PRECISION)
        top = new_top

    out_head = kv * SHARE + head
    if SPLITS == 1:
        at = (row * HEADS + out_head)[:, None] * D + full[None, :]
        tl.store(out_ptr + at, (acc / weight[:, None]).to(kind), mask=head_ok[:, None])
    else:
        here = partial_ptr + part * part_stride + row * row_stride + out_head * (D + 2)
        tl.store(here[:, None] + full[None, :], acc, mask=head_ok[:, None])
        tl.store(here + D, top, mask=head_ok)
        tl.store(here + D + 1, weight, mask=head_ok)


@triton.jit
def combine_kernel(
    partial_ptr, out_ptr, part_stride, row_stride,
    HEADS: tl.constexpr, D: tl.constexpr, SPLITS: tl.constexpr, PARTS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Join the parts of the context; PARTS is SPLITS up to a power of two. Grid: (B, HEADS)."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row, head = tl.program_id(0), tl.program_id(1)
    part, full = tl.arange(0, PARTS), tl.arange(0, D)
    ok = part < SPLITS
    here = partial_ptr + part * part_stride + row * row_stride + head * (D + 2)
    top = tl.load(here + D, mask=ok, other=-float("inf"))
    weight = tl.load(here + D + 1, mask=ok, other=0.0)
    factor = tl.exp2(top - tl.max(top, 0))  # the part of the new token makes the maximum finite
    acc = tl.load(here[:, None] + full[None, :], mask=ok[:, None], other=0.0)
    total = tl.sum(acc * factor[:, None], 0) / tl.sum(weight * factor, 0)
    tl.store(out_ptr + (row * HEADS + head) * D + full, total.to(out_ptr.dtype.element_ty))
