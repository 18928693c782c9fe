"""A decoder of the Llama shape: prefill and decode steps over a paged cache.

Flat functions over plain data. The parts of a decode step come from `ops` (`torch_ops`, or `triton_ops` on
CUDA); a step reads and writes fixed addresses only and never asks the host, so that it can be captured.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from monitorgen.kernels.decode.sampling import Sampling, sample
from monitorgen.kernels.decode.state import Cache, State, Workspace
from monitorgen.kernels.decode.torch_ops import advance, rms_norm, rotate
from monitorgen.kernels.decode.weights import Weights


class Ops(Protocol):
    """The parts of a decode step; shapes as in `torch_ops`, which is the reference."""

    name: str

    def workspace(self, rows: int, context: int) -> Workspace:
        """Room for the activations of batches of up to `rows`, with up to `context` tokens each."""

    def embed(self, state: State, rows: Tensor, out: Tensor) -> None:
        """Embed each row's token."""

    def norm_linear(self, x: Tensor, norm: Tensor, weight: Tensor, out: Tensor) -> None:
        """Normalise and project."""

    def linear_add(self, x: Tensor, weight: Tensor, out: Tensor) -> None:
        """Project and add to out."""

    def gate_up(self, x: Tensor, norm: Tensor, weight: Tensor, out: Tensor) -> None:
        """Normalise, project twice, silu(gate) * up."""

    def attend(self, layer: int, cache: Cache, state: State, rows: Tensor, work: Workspace) -> None:
        """Rotate, write keys and values, attend: work.qkv to work.attended."""

    def logits(self, x: Tensor, work: Workspace) -> None:
        """Normalise and project onto the vocabulary: into work.logits."""

    def greedy(self, state: State, rows: Tensor, work: Workspace, chosen: Tensor) -> None:
        """Choose the likeliest token of each row and advance the state."""


def forward(weights: Weights, cache: Cache, state: State, rows: Tensor, ops: Ops, work: Workspace) -> None:
    """One token of every row through all layers: work.x [B, H] becomes the last hidden state.

    `rows` [B] int64 are the slots of the batch; padded rows name the scratch slot.
    """
    ops.embed(state, rows, work.x)
    for index, layer in enumerate(weights.layers):
        ops.norm_linear(work.x, layer.attention_norm, layer.qkv, work.qkv)
        ops.attend(index, cache, state, rows, work)
        ops.linear_add(work.attended, layer.out, work.x)
        ops.gate_up(work.x, layer.mlp_norm, layer.gate_up, work.up)
        ops.linear_add(work.up, layer.down, work.x)


def decode_step(
    weights: Weights,
    cache: Cache,
    state: State,
    rows: Tensor,
    ops: Ops,
    work: Workspace,
    chosen: Tensor,
    sampling: Sampling | None = None,
) -> None:
    """Decode one token of every row, greedily or as `sampling` says.

    The tokens go into `chosen` [B] int64, and into the state, which moves one position on. The slots' pages
    must cover their positions.
    """
    forward(weights, cache, state, rows, ops, work)
    if sampling is None:
        ops.greedy(state, rows, work, chosen)
        return
    ops.logits(work.x, work)
    sample(work.logits, sampling, chosen)
    advance(state, rows, chosen)


def prefill(
    weights: Weights, cache: Cache, state: State, slots: Tensor, tokens: Tensor, lengths: Tensor
) -> Tensor:
    """Fill the slots' pages with their prompts; returns the logits after each prompt's last token, [B, V].

    `slots` [B] int64, `tokens` [B, T] int64 padded on the right, `lengths` [B] int64 from 1 to T. What pads a
    prompt goes to the scratch page. The state's positions become the lengths; its tokens stay as they are.
    """
    config, (batch, longest) = weights.config, tokens.shape
    steps = torch.arange(longest, device=tokens.device)
    table = state.table[slots].long()  # [B, M]
    page = torch.where(steps < lengths[:, None], table[:, steps // cache.page_size], cache.pages)  # [B, T]
    offset = (steps % cache.page_size).expand_as(page)
    cos, sin = weights.cos[:longest, None], weights.sin[:longest, None]  # [T, 1, D / 2]
    x = F.embedding(tokens, weights.embed)  # [B, T, H]
    for index, layer in enumerate(weights.layers):
        normed = rms_norm(x, layer.attention_norm, config.norm_eps)
        heads = F.linear(normed, layer.qkv).view(batch, longest, -1, config.head_dim)
        q, k, v = torch.split(heads, [config.heads, config.kv_heads, config.kv_heads], 2)  # [B, T, heads, D]
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        cache.k[index][page, :, offset] = k
        cache.v[index][page, :, offset] = v
        attended = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, enable_gqa=True
        )  # [B, Hq, T, D]
        x = x + F.linear(attended.transpose(1, 2).flatten(2), layer.out)
        gate, up = F.linear(rms_norm(x, layer.mlp_norm, config.norm_eps), layer.gate_up).chunk(2, -1)
        x = x + F.linear(F.silu(gate) * up, layer.down)
    state.positions[slots] = lengths
    last = x[torch.arange(batch, device=x.device), lengths - 1]  # [B, H]
    return F.linear(rms_norm(last, weights.norm, config.norm_eps), weights.head).float()


def generate(
    weights: Weights,
    cache: Cache,
    state: State,
    ops: Ops,
    prompts: list[list[int]],
    count: int,
    sampling: Sampling | None = None,
) -> list[list[int]]:
    """`count` tokens after each prompt, as one batch in the first slots: the plain loop, without graphs.

    The state's pages must cover the prompts and what is decoded.
    """
    device, batch = weights.device, len(prompts)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    longest = max(map(len, prompts))
    tokens = torch.tensor([prompt + [0] * (longest - len(prompt)) for prompt in prompts], device=device)
    rows = torch.arange(batch, device=device)
    logits = prefill(weights, cache, state, rows, tokens, lengths)
    chosen = torch.empty(batch, dtype=torch.int64, device=device)
    if sampling is None:
        torch.argmax(logits, -1, out=chosen)
    else:
        sample(logits, sampling, chosen)
    state.tokens[rows] = chosen
    work = ops.workspace(batch, longest + count)
    out = [chosen.clone()]
    for _ in range(count - 1):
        decode_step(weights, cache, state, rows, ops, work, chosen, sampling)
        out.append(chosen.clone())
    columns: list[list[int]] = torch.stack(out, 1).tolist()
    return columns
