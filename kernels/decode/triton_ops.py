"""The parts of a decode step as Triton kernels, with tiles by the number of rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from monitorgen.kernels.decode import triton_kernels as kernels
from monitorgen.kernels.decode.state import Cache, State, Workspace, make_workspace
from monitorgen.kernels.decode.weights import Weights
from monitorgen.kernels.workload import UsageError

Part = Literal["qkv", "out", "gate_up", "down", "head"]


@dataclass(frozen=True, slots=True)
class Tile:
    """How a matrix is cut: BM rows of x, BN of the output, BK of the inner size at a time; BM 1 is a GEMV."""

    bm: int
    bn: int
    bk: int
    warps: int = 4
    stages: int = 4

    def fits(self, inner: int) -> Tile:
        """This tile with the largest BK up to its own that divides the inner size. Raises UsageError."""
        bk = math.gcd(self.bk, inner)
        if bk < 16:
            raise UsageError(
                f"Triton kernels need inner sizes that 16 divides, not {inner}; take --ops torch"
            )
        return Tile(self.bm, self.bn, bk, self.warps, self.stages)


# The fastest of those that `tune` tries, for the 1B shape on an H100 (torch 2.11, Triton 3.6).
_ONE_ROW: Mapping[Part, Tile] = {
    "qkv": Tile(1, 4, 2048, 8, 1),
    "out": Tile(1, 8, 2048, 4, 1),
    "gate_up": Tile(1, 4, 2048, 4, 1),
    "down": Tile(1, 4, 2048, 4, 1),
    "head": Tile(1, 8, 2048, 4, 1),
}
_SHORT: Mapping[Part, Tile] = {
    "qkv": Tile(16, 32, 64, 4, 5),
    "out": Tile(16, 16, 256, 4, 4),
    "gate_up": Tile(16, 64, 64, 4, 5),
    "down": Tile(16, 16, 256, 4, 4),
    "head": Tile(16, 128, 128, 8, 3),
}
_TALL: Mapping[Part, Tile] = {
    "qkv": Tile(64, 32, 64, 4, 3),
    "out": Tile(64, 16, 128, 4, 5),
    "gate_up": Tile(64, 64, 64, 4, 5),
    "down": Tile(64, 16, 256, 4, 4),
    "head": Tile(64, 128, 64, 8, 3),
}


def default_tiles(rows: int) -> dict[Part, Tile]:
    """Tiles for batches of up to `rows`: a GEMV for one, else the least of 16, 32, 64 that holds them."""
    if rows == 1:
        return dict(_ONE_ROW)
    if rows <= 16:
        return dict(_SHORT)
    bm = 32 if rows <= 32 else 64
    return {part: replace(tile, bm=bm) for part, tile in _TALL.items()}


@dataclass(frozen=True, slots=True)
class Split:
    """How the context is cut: `chunk` tokens a program, `block` at a time."""

    chunk: int = 512
    block: int = 64
    warps: int = 4
    stages: int = 2


def default_split(rows: int) -> Split:
    """How the context is cut for batches of up to `rows`.

    One row has as many programs as KV heads and chunks: with the usual 512 tokens a chunk most of a GPU would
    wait for a few of them. 64 was the fastest for the 1B shape on an H100; more rows fill it with 512.
    """
    return Split(chunk=64) if rows == 1 else Split()


class TritonOps:
    """The Triton implementation of a step's parts; `torch_ops.TorchOps` says what each one does.

    The tiles are those of `rows` and are used for every batch, so that results do not depend on its size.
    `pdl` overlaps kernels by programmatic dependent launch. `write_first` writes the keys and values of all
    rows in a kernel of its own before any row attends: for rows that share pages and stand at different
    positions, as the k + 1 of a verification do. Raises UsageError for shapes that the kernels do not take.
    """

    name = "triton"

    def __init__(
        self,
        weights: Weights,
        rows: int,
        *,
        tiles: Mapping[Part, Tile] | None = None,
        split: Split | None = None,
        pdl: bool = False,
        write_first: bool = False,
    ) -> None:
        config = weights.config
        half = config.head_dim // 2
        if half < 16 or half & (half - 1):
            raise UsageError(
                f"Triton kernels take head sizes 32, 64, 128, not {config.head_dim}; take --ops torch"
            )
        inner: Mapping[Part, int] = {
            "qkv": config.hidden,
            "out": config.heads * config.head_dim,
            "gate_up": config.hidden,
            "down": config.intermediate,
            "head": config.hidden,
        }
        chosen = {**default_tiles(rows), **(tiles or {})}
        self.tiles = {part: chosen[part].fits(size) for part, size in inner.items()}
        self.weights, self.config = weights, config
        self.split, self.pdl, self.write_first = split or default_split(rows), pdl, write_first
        self.precision = "ieee" if weights.dtype.itemsize == 4 else "tf32"  # without effect on 16 bits
        self.launch: dict[str, Any] = {"launch_pdl": True} if pdl else {}

    @property
    def head_tiles(self) -> int:
        """Tiles that the vocabulary is cut into."""
        count: int = -(-self.config.vocab // self.tiles["head"].bn)
        return count

    def workspace(self, rows: int, context: int) -> Workspace:
        """A workspace for batches of up to `rows` with up to `context` tokens each."""
        return make_workspace(
            self.config,
            rows,
            device=self.weights.device,
            dtype=self.weights.dtype,
            splits=-(-context // self.split.chunk),
            tiles=self.head_tiles,
        )

    def _options(self, tile: Tile) -> dict[str, Any]:
        """What every kernel with a tile takes."""
        return {
            "BM": tile.bm, "BN": tile.bn, "BK": tile.bk, "GEMV": tile.bm == 1, "PRECISION": self.precision,
            "PDL": self.pdl, "num_warps": tile.warps, "num_stages": tile.stages, **self.launch,
        }  # fmt: skip

    def embed(self, state: State, rows: Tensor, out: Tensor) -> None:
        """The embedding of each row's token, [B, H]."""
        hidden = self.config.hidden
        kernels.embed_kernel[(rows.shape[0],)](
            self.weights.embed, rows, state.tokens, out, HIDDEN=hidden, BLOCK=_power(hidden), PDL=self.pdl,
            **self.launch,
        )  # fmt: skip

    def norm_linear(self, x: Tensor, norm: Tensor, weight: Tensor, out: Tensor) -> None:
        """weight @ rms_norm(x), [B, out]."""
        self.linear("qkv", x, norm, weight, out, add=False)

    def linear_add(self, x: Tensor, weight: Tensor, out: Tensor) -> None:
        """Add weight @ x to out, [B, H]."""
        part: Part = "down" if x.shape[1] == self.config.intermediate else "out"
        self.linear(part, x, None, weight, out, add=True)

    def linear(
        self, part: Part, x: Tensor, norm: Tensor | None, weight: Tensor, out: Tensor, *, add: bool
    ) -> None:
        """The linear layer of a part; `norm` None for none."""
        tile = self.tiles[part]
        batch, count = out.shape
        kernels.linear_kernel[(-(-count // tile.bn), -(-batch // tile.bm))](
            x, weight, x if norm is None else norm, out, batch, count, self.config.norm_eps,
            K=x.shape[1], NORM=norm is not None, ADD=add, **self._options(tile),
        )  # fmt: skip

    def gate_up(self, x: Tensor, norm: Tensor, weight: Tensor, out: Tensor) -> None:
        """SwiGLU: silu(gate) * up of rms_norm(x), [B, I]."""
        tile = self.tiles["gate_up"]
        batch, count = out.shape
        kernels.gate_up_kernel[(-(-count // tile.bn), -(-batch // tile.bm))](
            x, weight, norm, out, batch, count, self.config.norm_eps, K=x.shape[1], **self._options(tile)
        )

    def attend(self, layer: int, cache: Cache, state: State, rows: Tensor, work: Workspace) -> None:
        """Rotate queries and keys, write the new keys and values, and attend to each row's own context."""
        config, split, weights = self.config, self.split, self.weights
        batch, splits, partial = rows.shape[0], work.partial.shape[0], work.partial
        group = max(16, _power(config.heads // config.kv_heads))
        if self.write_first:
            kernels.write_kernel[(batch, config.kv_heads)](
                work.qkv, cache.k[layer], cache.v[layer], rows, state.positions, state.table, weights.cos,
                weights.sin, HEADS=config.heads, KV_HEADS=config.kv_heads, HALF=config.head_dim // 2,
                PAGE=cache.page_size, WIDTH=state.table.shape[1], PDL=self.pdl, num_warps=1, **self.launch,
            )  # fmt: skip
        kernels.attend_kernel[(batch, config.kv_heads, splits)](
            work.qkv, cache.k[layer], cache.v[layer], work.attended, partial, rows, state.positions,
            state.table, weights.cos, weights.sin, config.head_dim**-0.5 * math.log2(math.e),
            partial.stride(0), partial.stride(1),
            HEADS=config.heads, KV_HEADS=config.kv_heads, HALF=config.head_dim // 2, GROUP=group,
            PAGE=cache.page_size, WIDTH=state.table.shape[1], CHUNK=split.chunk, BLOCK=split.block,
            SPLITS=splits, PRECISION=self.precision, STORE=not self.write_first, PDL=self.pdl,
            num_warps=split.warps, num_stages=split.stages, **self.launch,
        )  # fmt: skip
        if splits > 1:
            kernels.combine_kernel[(batch, config.heads)](
                partial, work.attended, partial.stride(0), partial.stride(1), HEADS=config.heads,
                D=config.head_dim, SPLITS=splits, PARTS=_power(splits), PDL=self.pdl, num_warps=1,
                **self.launch,
            )  # fmt: skip

    def head(self, x: Tensor, work: Workspace, *, write: bool) -> None:
        """The head: with `write` all logits into work.logits, else the best of each tile."""
        tile, weights, config = self.tiles["head"], self.weights, self.config
        kernels.head_kernel[(self.head_tiles, -(-x.shape[0] // tile.bm))](
            x, weights.head, weights.norm, work.logits, work.best, work.best_token, x.shape[0], config.vocab,
            self.head_tiles, config.norm_eps, K=config.hidden, WRITE=write, **self._options(tile),
        )  # fmt: skip

    def logits(self, x: Tensor, work: Workspace) -> None:
        """The logits of every token into work.logits, [B, V] in float32."""
        self.head(x, work, write=True)

    def greedy(self, state: State, rows: Tensor, work: Workspace, chosen: Tensor) -> None:
        """The likeliest token of each row into `chosen` [B] int64, and into the state as its next."""
        self.head(work.x, work, write=False)
        kernels.greedy_kernel[(rows.shape[0],)](
            work.best, work.best_token, rows, state.tokens, state.positions, chosen, self.head_tiles,
            state.slots, BLOCK=_power(self.head_tiles), PDL=self.pdl, **self.launch,
        )  # fmt: skip


def _power(number: int) -> int:
    """The least power of two that is not under a number."""
    return 1 << (number - 1).bit_length()
