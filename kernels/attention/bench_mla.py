"""Checks and times MLA decode on one GPU beside FlashMLA: correctness on a grid, then a table of speeds.

FlashMLA (github.com/deepseek-ai/FlashMLA) is taken from the library in vLLM's wheel, `PEERS/fa3/
_flashmla_C.abi3.so`, where the variable PEERS names a folder that has it; without it the columns are empty.
Its scheduling metadata are made once, outside the time; ours are made in every call.

Measured on an H100 (torch 2.11, Triton 3.6), 1 to 128 requests of 1,024 to 16,384 tokens and a ragged batch,
over FlashMLA's speed: at 16 heads CUDA 1.03 to 1.8, Triton 0.90 (ragged) to 1.7. At 128 heads CUDA 0.79
(ragged) to 1.9: 0.84 for 64 x 4,096 tokens, 0.99 for 64 x 16,384, 1.00 for 128 x 16,384; Triton 0.50 to 0.66
at large sizes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import torch

from monitorgen.kernels.attention import flashmla_probe, mla_triton, mla_tune
from monitorgen.kernels.attention.mla_check import WIDTH
from monitorgen.kernels.attention.mla_inputs import Inputs, make_inputs
from monitorgen.kernels.attention.mla_reference import mla_reference
from monitorgen.kernels.attention.mla_timing import flush_buffer, replay_seconds
from monitorgen.kernels.attention.mla_triton import Config
from monitorgen.kernels.command import run
from monitorgen.kernels.decode.graphs import capture, cuda
from monitorgen.kernels.workload import UsageError

BATCHES = (1, 4, 16, 64, 128)
CONTEXTS = (1024, 4096, 16384)
RAGGED = [17 * (row * row % 61) + (4000 if row % 9 == 0 else 3) for row in range(64)]
GRID: tuple[tuple[list[int], int, int], ...] = (
    ([0, 1, 54, 97], 16, 64),
    ([4095, 8193, 0, 1, 64, 65], 16, 64),
    ([300] * 12, 24, 64),
    ([97, 4095, 0], 64, 64),
    ([1, 54, 97, 300, 4095, 8193, 0, 128], 128, 64),
    ([1000] * 64, 128, 64),
    (RAGGED, 16, 64),
    ([4095, 54, 0, 8193], 16, 16),
    ([4095, 54, 0, 8193], 128, 32),
)
MOST_ERROR = 4e-3
PROBE_SECONDS = 75.0  # building the CUDA kernel takes some 10 s of it


def poison(inputs: Inputs) -> None:
    """NaN into every token beyond a length, and a page number that is not there where none is needed."""
    page = inputs.cache.shape[1]
    for row, length in enumerate(inputs.held):
        pages = -(-length // page)
        if length % page:
            inputs.cache[int(inputs.table[row, pages - 1]), length % page :] = torch.nan
        inputs.table[row, pages:] = -(10**6)


def arms(names: Sequence[str], configs: dict[int, Config]) -> dict[str, Callable[..., Any]]:
    """What plans each arm: given sizes as `mla_triton.plan` takes them, returns (plan, run)."""

    def triton(batch: int, heads: int, page: int, width: int) -> tuple[Any, Any]:
        return mla_triton.plan(batch, heads, page, width, config=configs.get(heads)), mla_triton.run

    def hopper(batch: int, heads: int, page: int, width: int) -> tuple[Any, Any]:
        from monitorgen.kernels.attention import flashmla

        return flashmla.plan(batch, heads, page, width), flashmla.run

    return {name: plan for name, plan in (("triton", triton), ("cuda", hopper)) if name in names}


def check_one(make: Callable[..., Any], inputs: Inputs) -> dict[str, Any]:
    """Errors against the reference, whether two runs are equal, and whether a graph serves other lengths."""
    batch, heads, _ = inputs.q.shape
    plan, call = make(batch, heads, inputs.cache.shape[1], inputs.table.shape[1])
    tensors = (inputs.q, inputs.cache, inputs.table, inputs.lengths)
    out = inputs.q.new_full((batch, heads, 512), torch.nan)
    lse = torch.full((batch, heads), torch.nan, device="cuda")

    def step() -> None:
        call(plan, *tensors, out=out, lse=lse)

    def errors() -> tuple[float, float]:
        wanted, sums = mla_reference(*tensors)
        some = wanted.norm().clamp_min(1e-30)
        error = float((out.double() - wanted).norm() / some)
        apart = (lse.double() - sums)[sums > -torch.inf]
        same = bool(((lse == -torch.inf) == (sums == -torch.inf)).all())
        return error, float(apart.abs().max()) if same and apart.numel() else 0.0 if same else float("inf")

    step()
    error, lse_error = errors()
    first = out.clone()
    out.fill_(torch.nan)
    step()
    graph = capture(step)
    told = {"error": error, "lse_error": lse_error, "deterministic": torch.equal(first, out)}
    inputs.lengths.copy_((inputs.lengths - 37).clamp_min_(0))
    out.fill_(torch.nan)
    graph.replay()
    told["graph_error"], told["graph_lse_error"] = errors()
    inputs.lengths.copy_(torch.tensor(inputs.held))
    worst = max(told["error"], told["graph_error"])
    sums = max(told["lse_error"], told["graph_lse_error"])
    told["good"] = bool(worst < MOST_ERROR and sums < 1e-3 and told["deterministic"])
    return told


def check(makers: dict[str, Callable[..., Any]]) -> list[dict[str, Any]]:
    """Every arm on the grid; one that fails is told and the rest goes on."""
    rows = []
    for lengths, heads, page in GRID:
        for name, make in makers.items():
            if name == "cuda" and page != 64:
                continue
            row: dict[str, Any] = {"arm": name, "lengths": lengths[:8], "heads": heads, "page": page}
            inputs = make_inputs(lengths, heads, page, device="cuda")
            poison(inputs)
            row |= attempt(lambda make=make, inputs=inputs: check_one(make, inputs))  # type: ignore[misc]
            rows.append(row)
            click.echo(
                f"check {name:6} h{heads:<3} p{page} {lengths[:6]!s:34} "
                + (row.get("failure") or verdict(row))
            )
    return rows


def verdict(row: dict[str, Any]) -> str:
    """What the check of an arm found, in words."""
    return (
        f"{'ok ' if row['good'] else 'BAD'} {row['error']:.1e} lse {row['lse_error']:.1e} "
        f"graph {row['graph_error']:.1e} {row['graph_lse_error']:.1e} same {row['deterministic']}"
    )


def attempt(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What some work found, or its failure: a shape that fails must not cost the others."""
    try:
        return work()
    except Exception as error:
        return {"failure": f"{type(error).__name__}: {str(error)[:300]}"}


