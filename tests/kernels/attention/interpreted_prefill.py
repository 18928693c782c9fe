"""Runs the Triton prefill kernel in Triton's interpreter and compares it with the float64 reference.

Run as a program, because the interpreter must be chosen before Triton is imported. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import numpy
import torch
import triton.language as tl
from triton.runtime import interpreter

from monitorgen.kernels.attention.prefill_common import Problem, made
from monitorgen.kernels.attention.prefill_reference import prefill_reference, relative_error
from monitorgen.kernels.attention.prefill_triton import Tiling, launch, specialized

SMALL = Tiling(32, 32, 4, 2)
NARROW = Tiling(32, 16, 4, 2)
TALL = Tiling(16, 64, 4, 2)
WARP = Tiling(64, 32, 4, 2, specialize=True)
HALF, BF16 = torch.float16, torch.bfloat16

# name: batch, heads, KV heads, queries, keys, head size, causal, dtype, tiling
CASES: dict[str, tuple[int, int, int, int, int, int, bool, torch.dtype, Tiling]] = {
    "one key": (1, 1, 1, 1, 1, 64, True, BF16, SMALL),
    "one query of a long prompt": (2, 4, 2, 1, 97, 64, True, HALF, SMALL),
    "one query, all keys": (1, 8, 1, 1, 130, 128, False, BF16, TALL),
    "54 causal": (2, 3, 3, 54, 54, 64, True, HALF, SMALL),
    "54 full": (1, 4, 1, 54, 54, 128, False, BF16, NARROW),
    "97 causal": (1, 6, 2, 97, 97, 128, True, BF16, TALL),
    "97 causal, narrow blocks": (1, 2, 1, 97, 97, 64, True, HALF, NARROW),
    "97 full, on the device": (1, 2, 2, 97, 97, 64, False, HALF, WARP),
    "130 causal, on the device": (1, 5, 1, 130, 130, 64, True, BF16, WARP),
    "130 full": (3, 2, 1, 130, 130, 64, False, HALF, SMALL),
    "an end of a prompt": (1, 4, 2, 54, 130, 64, True, BF16, NARROW),
    "blocks that fit": (1, 2, 1, 64, 64, 64, False, HALF, SMALL),
    "blocks that fit, causal": (1, 2, 1, 64, 128, 64, True, HALF, WARP),
}


def mend_bf16() -> None:
    """Let the interpreter do bf16 as devices do.

    It keeps these numbers as 16-bit integers, multiplies those, and cuts float32 off instead of rounding.
    """
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    multiply, truncate = builder.create_dot, builder.create_fp_trunc

    def widened(operand: Any) -> Any:
        if operand.dtype.scalar != tl.bfloat16:
            return operand
        return handle((operand.data.astype(numpy.uint32) << 16).view(numpy.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        return multiply(self, widened(a), widened(b), *others)

    def create_fp_trunc(self: Any, source: Any, to: Any) -> Any:
        if source.dtype.scalar != tl.float32 or to.scalar != tl.bfloat16:
            return truncate(self, source, to)
        rounded = torch.from_numpy(source.data).bfloat16().view(torch.int16).numpy()
        return handle(rounded.view(numpy.uint16), tl.bfloat16)

    builder.create_dot, builder.create_fp_trunc = create_dot, create_fp_trunc


def poisoned(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers as a view with NaN all around: what a kernel reads beyond a head's rows shows."""
    batch, heads, tokens, dim = tensor.shape
    room = torch.full((batch, tokens + 3, heads + 1, dim), torch.nan, dtype=tensor.dtype)
    view = room[:, :tokens, :heads].transpose(1, 2)
    view.copy_(tensor)
    return view


def one_case(case: tuple[int, int, int, int, int, int, bool, torch.dtype, Tiling]) -> dict[str, Any]:
    """Both errors, and whether what surrounds the output is as it was."""
    *sizes, dtype, tiling = case
    problem = Problem(*sizes)
    q, k, v = made(problem, dtype=dtype, device=torch.device("cpu"), seed=len(sizes) + problem.queries)
    want, want_lse = prefill_reference(q, k, v, causal=problem.causal)
    room = torch.full((problem.batch, problem.heads + 1, problem.queries + 2, problem.dim), 7.0, dtype=dtype)
    out = room[:, : problem.heads, : problem.queries]
    out.fill_(torch.nan)
    _, lse, compiled = launch(
        poisoned(q), poisoned(k), poisoned(v), causal=problem.causal, tiling=tiling, out=out, lse=True
    )
    assert lse is not None
    outside = torch.ones(room.shape, dtype=torch.bool)
    outside[:, : problem.heads, : problem.queries] = False
    return {
        "error": relative_error(out, want),
        "lse": float((lse - want_lse).abs().max()),
        "kept": bool((room[outside] == 7.0).all()),
        "specialized": specialized(compiled),
        "dtype": str(dtype),
    }


def scaled() -> float:
    """The error with a scale of one's own, no log-sum-exp and no given output."""
    q, k, v = made(Problem(1, 2, 1, 20, 40, 64, True), dtype=HALF, device=torch.device("cpu"), seed=3)
    want, _ = prefill_reference(q, k, v, causal=True, scale=0.5)
    found, lse, _ = launch(q, k, v, causal=True, scale=0.5, tiling=SMALL)
    assert lse is None
    return relative_error(found, want)


def main() -> int:
    """All cases, by name."""
    torch.set_num_threads(1)
    mend_bf16()
    cases = {name: one_case(case) for name, case in CASES.items()}
    json.dump({"cases": cases, "scaled": scaled()}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
