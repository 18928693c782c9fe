"""FlexAttention behind one call: plan a mask and a score mod once, then attend with it many times.

On CUDA the planned call is torch's FlexAttention, compiled, forward and backward. On a CPU the forward pass
is the same operator, run eagerly (compiled where that is asked for); torch has no backward for it there, so
that inputs that need gradients take the dense path, which computes the same from whole score matrices.

`python -m monitorgen.kernels.attention.flex_attention_native` checks every mask and score mod on small shapes
against the float64 reference; BLOCK_SIZE, DOC_SPAN and SEQ_LEN sweep them.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from monitorgen.kernels.attention import masks, score_mods
from monitorgen.kernels.attention.flex_reference import (
    count_blocks,
    dense_mask,
    indices,
    places_of,
    reference,
)
from monitorgen.kernels.attention.masks import Mask
from monitorgen.kernels.attention.score_mods import ScoreMod
from monitorgen.kernels.attention.shapes import Shape, shape_options, sweep
from monitorgen.kernels.command import run
from monitorgen.kernels.decode.device import choose_device
from monitorgen.kernels.workload import UsageError

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
BLOCK = 128
"""Positions of a mask block, each way, unless told otherwise: what torch's kernels are tuned for."""
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 1e-3, torch.bfloat16: 4e-3}
"""Largest relative norm of the difference to the float64 reference, for outputs and gradients by type.

The bounds of bf16 and fp16 hold the rounding of the output, 2^-9 and 2^-12, and of the weights before they
meet V; that of fp32 holds sums of thousands of terms.
"""
TRACES = 256  # that torch may keep of FlexAttention run without compilation: one for each mask, mod and shape


def operator(compiled: bool) -> Callable[..., Any]:
    """FlexAttention for one mask, mod and shape: compiled, or as torch runs it without.

    torch keeps what it compiled by code object, and looks through all of it at each call. A compiled operator
    has a code object of its own, so that it costs no more when there are many. What runs without is traced
    too, all in one place; past torch's limit of 8 traces that would fail, so the limit is raised.
    """
    if not compiled:
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, TRACES)
        return _eager

    def attend(*args: Any, **kwargs: Any) -> Any:
        return flex_attention(*args, **kwargs)

    attend.__code__ = attend.__code__.replace(co_name="attend_once")
    return torch.compile(attend, dynamic=False, fullgraph=True)


