"""Compares paged GQA decode with the float64 reference on a device, over awkward batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from monitorgen.kernels.attention import reference
from monitorgen.kernels.attention.paged_case import FP8, Case, make_case
from monitorgen.kernels.attention.paged_gqa import Plan, plan
from monitorgen.kernels.attention.paged_gqa_tuning import Tuning

LENGTHS = (0, 1, 54, 97, 4095, 8193)
TOLERANCES = {torch.bfloat16: 4e-3, torch.float16: 4e-3, FP8: 3e-2}
LSE_TOLERANCE = 2e-5  # of float32 sums; natural log-sum-exps are of the size of 10


@dataclass(frozen=True, slots=True)
class Check:
    """A batch to compare: lengths are cycled from a list until the batch is full."""

    batch: int
    lengths: Sequence[int] = LENGTHS
    page: int = 16
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    dtype: torch.dtype = torch.bfloat16
    kv_dtype: torch.dtype | None = None
    window: int = 0
    softcap: float = 0.0
    tuning: Tuning | None = None
    programs: int | None = None

    @property
    def name(self) -> str:
        """What is unusual about it."""
        kind = str(self.kv_dtype or self.dtype).removeprefix("torch.")
        tail = f" window {self.window}" if self.window else ""
        tail += f" softcap {self.softcap:g}" if self.softcap else ""
        tail += "" if self.tuning is None or self.tuning.fused else " two kernels"
        group = self.heads // self.kv_heads
        return f"b{self.batch} p{self.page} d{self.head_dim} g{group} {kind}{tail}"

    def case(self, device: torch.device | str, seed: int = 0) -> Case:
        """The batch, poisoned."""
        lengths = list(itertools.islice(itertools.cycle(self.lengths), self.batch))
        return make_case(
            lengths, heads=self.heads, kv_heads=self.kv_heads, head_dim=self.head_dim, page_size=self.page,
            dtype=self.dtype, kv_dtype=self.kv_dtype, device=device, seed=seed,
            width=max(1, -(-max(self.lengths) // self.page)),
        )  # fmt: skip


GPU_CHECKS = (
    Check(1, [4095]),
    Check(3),
    Check(12, page=32),
    Check(17, page=64),
    Check(64),
    Check(6, heads=8, page=64),
    Check(6, heads=128),
    Check(12, heads=24),
    Check(12, head_dim=64, page=32),
    Check(12, head_dim=256),
    Check(12, dtype=torch.float16),
    Check(12, kv_dtype=FP8),
    Check(12, kv_dtype=FP8, dtype=torch.float16, head_dim=64),
    Check(12, kv_dtype=FP8, head_dim=256, page=32),
    Check(12, window=100),
    Check(12, softcap=30.0),
    Check(17, window=1000, softcap=5.0, page=64),
    Check(12, tuning=Tuning(fused=False, pdl=True)),
    Check(64, tuning=Tuning(block=32, per_sm=7, stages=3)),
)
"""The batches that are compared on a GPU."""


def plan_of(check: Check, device: torch.device | str) -> Plan:
    """The plan of a check."""
    return plan(
        batch=check.batch, heads=check.heads, kv_heads=check.kv_heads, head_dim=check.head_dim,
        page_size=check.page, max_length=max([1, *check.lengths]), dtype=check.dtype,
        kv_dtype=check.kv_dtype, window=check.window, softcap=check.softcap, device=device,
        tuning=check.tuning, programs=check.programs,
    )  # fmt: skip


def compile_check(check: Check, device: torch.device | str) -> None:
    """Compile what a check needs, by running it with contexts of one token."""
    compare(replace(check, lengths=[1], tuning=plan_of(check, device).tuning), device, runs=1)


def compare(check: Check, device: torch.device | str, runs: int = 2) -> dict[str, Any]:
    """Run a check: distances from the float64 reference, and whether all runs have the same bits."""
    case = check.case(device)
    made = plan_of(check, device)
    found = []
    for _ in range(runs):
        out = torch.full_like(case.q, torch.nan)
        lse = torch.full(case.q.shape[:2], torch.nan, device=case.q.device)
        made.run(
            case.q, case.k_pages, case.v_pages, case.table, case.lengths, out=out, lse=lse,
            k_scale=case.k_scale, v_scale=case.v_scale,
        )  # fmt: skip
        found.append((out, lse))
    out, lse = found[0]
    want = reference.paged_decode(
        case.q, case.k_pages, case.v_pages, case.table, case.lengths, window=check.window,
        softcap=check.softcap, k_scale=case.k_scale, v_scale=case.v_scale,
    )  # fmt: skip
    some = want.lse.isfinite()
    error = reference.relative_norm(out, want.out)
    lse_error = reference.relative_norm(lse[some], want.lse[some])
    empty = bool(
        torch.equal(some, lse.isfinite()) and (lse[~some] == -torch.inf).all() and not out[~some].any()
    )
    same = all(torch.equal(out, again) and torch.equal(lse, lse_again) for again, lse_again in found[1:])
    limit = TOLERANCES[check.kv_dtype or check.dtype]
    return {
        "name": check.name, "error": error, "lse_error": lse_error, "empty": empty, "same_bits": same,
        "tolerance": limit, "ok": error <= limit and lse_error <= LSE_TOLERANCE and empty and same,
    }  # fmt: skip


def checks(device: torch.device, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """All of `GPU_CHECKS`; one that cannot be run is one that failed."""
    found = []
    for check in GPU_CHECKS:
        try:
            result = compare(check, device)
        except Exception as error:
            result = {"name": check.name, "ok": False, "why": f"{type(error).__name__}: {error}"[:300]}
        found.append(result)
        if not result["ok"]:
            say(f"WRONG {result}")
    worst = max((result.get("error", 0.0) for result in found), default=0.0)
    say(f"checks: {sum(result['ok'] for result in found)} of {len(found)} right, worst {worst:.1e}")
    return found
