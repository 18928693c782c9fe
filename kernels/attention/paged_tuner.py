"""Finds the fastest cut of paged GQA decode for shapes on this GPU."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from monitorgen.kernels.attention.paged_case import Case, make_case
from monitorgen.kernels.attention.paged_gqa import Plan, padded, plan
from monitorgen.kernels.attention.paged_gqa_tuning import Tuning, choose, entry, size_class
from monitorgen.kernels.attention.paged_timing import Flush, timed
from monitorgen.kernels.decode.graphs import capture, cuda

DIFFER = 6e-3  # of two ways in bf16, each within 4e-3 of the truth

# Block, warps, stages, programs that an SM holds, one kernel, numbers joined at a time: what was seen to
# compile for sm_90 without spilling.
CUTS = (
    (64, 4, 3, 3, True, 4096),
    (64, 4, 4, 2, True, 8192),
    (64, 4, 5, 1, True, 8192),
    (32, 4, 4, 3, True, 4096),
    (128, 8, 3, 1, True, 8192),
    (64, 4, 4, 2, False, 4096),
    (64, 4, 5, 1, False, 4096),
)


def compiled_cuts() -> Iterator[Tuning]:
    """The cuts that differ in what is compiled, with as many programs for an SM as it holds."""
    for block, warps, stages, held, fused, joined in CUTS:
        yield Tuning(
            block=block,
            least=block,
            warps=warps,
            stages=stages,
            per_sm=held,
            fused=fused,
            pdl=not fused,
            joined=joined,
        )


def candidates(segments: int, context: int, sms: int, even: bool) -> Iterator[Tuning]:
    """Cuts worth trying for `segments` (sequences times KV heads) of `context` tokens on average.

    Other grids and least shares where they make a difference; other tolls for lengths that are not `even`.
    """
    for cut in compiled_cuts():
        for per_sm in sorted({1, cut.per_sm}):
            for least in (cut.block, 4 * cut.block, 16 * cut.block):
                if least > cut.block and least * sms * per_sm < segments * context // 4:
                    continue  # every share is larger anyway
                if least > max(cut.block, context):
                    continue
                for toll in (64,) if even else (0, 64, 160):
                    yield replace(cut, per_sm=per_sm, least=least, toll=toll)


def plan_for(case: Case, tuning: Tuning | None, **how: Any) -> Plan:
    """A plan for a batch as it is."""
    return plan(
        batch=case.q.shape[0], heads=case.q.shape[1], kv_heads=case.k_pages.shape[2],
        head_dim=case.q.shape[2], page_size=case.k_pages.shape[1], max_length=max([1, *case.host_lengths]),
        table_width=case.table.shape[1],
        dtype=case.q.dtype, kv_dtype=case.k_pages.dtype, device=case.q.device, tuning=tuning, **how,
    )  # fmt: skip


def tune_case(
    case: Case, flush: Flush, budget: float
) -> tuple[list[tuple[Tuning, dict[str, float]]], list[tuple[Tuning, str]]]:
    """Every candidate with its microseconds, the best first; and those that failed, with the reason.

    The times are `us`, launched from the host, and `graph_us`, as a replay of a CUDA graph; `worst_ratios`
    says which is best.

    One that comes to another result than the untuned plan has failed, however fast it is.
    """
    sms = cuda.get_device_properties(case.q.device).multi_processor_count
    tensors = (case.q, case.k_pages, case.v_pages, case.table, case.lengths)
    want = plan_for(case, None).run(*tensors).float()
    found, failed = [], []
    lengths, kv_heads = case.host_lengths, case.k_pages.shape[2]
    mean = sum(lengths) // len(lengths)
    for tuning in candidates(len(lengths) * kv_heads, mean, sms, len(set(lengths)) == 1):
        out = torch.full_like(case.q, torch.nan)
        try:
            made = plan_for(case, tuning)
            call = partial(made.run, *tensors, out=out)
            us = {"us": timed(call, flush, budget) * 1e6}
            us["graph_us"] = timed(capture(call).replay, flush, budget) * 1e6
        except Exception as error:
            # Told with the results: a cut may need more shared memory or registers than there are.
            failed.append((tuning, f"{type(error).__name__}: {error}".splitlines()[0][:200]))
            continue
        apart = float((out.float() - want).norm() / want.norm())
        if apart <= DIFFER:
            found.append((tuning, us))
        else:
            failed.append((tuning, f"{apart:.2e} from the untuned plan's result"))
    ratios = worst_ratios([us for _, us in found])
    return [pair for _, pair in sorted(zip(ratios, found, strict=True), key=lambda scored: scored[0])], failed


TIMES = ("us", "graph_us")


def worst_ratios(times: Sequence[Mapping[str, Any]]) -> list[float]:
    """For each cut of a shape the larger of its times over the shape's best: launched, and as a replay.

    So a cut whose launches cost the host much is not taken for its replays, nor the other way round. A kind
    of time that was not measured for every cut does not count.
    """
    kinds = [kind for kind in TIMES if all(kind in cut for cut in times)]
    best = {kind: min(cut[kind] for cut in times) for kind in kinds} if times else {}
    return [max(cut[kind] / best[kind] for kind in kinds) for cut in times]


def variants(batches: Sequence[Sequence[int]], tune: bool) -> list[tuple[int, Tuning]]:
    """What has to be compiled for some batches (lengths of each): (padded batch, tuning)."""
    sms = cuda.get_device_properties(cuda.current_device()).multi_processor_count
    found: dict[tuple[int, Tuning], tuple[int, Tuning]] = {}
    for lengths in batches:
        tuned = choose(128, 2, len(lengths) * 8, max(lengths), sms)
        for cut in (tuned, *(compiled_cuts() if tune else ())):
            size = padded(len(lengths))
            found[size, replace(cut, least=1, toll=0, per_sm=1)] = (size, cut)  # what is not compiled in
    return list(found.values())


def run_tiny(batch: int, tuning: Tuning) -> None:
    """Compile a variant by running it on the smallest batch."""
    case = make_case(
        [1] * batch, heads=32, kv_heads=8, head_dim=128, page_size=16, device="cuda", poison=False
    )
    plan_for(case, tuning).run(case.q, case.k_pages, case.v_pages, case.table, case.lengths)
    cuda.synchronize()


def write_table(path: Path, data: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> None:
    """The table for `paged_gqa_tuning.choose`: for each class of shapes, the cut that is best on average.

    A cut's score at a shape is its worse ratio (`worst_ratios`).
    """
    found: dict[tuple[int, int], dict[Tuning, list[float]]] = defaultdict(lambda: defaultdict(list))
    count: dict[tuple[int, int], int] = defaultdict(int)
    for row in data["tuned"]:
        lengths = shapes[row["shape"]]
        kind = size_class(data["kv_heads"] * len(lengths)), size_class(max(lengths))
        count[kind] += 1
        for cut, ratio in zip(row["times"], worst_ratios(row["times"]), strict=True):
            tuning = Tuning(**{name: value for name, value in cut.items() if name not in TIMES})
            found[kind][tuning].append(ratio)
    lines = []
    for kind, cuts in sorted(found.items()):
        # Only cuts that were tried at every shape of the class can be compared.
        whole = {t: statistics.fmean(map(math.log, r)) for t, r in cuts.items() if len(r) == count[kind]}
        if whole:
            cut = min(whole, key=whole.__getitem__)
            measured = {"over_best": math.exp(whole[cut]), "shapes": count[kind]}
            lines.append(entry(data["head_dim"], 2, *kind, cut, **measured))
    text = {"gpu": data["gpu"], "torch": data["torch"], "tunings": lines}
    path.write_text(json.dumps(text, indent=1) + "\n", "utf-8")