def flashmla_call(inputs: Inputs) -> Callable[[], Any]:
    """FlashMLA's dense decode on the same inputs, its metadata made by a first call."""
    cache, q = inputs.cache.unsqueeze(2), inputs.q.unsqueeze(1)
    forward = torch.ops._flashmla_C.dense_decode_fwd
    scale = WIDTH**-0.5
    made = forward(q, cache, 512, inputs.lengths, inputs.table, scale, True, None, None, None)
    meta, splits = made[2], made[3]
    return lambda: forward(q, cache, 512, inputs.lengths, inputs.table, scale, True, meta, splits, None)


def load_flashmla() -> bool:
    """Load FlashMLA's library, if PEERS has it."""
    path = Path(os.environ.get("PEERS", "peers")) / "fa3" / "_flashmla_C.abi3.so"
    try:
        ops: Any = torch.ops
        ops.load_library(str(path))
    except OSError as error:
        click.echo(f"no FlashMLA beside ours: {str(error)[:150]}")
        return False
    return True


def time_one(
    makers: dict[str, Callable[..., Any]], lengths: list[int], heads: int, peer: bool, flush: Any
) -> dict[str, Any]:
    """Microseconds of each arm and of FlashMLA at one size."""
    inputs = make_inputs(lengths, heads)
    batch = len(lengths)
    row: dict[str, Any] = {"batch": batch, "heads": heads, "longest": max(lengths), "tokens": sum(lengths)}
    calls: dict[str, Callable[[], Any]] = {}
    for name, make in makers.items():

        def call(make: Callable[..., Any] = make) -> Callable[[], Any]:
            plan, function = make(batch, heads, 64, inputs.table.shape[1])
            out = inputs.q.new_empty(batch, heads, 512)
            lse = torch.empty(batch, heads, device="cuda")
            return lambda: function(
                plan, inputs.q, inputs.cache, inputs.table, inputs.lengths, out=out, lse=lse
            )

        calls[name] = call
    if peer:
        calls["flashmla"] = lambda: flashmla_call(inputs)
    for name, prepare in calls.items():
        found = attempt(lambda prepare=prepare: {"s": replay_seconds(prepare(), flush)})  # type: ignore[misc]
        if "failure" in found:
            row[f"{name}_failure"] = found["failure"]
            continue
        row[f"{name}_us"] = found["s"] * 1e6
        row[f"{name}_gb_per_s"] = inputs.bytes_moved / found["s"] / 1e9
        row[f"{name}_tflop_per_s"] = inputs.flops / found["s"] / 1e12
    return row


