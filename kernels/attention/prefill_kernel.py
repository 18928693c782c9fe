"""Prefill attention in Triton: one program for a block of queries of one head, keys and values by TMA.

The online softmax keeps a row's maximum and sum in float32 and base 2. Blocks of keys that no mask touches
come first, in a loop without comparisons; those on the diagonal or at the end follow in a second one. Causal
programs start with the longest ones, so that the short ones fill the tail.
"""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, N803

import triton
import triton.language as tl


@triton.jit
def _rows(desc, batch, head, start, COUNT: tl.constexpr, D: tl.constexpr, ON_DEVICE: tl.constexpr):
    """COUNT rows of a head from `start`, [COUNT, D]; 0 beyond the last one."""
    if ON_DEVICE:  # noqa: SIM108 - a ternary is compiled on both sides
        found = desc.load([start, 0])
    else:
        found = desc.load([batch, head, start, 0]).reshape(COUNT, D)
    return found


@triton.jit
def _blocks(
    acc, top, total, q, k_desc, v_desc, batch, kv_head, first, last, rows, shift, keys, scale,
    BN: tl.constexpr, D: tl.constexpr, MASK: tl.constexpr, CAUSAL: tl.constexpr, ON_DEVICE: tl.constexpr,
    SPECIALIZE: tl.constexpr,
):  # fmt: skip
    """Attend to the keys from `first` to `last`, BN at a time; the accumulators go in and come out."""
    for start in tl.range(first, last, BN, warp_specialize=SPECIALIZE):
        start = tl.multiple_of(start, BN)
        scores = tl.dot(q, _rows(k_desc, batch, kv_head, start, BN, D, ON_DEVICE).T)
        if MASK:
            columns = start + tl.arange(0, BN)
            seen = columns[None, :] < keys
            if CAUSAL:
                seen = seen & (columns[None, :] <= rows[:, None] + shift)
            scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1) * scale)
        weights = tl.math.exp2(scores * scale - higher[:, None])
        fade = tl.math.exp2(top - higher)
        inside = tl.sum(weights, 1)
        acc = acc * fade[:, None]
        values = _rows(v_desc, batch, kv_head, start, BN, D, ON_DEVICE)
        acc = tl.dot(weights.to(values.dtype), values, acc)
        total = total * fade + inside
        top = higher
    return acc, top, total


@triton.jit
def prefill_kernel(
    q_arg, k_arg, v_arg, out_arg, lse, scale, heads, queries, keys, zero,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, out_batch, out_head, out_row,
    GROUP: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr,
    EVEN: tl.constexpr, LSE: tl.constexpr, ON_DEVICE: tl.constexpr, SPECIALIZE: tl.constexpr,
):  # fmt: skip
    """BM queries of one head. The tensors are descriptors, or pointers with strides where ON_DEVICE."""
    block = tl.program_id(0)
    if CAUSAL:
        block = tl.num_programs(0) - 1 - block
    batch = tl.program_id(1) // heads
    head = tl.program_id(1) % heads
    kv_head = head // GROUP
    if ON_DEVICE:
        wide = batch.to(tl.int64)
        q_at = q_arg + wide * q_batch + head.to(tl.int64) * q_head
        out_at = out_arg + wide * out_batch + head.to(tl.int64) * out_head
        k_at = k_arg + wide * k_batch + kv_head.to(tl.int64) * k_head
        v_at = v_arg + wide * v_batch + kv_head.to(tl.int64) * v_head
        q_desc = tl.make_tensor_descriptor(q_at, [queries, D], [q_row, 1], [BM, D])
        k_desc = tl.make_tensor_descriptor(k_at, [keys, D], [k_row, 1], [BN, D])
        v_desc = tl.make_tensor_descriptor(v_at, [keys, D], [v_row, 1], [BN, D])
        out_desc = tl.make_tensor_descriptor(out_at, [queries, D], [out_row, 1], [BM, D])
    else:
        q_desc = q_arg
        k_desc = k_arg
        v_desc = v_arg
        out_desc = out_arg
    start = block * BM
    # Triton 3.6 to 3.9 give the second group of consumers its half of the rows by adding to `start` where Q
    # is loaded, and with it to every other use of that value, though the range is halved as well: so rows
    # get a value of their own, which is 0 more, and no compiler can know that.
    rows = block * BM + zero + tl.arange(0, BM)
    shift = keys - queries
    # Every row sees key 0 (queries <= keys where causal), so `top` is finite after the first block.
    top = tl.full([BM], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BM], dtype=tl.float32)
    acc = tl.zeros([BM, D], dtype=tl.float32)
    q = _rows(q_desc, batch, head, start, BM, D, ON_DEVICE)
    if CAUSAL:
        clear = tl.minimum((start + shift + 1) // BN * BN, keys // BN * BN)
        end = tl.minimum(keys, start + BM + shift)
    else:
        clear = keys // BN * BN
        end = keys
    if SPECIALIZE and (CAUSAL or not EVEN):
        # The compiler specialises programs of one loop only: all of its blocks are compared then.
        clear = 0
    else:
        acc, top, total = _blocks(
            acc, top, total, q, k_desc, v_desc, batch, kv_head, 0, clear, rows, shift, keys, scale,
            BN, D, False, CAUSAL, ON_DEVICE, SPECIALIZE,
        )  # fmt: skip
    if CAUSAL or not EVEN:
        acc, top, total = _blocks(
            acc, top, total, q, k_desc, v_desc, batch, kv_head, clear, end, rows, shift, keys, scale,
            BN, D, True, CAUSAL, ON_DEVICE, SPECIALIZE,
        )  # fmt: skip
    if LSE:
        at = lse + tl.program_id(1).to(tl.int64) * queries + rows
        tl.store(at, (top + tl.math.log2(total)) * 0.6931471805599453, mask=rows < queries)
    acc = acc / total[:, None]
    if ON_DEVICE:
        out_desc.store([start, 0], acc.to(q.dtype))
    else:
        out_desc.store([batch, head, start, 0], acc.to(q.dtype).reshape(1, 1, BM, D))
