"""Three ways to attend in a decode step over a static cache, behind the decoder's `Ops`.

The static cache has one page a slot, and row b of the batch is slot b, or the scratch slot while it idles. So
keys and values are a view of the cache: nothing is gathered but what a window needs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from monitorgen.kernels.attention.flexdecoding_blocks import BlockIndex
from monitorgen.kernels.decode.model import Ops
from monitorgen.kernels.decode.state import Cache, State, Workspace
from monitorgen.kernels.decode.torch_ops import rotate
from monitorgen.kernels.decode.weights import Weights
from monitorgen.kernels.workload import UsageError

Rotate = Callable[[Weights, int, Cache, State, Tensor, Workspace], Tensor]


def rotate_and_write(
    weights: Weights, layer: int, cache: Cache, state: State, rows: Tensor, work: Workspace
) -> Tensor:
    """Rotate queries and keys of work.qkv and write the new keys and values; the queries, [B, Hq, D]."""
    config, batch = weights.config, rows.shape[0]
    positions, page = state.positions[rows], state.table[rows, 0].long()  # [B]
    heads = work.qkv.view(batch, -1, config.head_dim)
    q, k, v = torch.split(heads, [config.heads, config.kv_heads, config.kv_heads], 1)  # [B, heads, D]
    cos, sin = weights.cos[positions, None], weights.sin[positions, None]  # [B, 1, D / 2]
    cache.k[layer][page, :, positions] = rotate(k, cos, sin)
    cache.v[layer][page, :, positions] = v
    turned: Tensor = rotate(q, cos, sin)
    return turned


class StaticOps:
    """What the ways share: other ops for all but attention, and what a step knows of its rows' places.

    A step embeds its tokens first of all, and there its places are taken, once for all layers.
    """

    name = "static"

    def __init__(self, base: Ops, weights: Weights, blocks: BlockIndex) -> None:
        self.base, self.weights, self.config, self.blocks = base, weights, weights.config, blocks
        self.rotate: Rotate = rotate_and_write

    def workspace(self, rows: int, context: int) -> Workspace:
        """A workspace for batches of up to `rows` with up to `context` tokens each."""
        made: Workspace = self.base.workspace(rows, context)
        return made

    def embed(self, state: State, rows: Tensor, out: Tensor) -> None:
        """The embedding of each row's token, [B, H]; takes the rows' places."""
        self.base.embed(state, rows, out)
        self.place(state.positions[rows])

    def place(self, positions: Tensor) -> None:
        """Let the queries stand at `positions` [B] in all layers of this step."""
        self.blocks.move(positions)

    def norm_linear(self, x: Tensor, norm: Tensor, weight: Tensor, out: Tensor) -> None:
        """weight @ rms_norm(x), [B, out]."""
        self.base.norm_linear(x, norm, weight, out)

    def linear_add(self, x: Tensor, weight: Tensor, out: Tensor) -> None:
        """Add weight @ x to out, [B, H]."""
        self.base.linear_add(x, weight, out)

    def gate_up(self, x: Tensor, norm: Tensor, weight: Tensor, out: Tensor) -> None:
        """SwiGLU: silu(gate) * up of rms_norm(x), [B, I]."""
        self.base.gate_up(x, norm, weight, out)

    def attend(self, layer: int, cache: Cache, state: State, rows: Tensor, work: Workspace) -> None:
        """Rotate, write, attend. `rows` must be all rows of the batch, each its slot's or scratch."""
        q = self.rotate(self.weights, layer, cache, state, rows, work)
        batch = rows.shape[0]
        self.attention(q, cache.k[layer][:batch], cache.v[layer][:batch], work.attended)

    def attention(self, q: Tensor, keys: Tensor, values: Tensor, out: Tensor) -> None:
        """q [B, Hq, D] over keys and values [B, Hkv, S, D], views of the cache, into out [B, Hq D]."""
        raise NotImplementedError  # each way of attending brings its own

    def logits(self, x: Tensor, work: Workspace) -> None:
        """The logits of every token into work.logits, [B, V] in float32."""
        self.base.logits(x, work)

    def greedy(self, state: State, rows: Tensor, work: Workspace, chosen: Tensor) -> None:
        """The likeliest token of each row into `chosen` [B] int64, and into the state as its next."""
        self.base.greedy(state, rows, work, chosen)