def _eager(*args: Any, **kwargs: Any) -> Any:
    """FlexAttention without its warning that this is slow: it is what was asked for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        return flex_attention(*args, **kwargs)


def kernel_options(block: int, device: torch.device) -> dict[str, int] | None:
    """Forward tiles that divide a mask block smaller than torch's own tiles; None where those fit.

    There are none for the backward pass: torch picks its tiles first and looks at options after
    (`backward_block`).
    """
    if device.type != "cuda" or block >= BLOCK:
        return None
    return {"BLOCK_M": min(block, 64), "BLOCK_N": min(block, 32), "num_warps": 4, "num_stages": 2}


def backward_block(head: int, dtype: torch.dtype, capability: tuple[int, int]) -> int:
    """The smallest mask block that torch's compiled backward pass takes on CUDA.

    torch has one set of tiles for a head size, type and compute capability, and drops it, whatever options
    say, if a tile does not divide the block; then its compiler has nothing left and fails. This is the
    largest tile of each set, as in CUDAConfigHeuristic.get_flex_attn_bwd_configs of torch 2.13. Blocks are
    powers of two, so that every larger one is taken too.
    """
    if dtype == torch.float32 or head > 256 or capability < (8, 0):
        return 16
    if capability == (9, 0):
        return 128 if 64 <= head <= 128 else 64
    if capability[0] in (8, 11, 12):
        return 128 if head < 64 else 64
    return 128 if head <= 128 else 64


def check_backward(block: int, head: int, dtype: torch.dtype, capability: tuple[int, int]) -> None:
    """Raise ValueError for a mask block whose backward pass torch cannot compile on CUDA."""
    least = backward_block(head, dtype, capability)
    if block < least:
        raise ValueError(
            f"block: {block}; gradients with heads of {head} in {str(dtype).removeprefix('torch.')} on "
            f"compute capability {capability[0]}.{capability[1]} take a power of two from {least}"
        )


def refuse_blocks(shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
    """Raise UsageError for a --block-size whose gradients cannot be compiled on the device."""
    if device.type == "cuda":
        try:
            check_backward(shape.block, shape.head, dtype, torch.cuda.get_device_capability(device))
        except ValueError as error:
            raise UsageError(f"--block-size (BLOCK_SIZE): {error}") from None


@dataclass(frozen=True, slots=True)
class Sparsity:
    """Blocks of a planned mask, over its batches and heads: with a visible key, with only such, all."""

    live: int
    whole: int
    total: int

    @property
    def share(self) -> float:
        """Share of blocks that are computed; time follows it."""
        return self.live / self.total


@dataclass(frozen=True, slots=True)
class FlexPlan:
    """A mask and a score mod made ready for one shape. Call it with q, k and v as often as you like."""

    shape: tuple[int, int, int, int]
    mask: Mask
    score_mod: ScoreMod | None
    block_mask: BlockMask
    block: int
    scale: float | None
    compiled: bool
    operator: Callable[..., Any]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend: q [B, Hq, Q, D], k and v [B, Hkv, K, D] -> [B, Hq, Q, D], differentiable.

        A query that sees no key gets 0. Raises ValueError for tensors that do not fit the plan, and where
        they need gradients on CUDA for a block that is too small for them (`backward_block`).
        """
        check(q, k, v)
        batch, heads, queries, keys = self.shape
        if (*q.shape[:3], k.shape[2]) != self.shape:
            raise ValueError(
                f"q, k: {tuple(q.shape)}, {tuple(k.shape)}; the plan is for {batch} sequences, "
                f"{heads} heads, {queries} queries, {keys} keys"
            )
        if torch.is_grad_enabled() and _needs_gradient(q, k, v):
            if q.device.type == "cpu":
                return dense_attention(q, k, v, self.mask, self.score_mod, self.scale)
            if self.compiled:
                check_backward(self.block, q.shape[3], q.dtype, torch.cuda.get_device_capability(q.device))
        out: Tensor = self.operator(
            q, k, v, self.score_mod, self.block_mask, self.scale,
            enable_gqa=q.shape[1] != k.shape[1], kernel_options=kernel_options(self.block, q.device),
        )  # fmt: skip
        return out

    @property
    def sparsity(self) -> Sparsity:
        """Its blocks, counted from the block mask. Waits for the device."""
        made = self.block_mask
        whole = 0 if made.full_kv_num_blocks is None else int(made.full_kv_num_blocks.sum())
        batches, heads, rows = made.kv_num_blocks.shape
        total = batches * heads * rows * -(-self.shape[3] // self.block)
        return Sparsity(int(made.kv_num_blocks.sum()) + whole, whole, total)


def plan(
    mask: Mask,
    score_mod: ScoreMod | None = None,
    *,
    batch: int,
    heads: int,
    queries: int,
    keys: int | None = None,
    device: torch.device | str = "cpu",
    block: int = BLOCK,
    scale: float | None = None,
    compiled: bool | None = None,
) -> FlexPlan:
    """Make a mask ready: look at it block by block once, and keep which blocks hold a visible key.

    `keys` is `queries` unless given. `compiled` is True on CUDA and False on a CPU unless given: compiling
    takes seconds there. A mask that does not read the batch or the head is planned once for all of them.
    Raises ValueError for sizes that are not positive, and for a block that is no power of two from 16.
    """
    device, keys = torch.device(device), queries if keys is None else keys
    for name, size in (("batch", batch), ("heads", heads), ("queries", queries), ("keys", keys)):
        if size < 1:
            raise ValueError(f"{name}: {size}; at least 1")
    check_block(block)
    on_cuda = device.type == "cuda"
    one = mask(*indices(batch, heads, 1, 1, device))
    made = create_block_mask(
        mask, batch if one.shape[0] > 1 else None, heads if one.shape[1] > 1 else None,
        queries, keys, device=str(device), BLOCK_SIZE=block,
    )  # fmt: skip
    compile_ = on_cuda if compiled is None else compiled
    return FlexPlan(
        (batch, heads, queries, keys), mask, score_mod, made, block, scale, compile_, operator(compile_)
    )


def check_block(block: int) -> None:
    """Raise ValueError unless a mask block is a power of two from 16: what tensor cores can tile."""
    if block < 16 or block & (block - 1):
        raise ValueError(f"block: {block}; a power of two from 16, as 64 or 128")


def check(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError for shapes, types or devices that attention is not defined for."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.dim() != 4:
            raise ValueError(f"{name}: shape {tuple(tensor.shape)}; 4 dimensions, [B, H, S, D]")
        if tensor.dtype not in DTYPES or tensor.dtype != q.dtype:
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            raise ValueError(f"{name}: {tensor.dtype}, q {q.dtype}; q, k and v of one type of {names}")
        if tensor.device != q.device:
            raise ValueError(f"{name}: on {tensor.device}, q on {q.device}; one device for all")
        if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
            raise ValueError(
                f"{name}: stride {tensor.stride(-1)} in its last dimension; it must be contiguous"
            )
    if k.shape[:3] != v.shape[:3]:
        raise ValueError(f"v: shape {tuple(v.shape)}, k {tuple(k.shape)}; they must have the same B, H and S")
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(f"k: shape {tuple(k.shape)}, q {tuple(q.shape)}; the same B and D")
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"k: {k.shape[1]} heads, q {q.shape[1]}; q's must be a multiple of k's")


def _needs_gradient(*tensors: Tensor) -> bool:
    return any(tensor.requires_grad for tensor in tensors)


def dense_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask | None = None,
    score_mod: ScoreMod | None = None,
    scale: float | None = None,
) -> Tensor:
    """The same attention from whole score matrices in plain torch operators, differentiable anywhere.

    Shapes as for FlexPlan. Scores and softmax are float32 (float64 for float64 inputs): B * Hq * Q * K of
    them are held at once, several times.
    """
    check(q, k, v)
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = (q @ k.transpose(-1, -2)).to(wide) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    places = places_of(scores)
    if score_mod is not None:
        scores = score_mod(scores, *places)
    if mask is None:
        return scores.softmax(-1).to(q.dtype) @ v
    seen = mask(*places).expand(*scores.shape[:2], -1, -1).expand_as(scores)
    # Where a query sees nothing, softmax of -inf alone is nan, and its gradient too: spread, then zero.
    some = seen.any(-1, keepdim=True)
    scores = scores.masked_fill(~seen & some, -math.inf)
    return (scores.softmax(-1).masked_fill(~some, 0.0)).to(q.dtype) @ v


