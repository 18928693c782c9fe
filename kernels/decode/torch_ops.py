"""The parts of a step in plain torch: the reference for `triton_ops`, and what runs on a CPU.

Each function writes its result into the tensor that it is given as `out`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from monitorgen.kernels.decode.state import Cache, State, Workspace, make_workspace
from monitorgen.kernels.decode.weights import Weights


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension, in float32, rounded before the weight as Llama does."""
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return scaled.to(x.dtype) * weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + D/2) of x [..., D] by the angles of cos and sin [..., D/2]: rotary embedding."""
    first, second = x.float().chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


class TorchOps:
    """The reference implementation of a step's parts."""

    name = "torch"

    def __init__(self, weights: Weights) -> None:
        self.weights, self.config = weights, weights.config

    def workspace(self, rows: int, context: int) -> Workspace:
        """A workspace for batches of up to `rows` with up to `context` tokens each."""
        return make_workspace(self.config, rows, device=self.weights.device, dtype=self.weights.dtype)

    def embed(self, state: State, rows: Tensor, out: Tensor) -> None:
        """The embedding of each row's token, [B, H]."""
        torch.index_select(self.weights.embed, 0, state.tokens[rows], out=out)

    def norm_linear(self, x: Tensor, norm: Tensor, weight: Tensor, out: Tensor) -> None:
        """weight @ rms_norm(x), [B, out]."""
        torch.mm(rms_norm(x, norm, self.config.norm_eps), weight.t(), out=out)

    def linear_add(self, x: Tensor, weight: Tensor, out: Tensor) -> None:
        """Add weight @ x to out, [B, H]."""
        out.addmm_(x, weight.t())

    def gate_up(self, x: Tensor, norm: Tensor, weight: Tensor, out: Tensor) -> None:
        """SwiGLU: silu(gate) * up of rms_norm(x), [B, I]."""
        gate, up = torch.mm(rms_norm(x, norm, self.config.norm_eps), weight.t()).chunk(2, -1)
        torch.mul(F.silu(gate), up, out=out)

    def attend(self, layer: int, cache: Cache, state: State, rows: Tensor, work: Workspace) -> None:
        """Rotate queries and keys, write the new keys and values, and attend to each row's own context."""
        config, (batch, size) = self.config, (rows.shape[0], cache.page_size)
        positions, table = state.positions[rows], state.table[rows].long()  # [B], [B, M]
        heads = work.qkv.view(batch, -1, config.head_dim)
        q, k, v = torch.split(heads, [config.heads, config.kv_heads, config.kv_heads], 1)  # [B, heads, D]
        cos, sin = self.weights.cos[positions, None], self.weights.sin[positions, None]  # [B, 1, D / 2]
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        page = table.gather(1, (positions // size)[:, None])[:, 0]  # [B]
        keys, values = cache.k[layer], cache.v[layer]  # [P + 1, Hkv, S, D]
        keys[page, :, positions % size] = k
        values[page, :, positions % size] = v
        held = torch.arange(table.shape[1] * size, device=rows.device) <= positions[:, None]  # [B, M S]
        attended = F.scaled_dot_product_attention(
            q[:, :, None],
            keys[table].transpose(1, 2).flatten(2, 3),  # [B, Hkv, M S, D]
            values[table].transpose(1, 2).flatten(2, 3),
            attn_mask=held[:, None, None],
            enable_gqa=True,
        )  # [B, Hq, 1, D]
        work.attended.copy_(attended.reshape(batch, -1))

    def logits(self, x: Tensor, work: Workspace) -> None:
        """The logits of every token into work.logits, [B, V] in float32."""
        work.logits.copy_(rms_norm(x, self.weights.norm, self.config.norm_eps) @ self.weights.head.t())

    def greedy(self, state: State, rows: Tensor, work: Workspace, chosen: Tensor) -> None:
        """The likeliest token of each row into `chosen` [B] int64, and into the state as its next."""
        self.logits(work.x, work)
        torch.argmax(work.logits, -1, out=chosen)
        advance(state, rows, chosen)


def advance(state: State, rows: Tensor, chosen: Tensor) -> None:
    """Make the chosen tokens [B] the next ones of their slots, one position on; scratch stays where it is."""
    live = rows != state.slots
    state.positions.index_copy_(0, rows, state.positions[rows] + live)
    state.tokens.index_copy_(0, rows, chosen * live)
