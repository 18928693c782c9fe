"""Runs paged GQA decode in Triton's interpreter on poisoned batches. Prints one JSON object.

Run as a program, because the interpreter must be chosen before Triton is imported.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import torch

from monitorgen.kernels.attention import reference
from monitorgen.kernels.attention.paged_case import FP8
from monitorgen.kernels.attention.paged_checks import Check, compare, plan_of
from monitorgen.kernels.attention.paged_gqa_tuning import Tuning

ODD = (97, 0, 54, 1)
CUT = Tuning(block=32, unit=16, least=32)
TWO = replace(CUT, fused=False)
BASE = Check(4, ODD, heads=8, kv_heads=2, head_dim=64, tuning=CUT, programs=7)
HALF = torch.float16

CHECKS = {
    "long, one sequence": replace(
        BASE, batch=1, lengths=[4095], heads=4, kv_heads=1, programs=5, tuning=Tuning()
    ),
    "long among short": replace(BASE, batch=3, lengths=[3, 1027, 0], heads=2, kv_heads=1, page=64),
    "no groups": replace(BASE, batch=3, heads=2, page=32),
    "batch 12": replace(BASE, batch=12, page=64),
    "batch 17": replace(BASE, batch=17, page=32, programs=29),
    "groups of 16": replace(BASE, heads=32),
    "groups of 3": replace(BASE, heads=6),
    "head 128": replace(BASE, head_dim=128),
    "head 256": replace(BASE, head_dim=256, kv_heads=1, heads=4),
    "fp16": replace(BASE, dtype=HALF),
    "fp8": replace(BASE, kv_dtype=FP8),
    "fp8, fp16 queries": replace(BASE, kv_dtype=FP8, dtype=HALF),
    "window": replace(BASE, window=20, dtype=HALF),
    "window of a token": replace(BASE, window=1, dtype=HALF),
    "soft cap": replace(BASE, softcap=3.0, dtype=HALF),
    "window and soft cap in two kernels": replace(BASE, window=33, softcap=5.0, tuning=TWO, dtype=HALF),
    "two kernels": replace(BASE, tuning=TWO),
    "two kernels, fp8": replace(BASE, tuning=TWO, kv_dtype=FP8),
    "one program": replace(BASE, programs=1),
    "more programs than work": replace(BASE, programs=300, tuning=replace(CUT, least=1)),
    "no toll": replace(BASE, batch=6, tuning=replace(CUT, toll=0), programs=10),
    "a toll larger than a share": replace(BASE, tuning=replace(CUT, toll=160, least=16), programs=30),
    "cut into equal parts": replace(BASE, batch=3, lengths=[97], programs=14),
    "some to a chunk": replace(BASE, batch=6, lengths=[40], programs=7),
    "wide units": replace(BASE, tuning=replace(CUT, unit=64, least=64), programs=5),
    "all empty": replace(BASE, batch=3, lengths=[0]),
}


def wrong_input() -> dict[str, Any]:
    """Lengths beyond the table or below 0, and pages that do not exist: NaN there, and nowhere else."""
    check = replace(BASE, lengths=[54, 97, 33, 64])
    case, made = check.case("cpu"), plan_of(check, "cpu")
    want = reference.paged_decode(case.q, case.k_pages, case.v_pages, case.table, case.lengths).out
    found = {}
    for name, row, column, value in (
        ("beyond", 0, None, 98), ("far beyond", 1, None, 2**31 - 1), ("negative", 2, None, -1),
        ("no page", 3, 2, case.k_pages.shape[0]), ("negative page", 1, 3, -1), ("far page", 0, 0, 2**31 - 1),
    ):  # fmt: skip
        table, lengths = case.table.clone(), case.lengths.clone()
        if column is None:
            lengths[row] = value
        else:
            table[row, column] = value
        lse = torch.zeros(case.q.shape[:2])
        out = made.run(case.q, case.k_pages, case.v_pages, table, lengths, lse=lse)
        others = [index for index in range(check.batch) if index != row]
        found[name] = {
            "nan": bool(out[row].isnan().all() and lse[row].isnan().all()),
            "others": reference.relative_norm(out[others], want[others]),
        }
    return found


def changed_lengths() -> list[float]:
    """One plan, lengths changed between runs: distances from the reference."""
    check = replace(BASE, lengths=[97, 54, 80, 96], dtype=HALF)
    case, made = check.case("cpu"), plan_of(check, "cpu")
    found = []
    for lengths in ([97, 54, 80, 96], [1, 0, 80, 2], [0, 0, 0, 0], [17, 54, 16, 96]):
        there = torch.tensor(lengths, dtype=torch.int32)
        out = made.run(case.q, case.k_pages, case.v_pages, case.table, there)
        want = reference.paged_decode(case.q, case.k_pages, case.v_pages, case.table, there)
        found.append(reference.relative_norm(out, want.out))
    assert not made.arrived.any()  # as a launch expects it
    return found


def scale_of_a_tensor() -> float:
    """fp8 with one scale for all heads, and scores scaled by hand."""
    check = replace(BASE, kv_dtype=FP8, dtype=HALF)
    case, made = check.case("cpu"), replace(plan_of(check, "cpu"), scale=0.3)
    one, two = torch.tensor([1.7]), torch.tensor([0.6])
    out = made.run(case.q, case.k_pages, case.v_pages, case.table, case.lengths, k_scale=one, v_scale=two)
    want = reference.paged_decode(
        case.q, case.k_pages, case.v_pages, case.table, case.lengths, scale=0.3, k_scale=one, v_scale=two
    )
    return reference.relative_norm(out, want.out)


def main() -> int:
    """Everything, by name."""
    json.dump(
        {
            "checks": {name: compare(check, "cpu", runs=1) for name, check in CHECKS.items()},
            "wrong": wrong_input(),
            "changed": changed_lengths(),
            "tensor_scale": scale_of_a_tensor(),
        },
        sys.stdout,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