def visible_pairs(mask: Mask, batch: int, heads: int, queries: int, keys: int, device: torch.device) -> int:
    """Pairs of query and key that a mask lets see each other, over all batches and heads."""
    found, rows = 0, max(1, (1 << 26) // keys)
    places = indices(batch, heads, queries, keys, device)
    for part in places[2].split(rows, 2):
        seen = mask(places[0], places[1], part, places[3])
        whole = seen.expand(*seen.shape[:2], part.shape[2], keys)
        repeats = batch // seen.shape[0] * (heads // seen.shape[1])
        found += int(whole.sum()) * repeats
    return found


def attention_flops(pairs: int, head: int) -> float:
    """Floating point operations for so many visible pairs: a multiplication and an addition for each
    element of q k^T and of the weights times V."""
    return 4.0 * pairs * head


def random_inputs(
    shape: Shape, device: torch.device | str, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Normal q [B, Hq, S, D], k and v [B, Hkv, S, D]; the same numbers on every device."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (shape.heads, shape.kv_heads, shape.kv_heads)
    q, k, v = (
        torch.randn(shape.batch, heads, shape.length, shape.head, generator=generator).to(device, dtype)
        for heads in sizes
    )
    return q, k, v


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over that of what was expected; the former alone where that is 0."""
    apart, norm = float((found.double() - expected).norm()), float(expected.norm())
    return apart / norm if norm else apart


MASKS = ("causal", "sliding_window", "document", "prefix_lm", "causal&document", "sliding_window&document")


def verify(shape: Shape, mask: Mask, score_mod: ScoreMod | None, device: torch.device) -> dict[str, Any]:
    """One mask and mod on one shape: errors of output and gradients against float64, blocks against a count.

    Returns the names, `error`, `gradient_errors` of q, k and v, the share of `live` blocks, the counted
    share, and `ok`. Raises ValueError for a block that has no backward pass on CUDA (`backward_block`).
    """
    dtype = _dtype(device)
    planned = plan(
        mask, score_mod, batch=shape.batch, heads=shape.heads, queries=shape.length, device=device,
        block=shape.block,
    )  # fmt: skip
    inputs = random_inputs(shape, device, dtype)
    leaves = [tensor.double().requires_grad_() for tensor in inputs]
    expected, _ = reference(*leaves, mask, score_mod)
    weights = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    wanted = torch.autograd.grad(expected, leaves, weights.double())
    given = [tensor.clone().requires_grad_() for tensor in inputs]
    out = planned(*given)
    gradients = torch.autograd.grad(out, given, weights)
    if device.type == "cpu":  # there the gradients come by another path than the output
        out = planned(*inputs)
    errors = [relative_error(one, other) for one, other in zip(gradients, wanted, strict=True)]
    error, most = relative_error(out.detach(), expected.detach()), TOLERANCES[dtype]
    seen, counted = planned.sparsity, _count(shape, mask, device)
    return {
        "mask": mask.__name__, "score_mod": score_mod.__name__ if score_mod else "none", "shape": shape.text,
        "error": error, "gradient_errors": errors, "live": seen.share, "live_counted": counted,
        # Gradients pass through twice as many rounded products.
        "ok": error <= most and max(errors) <= 3 * most and seen.share == counted,
    }  # fmt: skip


def _dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _count(shape: Shape, mask: Mask, device: torch.device) -> float:
    """The share of live blocks by brute force, of the mask as evaluated where it lives."""
    held: Tensor = dense_mask(mask, shape.batch, shape.heads, shape.length, shape.length, device).cpu()

    def looked_up(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return held[batch % held.shape[0], head % held.shape[1], query, key]

    counted = count_blocks(looked_up, shape.batch, shape.heads, shape.length, shape.length, shape.block)
    share: float = counted.share
    return share


@click.command(context_settings={"max_content_width": 110})
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
def _bare(device: str, **flags: Any) -> int:
    """Check masks and score mods, forward and backward, against float64 on small shapes."""
    where, wrong = choose_device(device), 0
    shapes = list(sweep(flags))
    for shape in shapes:
        refuse_blocks(shape, _dtype(where), where)
    for shape in shapes:
        ids = masks.document_ids(shape.batch, shape.length, shape.doc_span).to(where)
        prefix = torch.arange(1, shape.batch + 1, device=where) * (shape.length // (shape.batch + 2))
        cases = [(name, "none") for name in MASKS]
        cases += [("causal", mod) for mod in ("alibi", "soft_cap", "tanh", "soft_cap+alibi")]
        for name, mod_name in cases:
            mask = masks.parse(name, window=shape.window, ids=ids, prefix=prefix)
            mod = score_mods.parse(mod_name, heads=shape.heads, cap=2.0, gain=1.5, device=where)
            found = verify(shape, mask, mod, where)
            wrong += not found["ok"]
            click.echo(
                f"{'ok   ' if found['ok'] else 'WRONG'} {shape.text} {name} {mod_name}: "
                f"error {found['error']:.1e}, gradients {max(found['gradient_errors']):.1e}, "
                f"live blocks {found['live']:.1%}"
            )
    return 1 if wrong else 0


command: click.Command = shape_options(batch=2, seq_len="300", block="128", doc_span="48", heads=(4, 2, 32))(
    _bare
)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code, 1 if anything differs from the reference."""
    code: int = run(command, argv, "flex_attention_native")
    return code


if __name__ == "__main__":
    sys.exit(main())
