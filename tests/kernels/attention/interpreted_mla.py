"""Runs MLA decode in Triton's interpreter and compares it with the float64 reference.

Run as a program, because the interpreter must be chosen before Triton is imported. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

import torch
import triton.language as tl
from mla_cases import distance, lse_distance, made
from triton.runtime import interpreter

from monitorgen.kernels.attention import mla_triton
from monitorgen.kernels.attention.mla_reference import mla_reference
from monitorgen.kernels.attention.mla_triton import Config

_create_dot = interpreter.InterpreterBuilder.create_dot


def _dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
    """The interpreter multiplies the bits of bfloat16 as integers; a tensor core widens them first."""
    wide = [
        interpreter.TensorHandle((x.data.astype("uint32") << 16).view("float32"), tl.float32)
        if x.dtype.scalar == tl.bfloat16
        else x
        for x in (a, b)
    ]
    return _create_dot(self, *wide, *rest)


_cast = interpreter.InterpreterBuilder.cast_impl


def _cast_impl(self: Any, source: Any, kind: Any) -> Any:
    """The interpreter cuts float32 off to bfloat16; the device rounds to the nearest, half of that error."""
    if source.dtype.scalar == tl.float32 and kind.scalar == tl.bfloat16:
        rounded = torch.from_numpy(source.data.copy()).bfloat16().view(torch.uint16).numpy()
        return interpreter.TensorHandle(rounded, tl.bfloat16)
    return _cast(self, source, kind)


builder: Any = interpreter.InterpreterBuilder
builder.create_dot, builder.cast_impl = _dot, _cast_impl

TWELVE = [0, 1, 54, 97, 0, 63, 64, 65, 128, 16, 33, 0]


def case(
    lengths: list[int],
    heads: int,
    page: int,
    config: Config,
    programs: int,
    dtype: Any = torch.bfloat16,
    again: bool = False,
) -> dict[str, Any]:
    """Distances of output and LSE; with `again`, whether a second run without LSE has the same output."""
    q, cache, table, held = made(lengths, heads, page, dtype=dtype)
    plan = mla_triton.plan(
        len(lengths), heads, page, table.shape[1], dtype=dtype, device="cpu", config=config, programs=programs
    )
    found = []
    for want_lse in (True, False)[: 1 + again]:
        plan.parts.fill_(torch.nan)
        plan.part_lse.fill_(torch.nan)
        out = torch.full((len(lengths), heads, 512), torch.nan, dtype=dtype)
        lse = torch.full((len(lengths), heads), torch.nan) if want_lse else None
        mla_triton.run(plan, q, cache, table, held, scale=0.05, out=out, lse=lse)
        found.append((out, lse))
    out, lse = found[0]
    wanted, wanted_lse = mla_reference(q, cache, table, held, 0.05)
    empty = [row for row, length in enumerate(lengths) if length == 0]
    return {
        "out": distance(out, wanted),
        "lse": lse_distance(lse, wanted_lse),
        "zero": bool((out[empty] == 0).all()),
        "same": torch.equal(out, found[1][0]) if again else None,
        "tma": plan.config.tma,
    }


def clamped() -> bool:
    """Whether lengths below 0 and beyond the table act like 0 and the table's."""
    q, cache, table, _ = made([64, 128], 16, 32)
    table = table[:, :2].contiguous()
    plan = mla_triton.plan(2, 16, 32, 2, device="cpu", config=Config(16, 32), programs=2)
    lengths = [torch.tensor(pair, dtype=torch.int32) for pair in ([-5, 10**6], [0, 64])]
    outs = [mla_triton.run(plan, q, cache, table, one) for one in lengths]
    return torch.equal(*outs)


def main() -> int:
    """All cases, by name."""
    plain = Config(16, 64)
    cases = {
        "one token": case([1], 16, 64, plain, 3),
        "one long request over five programs": case([300], 16, 64, plain, 5, again=True),
        "more parts than are joined at a time": case([300], 16, 16, Config(16, 16), 19),
        "more programs than blocks": case([54], 16, 64, plain, 7),
        "runs of at least two blocks": case([300, 97], 16, 64, Config(16, 64, least=2), 7),
        "three requests, one program": case([97, 0, 54], 16, 64, plain, 1),
        "three requests, three programs": case([97, 0, 300], 16, 64, plain, 3, again=True),
        "twelve requests, pages of 16": case(TWELVE, 16, 16, Config(16, 32), 4, again=True),
        "twelve requests, pages of 32": case(TWELVE, 16, 32, plain, 5),
        "pages of 64 in blocks of 32": case([97, 300, 1], 16, 64, Config(16, 32), 4),
        "24 heads": case([54, 97, 1], 24, 64, plain, 2),
        "64 heads": case([97, 0, 1], 64, 64, Config(64, 64), 2),
        "128 heads": case([65, 54], 128, 64, Config(64, 64), 3),
        "fp16": case([97, 1, 0], 16, 64, plain, 2, torch.float16),
        "nothing held": case([0, 0, 0], 16, 64, plain, 2),
    }
    json.dump({"cases": cases, "clamped": clamped()}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
