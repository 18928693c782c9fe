"""Paged GQA decode attention, split over the context: `plan` once for a shape, `run` for every step.

A plan allocates its workspace and fixes the launch; a run reads no length on the host, so it can be captured
in a CUDA graph and replayed with other lengths, tables and contents. How the work is cut stands in
`paged_gqa_kernels`, with which tiles in `paged_gqa_tuning`.

    decode = plan(batch=8, heads=32, kv_heads=8, head_dim=128, page_size=16, max_length=8192)
    out = decode.run(q, k_pages, v_pages, table, lengths)
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from monitorgen.kernels.attention import paged_gqa_check as check
from monitorgen.kernels.attention import paged_gqa_kernels as kernels
from monitorgen.kernels.attention.paged_gqa_tuning import Tuning, choose, default_tuning

JOINED = 32  # partial sums of one query head that the second kernel joins at a time
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a plan is for. `width` is the pages that a table row names, `max_length` the longest context."""

    batch: int
    heads: int
    kv_heads: int
    head_dim: int
    page_size: int
    max_length: int
    width: int
    dtype: torch.dtype
    kv_dtype: torch.dtype
    window: int = 0
    softcap: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError naming the argument, its value and what is supported."""
        check.within("batch", self.batch, 1, check.MOST_BATCH)
        check.check_heads(self.heads, self.kv_heads)
        check.one_of("head_dim", self.head_dim, check.HEAD_SIZES)
        check.one_of("page_size", self.page_size, check.PAGE_SIZES)
        check.check_dtypes(self.dtype, self.kv_dtype)
        check.within("max_length", self.max_length, 1, (1 << 31) - 1)
        check.within("table_width", self.width, 1, (1 << 31) // self.page_size - 1)
        if self.max_length > self.width * self.page_size:
            raise ValueError(
                f"max_length is {self.max_length}; supported: up to {self.width * self.page_size}, what a "
                f"table of {self.width} pages of {self.page_size} tokens holds"
            )
        if self.batch * self.kv_heads * self.max_length >= 1 << 34:
            raise ValueError(
                f"batch * kv_heads * max_length is {self.batch * self.kv_heads * self.max_length}; "
                f"supported: up to {(1 << 34) - 1}"
            )
        check.within("window", self.window, 0, (1 << 31) - 1)
        if not 0.0 <= self.softcap < math.inf:
            raise ValueError(f"softcap is {self.softcap}; supported: 0 for none, or a positive number")


@dataclass(slots=True)
class Plan:
    """A launch that is fixed but for what it reads. One run at a time: runs share the workspace."""

    shape: Shape
    scale: float
    tuning: Tuning
    programs: int
    sums: Tensor  # [2 programs, group, D] float32: partial sums, two places a program
    tops: Tensor  # [2 programs, group, 2] float32: their maximum and weight
    arrived: Tensor  # [batch, Hk] int32: programs that have come to a shared segment; zeros between runs
    checked: set[tuple[Any, ...]] = field(default_factory=set)

    @property
    def workspace_bytes(self) -> int:
        """Bytes that the plan holds on the device."""
        held = (self.sums, self.tops, self.arrived)
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    @property
    def launches(self) -> int:
        """Kernels that a run launches."""
        return 1 if self.tuning.fused else 2

    def run(
        self,
        q: Tensor,
        k_pages: Tensor,
        v_pages: Tensor,
        table: Tensor,
        lengths: Tensor,
        *,
        out: Tensor | None = None,
        lse: Tensor | None = None,
        k_scale: Tensor | None = None,
        v_scale: Tensor | None = None,
    ) -> Tensor:
        """Attention of one new token a sequence: out [B, Hq, D] in q's type.

        q [B, Hq, D]; k_pages and v_pages [pages, page_size, Hk, D]; table [B, width] int32 names each
        sequence's pages, of which the first `lengths` [B] int32 tokens count; all contiguous. `lse` [B, Hq]
        float32 is filled with the natural log-sum-exp of the scores if it is given. `k_scale` and `v_scale`,
        float32 [1] or [Hk], multiply fp8 keys and values.

        A length of 0 gives zeros and -inf. A length below 0 or beyond `max_length`, and a page that does not
        exist, give NaN for that sequence. Raises ValueError for tensors that the plan is not for.
        """
        if out is None:
            out = torch.empty_like(q)
        tensors = (q, k_pages, v_pages, table, lengths, out, lse, k_scale, v_scale)
        # What was seen before needs no second look: a look costs more than a launch.
        known = tuple(None if t is None else (t.shape, t.stride(), t.dtype, t.device) for t in tensors)
        if known not in self.checked:
            self._check(*tensors)
            self.checked.add(known)
        self._launch(*tensors)
        return out

    def _check(
        self, q: Tensor, k_pages: Tensor, v_pages: Tensor, table: Tensor, lengths: Tensor, out: Tensor,
        lse: Tensor | None, k_scale: Tensor | None, v_scale: Tensor | None,
    ) -> None:  # fmt: skip
        shape, device = self.shape, self.sums.device
        rows = (shape.batch, shape.heads, shape.head_dim)
        pages = (None, shape.page_size, shape.kv_heads, shape.head_dim)
        check.check_tensor("q", q, rows, shape.dtype, device)
        check.check_tensor("k_pages", k_pages, pages, shape.kv_dtype, device)
        check.within("pages of k_pages", k_pages.shape[0], 1, (1 << 31) - 1)
        check.check_tensor("v_pages", v_pages, (k_pages.shape[0], *pages[1:]), shape.kv_dtype, device)
        check.check_tensor("table", table, (shape.batch, shape.width), torch.int32, device)
        check.check_tensor("lengths", lengths, (shape.batch,), torch.int32, device)
        check.check_tensor("out", out, rows, shape.dtype, device)
        if lse is not None:
            check.check_tensor("lse", lse, rows[:2], torch.float32, device)
        check.check_scale("k_scale", k_scale, shape.kv_heads, shape.kv_dtype, device)
        check.check_scale("v_scale", v_scale, shape.kv_heads, shape.kv_dtype, device)

    def _launch(
        self, q: Tensor, k_pages: Tensor, v_pages: Tensor, table: Tensor, lengths: Tensor, out: Tensor,
        lse: Tensor | None, k_scale: Tensor | None, v_scale: Tensor | None,
    ) -> None:  # fmt: skip
        shape, tuning = self.shape, self.tuning
        group = shape.heads // shape.kv_heads
        rows, least = power(group), -(-tuning.least // tuning.unit)
        common: dict[str, Any] = {
            "BATCH": padded(shape.batch), "KV_HEADS": shape.kv_heads, "SHARE": group,
            "D": shape.head_dim, "UNIT": tuning.unit,
            "WINDOWED": shape.window > 0, "V_SCALES": 0 if v_scale is None else v_scale.numel(),
            "LSE": lse is not None, "PDL": tuning.pdl, "num_warps": tuning.warps,
        }  # fmt: skip
        launch: dict[str, Any] = {"launch_pdl": True} if tuning.pdl else {}
        some_lse = out if lse is None else lse
        kernels.split_kernel[(self.programs,)](
            q, k_pages, v_pages, out, some_lse, self.sums, self.tops, self.arrived, lengths, table,
            q if k_scale is None else k_scale, q if v_scale is None else v_scale,
            self.scale if shape.softcap else self.scale * math.log2(math.e), float(shape.softcap),
            shape.window, shape.batch, shape.max_length, k_pages.shape[0], shape.width,
            shape.page_size.bit_length() - 1, least, tuning.toll // tuning.unit,
            GROUP=16, ROWS=rows, BLOCK=tuning.block,
            PARTS=max(1, tuning.joined // (rows * shape.head_dim)), SOFTCAP=shape.softcap > 0,
            K_SCALES=0 if k_scale is None else k_scale.numel(), FUSED=tuning.fused,
            WIDE=INTERPRETED and shape.dtype == torch.bfloat16, num_stages=tuning.stages, **common, **launch,
        )  # fmt: skip
        if not tuning.fused:
            kernels.join_kernel[(shape.heads, shape.batch)](
                out, some_lse, self.sums, self.tops, lengths, q if v_scale is None else v_scale,
                shape.window, shape.batch, shape.max_length, self.programs // shape.kv_heads, least,
                tuning.toll // tuning.unit,
                PARTS=JOINED, **common, **launch,
            )  # fmt: skip


def plan(
    *,
    batch: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    page_size: int,
    max_length: int,
    table_width: int | None = None,
    dtype: torch.dtype = torch.bfloat16,
    kv_dtype: torch.dtype | None = None,
    window: int = 0,
    softcap: float = 0.0,
    scale: float | None = None,
    device: torch.device | str = "cuda",
    tuning: Tuning | None = None,
    programs: int | None = None,
) -> Plan:
    """Plan paged decode attention for a batch; see `Plan.run` for the tensors.

    `max_length` is the longest context in tokens that any run will have, `table_width` the pages in a row of
    the table (as many as `max_length` needs unless given). `window` > 0: the token at the end of a sequence
    sees the last `window` tokens. `softcap` > 0 caps scores by cap * tanh(score / cap). `scale` multiplies
    q . k, head_dim ** -0.5 unless given. `programs` is the grid, SMs times `tuning.per_sm` unless
    given, down to a multiple of the KV heads. Raises ValueError naming what is not supported.
    """
    check.one_of("page_size", page_size, check.PAGE_SIZES)
    check.within("max_length", max_length, 1, (1 << 31) - 1)
    width = -(-max_length // page_size) if table_width is None else table_width
    shape = Shape(
        batch,
        heads,
        kv_heads,
        head_dim,
        page_size,
        max_length,
        width,
        dtype,
        kv_dtype or dtype,
        window,
        softcap,
    )
    where = _resolve(torch.device(device))
    on_cuda = where.type == "cuda"
    sms = torch.cuda.get_device_properties(where).multi_processor_count if on_cuda else 8
    seen = min(max_length, window) if window else max_length
    # The table was measured on an H100, and its pipelines may not fit the shared memory of an older GPU.
    older = on_cuda and torch.cuda.get_device_capability(where) < (9, 0)
    pick = default_tuning if older else choose
    chosen = tuning or pick(head_dim, shape.kv_dtype.itemsize, batch * kv_heads, seen, sms)
    check.check_arch(where, shape.kv_dtype, chosen.pdl)
    count = programs or sms * chosen.per_sm
    check.within("programs", count, 1, 1 << 16)
    count = max(1, count // kv_heads) * kv_heads
    group = heads // kv_heads
    return Plan(
        shape,
        head_dim**-0.5 if scale is None else scale,
        chosen,
        count,
        torch.empty(2 * count, group, head_dim, dtype=torch.float32, device=where),
        torch.empty(2 * count, group, 2, dtype=torch.float32, device=where),
        torch.zeros(batch, kv_heads, dtype=torch.int32, device=where),
    )


def _resolve(device: torch.device) -> torch.device:
    """A CUDA device with its index, as tensors have it. Raises ValueError where there is none."""
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("device is cuda; supported here: none, torch sees no CUDA device")
        return torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    return device


def padded(batch: int) -> int:
    """The power of four, from 16, that holds a batch: few, since each is a compilation."""
    bound = 16
    while bound < batch:
        bound *= 4
    return bound


def power(number: int) -> int:
    """The least power of two that is not under a number."""
    return 1 << (number - 1).bit_length()
