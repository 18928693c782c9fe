"""The fused kernels as ways of the workload `tensor_cores`; torch's own where Triton cannot run."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from monitorgen.kernels.attention.prefill_common import Problem
from monitorgen.kernels.attention.tensor_cores_common import Way, sdpa
from monitorgen.kernels.workload import UsageError


def triton_way(problem: Problem, dtype: torch.dtype, device: torch.device, *, specialize: bool) -> Way:
    """The Triton kernel on CUDA, with what the compiler made of it; torch's fused attention on a CPU.

    Where specialised warps are asked for and compute something else than the plain kernel, that one runs.

    Raises UsageError for CUDA without Triton.
    """
    if device.type == "cpu":
        asked = ", no specialised warps" if specialize else ""
        return Way(f"torch's fused attention, since a CPU runs no Triton kernel{asked}", sdpa(problem))
    if importlib.util.find_spec("triton") is None:
        raise UsageError("--device cuda: Triton is not installed; the baseline runs without it")
    from monitorgen.kernels.attention import prefill_triton

    tiling = prefill_triton.default_tiling(problem.dim, specialize=specialize)
    said = ""
    if specialize and not prefill_triton.agrees(problem, dtype, tiling):
        tiling = prefill_triton.default_tiling(problem.dim)
        said = "; this compiler specialises warps wrongly here, so the plain kernel runs"
    seen: dict[str, Any] = {}

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, _, seen["compiled"] = prefill_triton.launch(q, k, v, causal=problem.causal, tiling=tiling)
        found: Tensor = out
        return found

    def facts() -> Mapping[str, float]:
        if "compiled" not in seen:
            return {}
        return {"warp_specialized": float(prefill_triton.specialized(seen["compiled"]))}

    cut = f"Triton, {tiling.bm} x {tiling.bn}, {tiling.warps} warps, {tiling.stages} stages{said}"
    return Way(cut, call, facts=facts)
