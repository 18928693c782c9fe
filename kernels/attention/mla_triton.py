"""MLA decode in Triton: `plan` sizes the launch and its buffers once, `run` launches two kernels.

Neither reads a length: what `plan` fixes depends on the number of requests and heads and on the device. So a
captured graph of `run` holds for any lengths that the block table holds. Results are the same bit by bit from
run to run: no atomics, every sum has a fixed order. They do depend on the other lengths in the batch, which
move the cuts between parts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
from torch import Tensor

from monitorgen.kernels.attention import mla_kernels as kernels
from monitorgen.kernels.attention.mla_check import (
    ROPE,
    VALUE,
    WIDTH,
    Shape,
    check_call,
    check_outputs,
    check_shape,
)
from monitorgen.kernels.attention.mla_reference import SCALE

try:  # host-made TMA descriptors came with Triton 3.4
    from triton.tools.tensor_descriptor import TensorDescriptor
except ImportError:
    TensorDescriptor = None

LOG2E = math.log2(math.e)
COMBINED = 16  # parts that the combination loads at a time


@dataclass(frozen=True, slots=True)
class Config:
    """How the kernel is cut: heads of a program, tokens of a block, and how it runs.

    `tma`: blocks come through tensor descriptors where a block is a page, by pointers elsewhere. `least`:
    blocks that a program has at least. `resident`: programs of an SM at a time.
    """

    heads: int
    block: int = 64
    warps: int = 8
    stages: int = 3
    tma: bool = True
    least: int = 1
    resident: int = 1


CONFIGS: tuple[Config, ...] = (
    Config(16, warps=8, stages=3),
    Config(64, warps=8, stages=2),
)
"""For few heads and for many. On an H100 both were right on the grid of `bench_mla`, and fastest, or within
2 % of it, among the candidates of `mla_tune` for 64 x 4,096 tokens."""
FEW = 32  # heads up to which programs of 16 are taken: 64 would be padding for the most part


def default_config(heads: int) -> Config:
    """The configuration for a number of heads: programs of 16 heads up to FEW, of 64 beyond."""
    return CONFIGS[0] if heads <= FEW else CONFIGS[1]


@dataclass(frozen=True, slots=True)
class Plan:
    """A launch and its buffers, for one batch size, number of heads and block table width, any lengths.

    `parts` [programs + B, H, 512] and `part_lse` [programs + B, H] are float32 and belong to one run at a
    time.
    """

    shape: Shape
    config: Config
    programs: int
    parts: Tensor
    part_lse: Tensor
    dtype: torch.dtype

    @property
    def groups(self) -> int:
        """Programs that share a run of blocks, each with other heads."""
        heads: int = self.shape.heads
        return -(-heads // self.config.heads)

    @property
    def padded_batch(self) -> int:
        """The batch up to a power of two, at least 128, so that few sizes need a compilation of their own."""
        batch: int = self.shape.batch
        return max(128, 1 << (batch - 1).bit_length())


def plan(
    batch: int,
    heads: int,
    page: int,
    table_width: int,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cuda",
    config: Config | None = None,
    programs: int | None = None,
) -> Plan:
    """Size the launch for calls of `batch` requests with tables of `table_width` pages of `page` tokens.

    `programs` is the number of runs that the blocks of the batch are dealt to, by default as many as the
    device holds at a time. Raises ValueError for sizes that are not supported.
    """
    shape = check_shape(batch, heads, page, table_width, dtype)
    device = torch.device(device)
    config = default_config(heads) if config is None else config
    check_config(config)
    if config.tma and (config.block != page or TensorDescriptor is None):
        config = replace(config, tma=False)
    if programs is None:
        if device.type != "cuda":
            raise ValueError(f"device is {device}: give programs where there are no SMs to count")
        processors = torch.cuda.get_device_properties(device).multi_processor_count
        programs = max(1, processors * config.resident // -(-heads // config.heads))
    if not 1 <= programs <= 65535:
        raise ValueError(f"programs is {programs}: 1 to 65535 are supported")
    parts = torch.empty(programs + batch, heads, VALUE, dtype=torch.float32, device=device)
    return Plan(shape, config, programs, parts, parts.new_empty(programs + batch, heads), dtype)


def check_config(config: Config) -> None:
    """Raise ValueError for a configuration that the kernel does not have."""
    for name, value, supported in (
        ("heads", config.heads, (16, 64)),  # 32 a program was not run on a GPU
        ("block", config.block, (16, 32, 64, 128)),
        ("warps", config.warps, (4, 8)),
    ):
        if value not in supported:
            raise ValueError(f"config.{name} is {value}: {', '.join(map(str, supported))} are supported")
    for name, value in (
        ("stages", config.stages),
        ("least", config.least),
        ("resident", config.resident),
    ):
        if value < 1:
            raise ValueError(f"config.{name} is {value}: at least 1 is supported")


def run(
    plan: Plan,
    q: Tensor,
    cache: Tensor,
    table: Tensor,
    lengths: Tensor,
    *,
    scale: float | None = None,
    out: Tensor | None = None,
    lse: Tensor | None = None,
) -> Tensor:
    """Attend: q [B, H, 576] over cache [pages, page, 576] by table [B, W] and lengths [B]: [B, H, 512].

    `lse` [B, H] float32 is filled with the natural log-sum-exp if given; -inf, and output 0, without tokens.
    Lengths are read on the device only: below 0 they count as 0, beyond the table as the table's (see
    `mla_check.check_values`). Raises ValueError, before anything is launched.
    """
    shape = check_call(q, cache, table, lengths, scale)
    check_outputs(q, out, lse)
    if (shape, q.dtype, q.device) != (plan.shape, plan.dtype, plan.parts.device):
        raise ValueError(
            f"q, cache and table are {shape} {q.dtype} on {q.device}: the plan is for {plan.shape} "
            f"{plan.dtype} on {plan.parts.device}"
        )
    out = q.new_empty(shape.batch, shape.heads, VALUE) if out is None else out
    launch(plan, q, cache, table, lengths, SCALE if scale is None else scale, out, lse)
    combine(plan, lengths, out, lse, plan.config.block, plan.config.least)
    return out


def launch(
    plan: Plan,
    q: Tensor,
    cache: Tensor,
    table: Tensor,
    lengths: Tensor,
    scale: float,
    out: Tensor,
    lse: Tensor | None,
) -> None:
    """The first kernel: attention over each program's run of blocks."""
    config, shape = plan.config, plan.shape
    latent: Any = None
    rope: Any = None
    if config.tma:
        rows = [cache.shape[0] * cache.shape[1], WIDTH]
        latent = TensorDescriptor(cache, rows, [WIDTH, 1], [config.block, VALUE])
        rope = TensorDescriptor(cache, rows, [WIDTH, 1], [config.block, ROPE])
    kernels.mla_kernel[(plan.groups, plan.programs)](
        q, cache, latent, rope, table, lengths, out, lse, plan.parts, plan.part_lse,
        scale * LOG2E, shape.batch, shape.longest, config.least,
        HEADS=shape.heads, H=config.heads, PAGE=shape.page, BLOCK=config.block, BATCH=plan.padded_batch,
        PROGRAMS=plan.programs, TMA=config.tma, LSE=lse is not None, STAGES=config.stages,
        num_warps=config.warps,
    )  # fmt: skip


def combine(plan: Plan, lengths: Tensor, out: Tensor, lse: Tensor | None, block: int, least: int) -> None:
    """The second kernel: join the parts of requests that several programs share."""
    shape = plan.shape
    kernels.mla_combine_kernel[(shape.heads, shape.batch)](
        lengths, out, lse, plan.parts, plan.part_lse, shape.batch, shape.longest, least,
        HEADS=shape.heads, BLOCK=block, BATCH=plan.padded_batch, PROGRAMS=plan.programs,
        PARTS=min(COMBINED, triton.next_power_of_2(plan.programs)), LSE=lse is not None, num_warps=4,
    )  # fmt: skip