class EagerOps(StaticOps):
    """Plain torch over the whole static cache under a mask: how eager decoders with static caches attend."""

    name = "eager"

    def place(self, positions: Tensor) -> None:
        """One mask for all layers, [B, 1, 1, S]; blocks are not needed."""
        self.blocks.offset.copy_(positions)
        places = torch.arange(self.blocks.context, device=positions.device)
        self.seen = self.blocks.seen(places[None])[:, None, None]

    def attention(self, q: Tensor, keys: Tensor, values: Tensor, out: Tensor) -> None:
        """torch's attention over all of the cache. The queries that share a KV head are rows of one matrix,
        so that no head is copied."""
        batch, heads, _, dim = keys.shape
        grouped = q.reshape(batch, heads, -1, dim)  # [B, Hkv, G, D]
        found = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=self.seen)
        out.copy_(found.reshape(batch, -1))


class MathOps(StaticOps):
    """Products and a softmax, over the visited blocks alone: what a window leaves out is never read."""

    name = "math"

    def place(self, positions: Tensor) -> None:
        """Move the blocks; which places are read, [B, n block], and which of these are seen."""
        blocks = self.blocks
        blocks.move(positions)
        self.listed: Tensor | None = None
        places = torch.arange(blocks.context, device=positions.device)[None]  # [1, S]
        counted: Tensor | bool = True
        if blocks.visited * blocks.block < blocks.context:
            self.listed = blocks.indices[:, 0, 0, : blocks.visited].long()  # [B, n]
            inside = torch.arange(blocks.block, device=positions.device)
            places = (self.listed[:, :, None] * blocks.block + inside).flatten(1)
            # Past a row's count its last block comes again, and must not be seen twice.
            counted = (blocks.steps < blocks.counts[:, 0]).repeat_interleave(blocks.block, 1)
        self.seen = (blocks.seen(places) & counted)[:, None, None]  # [B, 1, 1, n block]

    def attention(self, q: Tensor, keys: Tensor, values: Tensor, out: Tensor) -> None:
        """Gather the visited blocks where that leaves any out, then scores, softmax, values."""
        batch, heads, _, dim = keys.shape
        if self.listed is not None:
            row = torch.arange(batch, device=q.device)[:, None]
            keys, values = (
                t.view(batch, heads, -1, self.blocks.block, dim)[row, :, self.listed]
                .transpose(1, 2)
                .flatten(2, 3)
                for t in (keys, values)
            )  # [B, Hkv, n block, D]
        grouped = q.reshape(batch, heads, -1, dim)  # [B, Hkv, G, D]
        scores = (grouped @ keys.transpose(-1, -2)).float() * dim**-0.5
        weight = scores.masked_fill(~self.seen, -torch.inf).softmax(-1).to(values.dtype)
        out.copy_((weight @ values).reshape(batch, -1))


class FlexOps(StaticOps):
    """FlexAttention over the static cache. Compiled, it is one kernel of split KV for all heads and its
    combination; uncompiled it is FlexAttention's own reference, which computes under the mask alone."""

    name = "flex"

    def __init__(self, base: Ops, weights: Weights, blocks: BlockIndex, *, compiled: bool) -> None:
        super().__init__(base, weights, blocks)
        check_group(weights.config.heads, weights.config.kv_heads)
        self.compiled = compiled
        # Every mask and shape is a compilation of its own; past torch's limit it would quietly run eagerly.
        torch._dynamo.config.recompile_limit = 256
        self.kernel: Callable[..., None] = flex_step
        if compiled:
            self.kernel = torch.compile(flex_step, dynamic=False, fullgraph=True)
        else:
            # It is what we asked for, and say.
            warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")

    def attention(self, q: Tensor, keys: Tensor, values: Tensor, out: Tensor) -> None:
        """FlexAttention's decoding kernel."""
        # A view made in the compiled part is what torch 2.13's C++ lowering of FlexAttention cannot read.
        self.kernel(q[:, :, None], keys, values, self.blocks.mask, out)


def flex_step(q: Tensor, keys: Tensor, values: Tensor, mask: Any, out: Tensor) -> None:
    """FlexAttention of one query a row, q [B, Hq, 1, D], into out [B, Hq D]."""
    found: Any = flex_attention(q, keys, values, block_mask=mask, enable_gqa=True)
    out.copy_(found.reshape(out.shape))


def check_group(heads: int, kv_heads: int) -> None:
    """Raise UsageError unless FlexAttention's decoding kernel takes this group of query heads."""
    group = heads // kv_heads
    if group & (group - 1):
        raise UsageError(
            f"{heads} query heads over {kv_heads} KV heads: FlexAttention's decoding kernel takes groups of "
            f"1, 2, 4, 8, ... query heads a KV head, not {group}"
        )
