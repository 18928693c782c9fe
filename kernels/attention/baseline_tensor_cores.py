"""Prefill as three operations: scores by a matrix product, softmax, and a second product.

Both products run on tensor cores in bf16 or fp16, with scores and probabilities written to memory in between:
what torch does without a fused kernel, and what the size of the scores makes slow.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from monitorgen.kernels.attention import tensor_cores_common as common
from monitorgen.kernels.attention.prefill_common import Problem
from monitorgen.kernels.workload import Run


def three_operations(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(D)) v in the precision of q; `mask` [Sq, Sk] is True where a query may look."""
    batch, heads, queries, dim = q.shape
    kv_heads, keys = k.shape[1], k.shape[2]
    # The query heads of a KV head are rows of one product: no copy of K and V for each of them.
    rows = (q * dim**-0.5).reshape(batch * kv_heads, -1, dim)  # [B * Hkv, G * Sq, D]
    scores = torch.bmm(rows, k.reshape(-1, keys, dim).transpose(1, 2))  # [B * Hkv, G * Sq, Sk]
    if mask is not None:
        scores = scores.view(batch, heads, queries, keys).masked_fill_(~mask, -math.inf)
    weights = torch.softmax(scores, -1).view(batch * kv_heads, -1, keys)
    return torch.bmm(weights, v.reshape(-1, keys, dim)).view(batch, heads, queries, dim)


def make(problem: Problem, dtype: torch.dtype, device: torch.device) -> common.Way:
    """The way of this arm, its mask made once."""
    mask = None
    if problem.causal:
        mask = torch.ones(problem.queries, problem.keys, dtype=torch.bool, device=device)
        mask = mask.tril(problem.keys - problem.queries)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return three_operations(q, k, v, mask)

    # Scores between 1 and 4 are rounded to 8 bits as well, by up to 0.4% of a probability.
    return common.Way("matmul, softmax, matmul", call, leeway=2.0)


command = common.make_command("baseline", make, "Prefill attention as matmul, softmax, matmul.")


def main(argv: Sequence[str] | None = None) -> int:
    """The command of this arm; returns the exit code."""
    code: int = common.main("baseline", command, argv)
    return code


def prepare(flags: Sequence[str]) -> Run:
    """This arm ready to be timed. Raises UsageError for flags that it does not take."""
    return common.prepare("baseline", make, command, flags)


if __name__ == "__main__":
    sys.exit(main())