def show(row: dict[str, Any]) -> str:
    """A line of the table."""
    parts = [f"h{row['heads']:<3} b{row['batch']:<3} n{row['longest']:<5}"]
    for name in ("triton", "cuda", "flashmla"):
        if f"{name}_us" in row:
            ratio = f" x{row['flashmla_us'] / row[f'{name}_us']:.2f}" if "flashmla_us" in row else ""
            parts.append(
                f"{name} {row[f'{name}_us']:.1f}us {row[f'{name}_gb_per_s']:.0f}GB/s "
                f"{row[f'{name}_tflop_per_s']:.0f}TF{ratio if name != 'flashmla' else ''}"
            )
        elif f"{name}_failure" in row:
            parts.append(f"{name} FAIL {row[f'{name}_failure'][:80]}")
    return " | ".join(parts)


def configure(heads: Sequence[int], found: dict[str, Any]) -> dict[int, Config]:
    """Compile and time the candidates; the fastest for each number of heads. Few heads: 24 is like 16."""
    pairs = [(count, config) for count in heads for config in mla_tune.candidates(count)]
    pairs += [(count, mla_triton.default_config(count)) for _, count, _ in GRID]
    failures = mla_tune.compile_all(pairs)
    best: dict[int, Config] = {}
    for count in heads:
        skip = [config for (of, config), failure in failures.items() if of == count and failure]
        for config in skip:
            click.echo(f"tune h{count} {config}: FAIL {failures[count, config][:120]}")
        times = attempt(
            lambda count=count, skip=skip: {"times": mla_tune.tune(count, 64, 4096, click.echo, skip)}  # type: ignore[misc]
        )
        if times.get("times"):
            best[count] = next(iter(times["times"]))
            found["tuned"][str(count)] = {str(config): s * 1e6 for config, s in times["times"].items()}
        else:
            click.echo(f"tune h{count}: {times}")
    return best


def time_all(
    makers: dict[str, Callable[..., Any]], heads: Sequence[int], most_seconds: float
) -> list[dict[str, Any]]:
    """The grid of sizes and one ragged batch, until the time is used up."""
    flush, start, peer = flush_buffer(), time.monotonic(), load_flashmla()
    rows: list[dict[str, Any]] = []
    sizes = [[context] * batch for context in CONTEXTS for batch in BATCHES]
    for lengths in [*sizes, RAGGED]:
        for count in heads:
            if time.monotonic() - start > most_seconds:
                click.echo("out of time: the rest of the grid is not timed")
                return rows
            rows.append(time_one(makers, list(lengths), count, peer, flush))
            click.echo(show(rows[-1]))
            cuda.empty_cache()
    return rows


@click.command(context_settings={"max_content_width": 110})
@click.option("--arms", "names", default="triton,cuda", show_default=True, help="Arms, with commas between.")
@click.option("--heads", default="16,128", show_default=True, help="Numbers of heads to time.")
@click.option("--tune/--no-tune", default=True, show_default=True, help="Find Triton's configuration first.")
@click.option("--seconds", type=float, default=30.0, show_default=True, help="Time for the table of speeds.")
@click.option("--out", type=click.Path(), help="Write the results to a file.")
def command(names: str, heads: str, tune: bool, seconds: float, out: str | None) -> int:
    """Check MLA decode on a grid, then time it beside FlashMLA. Exit code 1 if a result is wrong."""
    if not torch.cuda.is_available():
        raise UsageError("checking and timing MLA decode need a CUDA device")
    try:
        counts = [int(number) for number in heads.split(",")]
    except ValueError:
        raise UsageError(f"--heads {heads!r}: give whole numbers with commas between") from None
    wanted = names.split(",")
    if "cuda" in wanted:
        good, said = flashmla_probe.probe(PROBE_SECONDS)
        click.echo(said)
        if not good:
            wanted.remove("cuda")
            click.echo("the CUDA kernel is left out")
    found: dict[str, Any] = {"gpu": cuda.get_device_name(), "torch": torch.__version__, "tuned": {}}
    start = time.monotonic()
    configs = configure(counts, found) if tune and "triton" in wanted else {}
    click.echo(f"{time.monotonic() - start:.0f} s")
    makers = arms(wanted, configs)
    found["checks"] = check(makers)
    click.echo(f"{time.monotonic() - start:.0f} s")
    wrong = {row["arm"] for row in found["checks"] if not row.get("good")} | (
        set(names.split(",")) - set(wanted)
    )
    found["rows"] = time_all(makers, counts, seconds)
    click.echo(f"{time.monotonic() - start:.0f} s; wrong: {', '.join(sorted(wrong)) or 'nothing'}")
    if out is not None:
        Path(out).write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return 1 if wrong else 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    code: int = run(command, argv, "bench_mla")
    return code


if __name__ == "__main__":
    sys.exit(main())
