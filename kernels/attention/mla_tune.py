"""Finds the fastest configurations of the Triton MLA kernel on this GPU, and writes them as JSON.

Candidates are compiled by several processes at a time beforehand, into Triton's cache on disk.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import torch

from monitorgen.kernels.attention import mla_triton
from monitorgen.kernels.attention.mla_inputs import Inputs, make_inputs
from monitorgen.kernels.attention.mla_reference import mla_reference
from monitorgen.kernels.attention.mla_timing import flush_buffer, replay_seconds
from monitorgen.kernels.attention.mla_triton import Config, default_config
from monitorgen.kernels.command import run
from monitorgen.kernels.decode.graphs import cuda
from monitorgen.kernels.workload import UsageError

MOST_ERROR = 4e-3  # relative norm, in 16 bits

# Each holds at least two blocks in the 227 KB of shared memory that a program of Hopper may take.
_FEW = (
    Config(16, 64, warps=8, stages=3, tma=False),
    Config(16, 64, warps=8, stages=3),
    Config(16, 32, warps=8, stages=4, tma=False),
    Config(16, 32, warps=4, stages=5, tma=False),
    Config(64, 64, warps=8, stages=2),
)
_MANY = (
    Config(64, 64, warps=8, stages=2),
    Config(64, 64, warps=8, stages=2, tma=False),
    Config(64, 32, warps=8, stages=4, tma=False),
)


def candidates(heads: int) -> tuple[Config, ...]:
    """Configurations worth trying for a number of heads, the default first."""
    chosen = _FEW if heads <= 32 else _MANY
    return tuple(dict.fromkeys((default_config(heads), *chosen)))


def caller(inputs: Inputs, config: Config | None) -> Callable[[], Any]:
    """What calls the kernel on some inputs with a configuration, into buffers of its own."""
    batch, heads, _ = inputs.q.shape
    planned = mla_triton.plan(
        batch, heads, inputs.cache.shape[1], inputs.table.shape[1], device=inputs.q.device, config=config
    )
    out = inputs.q.new_empty(batch, heads, 512)
    lse = torch.empty(batch, heads, dtype=torch.float32, device=inputs.q.device)
    return lambda: mla_triton.run(
        planned, inputs.q, inputs.cache, inputs.table, inputs.lengths, out=out, lse=lse
    )


def compile_one(heads: int, config: Config) -> str:
    """Compile a configuration by running it on a few tokens; what went wrong, or nothing."""
    try:
        inputs = make_inputs([200, 0, 65], heads)
        out = caller(inputs, config)()
        wanted, _ = mla_reference(inputs.q, inputs.cache, inputs.table, inputs.lengths)
        error = float((out.double() - wanted).norm() / wanted.norm())
        if not error < MOST_ERROR:
            return f"wrong by {error:.2g}"
    except Exception as error:  # the parent process tells it; other configurations go on
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def compile_all(pairs: Iterable[tuple[int, Config]], workers: int = 8) -> dict[tuple[int, Config], str]:
    """Compile configurations for numbers of heads in processes; what went wrong with each, or nothing."""
    listed = list(dict.fromkeys(pairs))
    context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
    with ProcessPoolExecutor(min(workers, len(listed)), mp_context=context) as pool:
        failures = pool.map(compile_one, *zip(*listed, strict=True))
        return dict(zip(listed, failures, strict=True))


def tune(
    heads: int, batch: int, context: int, say: Callable[[str], None], skip: Iterable[Config] = ()
) -> dict[Config, float]:
    """Seconds of each candidate at a size, the fastest first; those that the GPU cannot hold are left out."""
    inputs, flush, times = make_inputs([context] * batch, heads), flush_buffer(), {}
    left_out = set(skip)
    for config in candidates(heads):
        if config in left_out:
            continue
        try:
            seconds = replay_seconds(caller(inputs, config), flush)
        except Exception as error:
            # Triton says so for too much shared memory; anything else is a fault.
            if type(error).__name__ != "OutOfResources":
                raise
            say(f"{heads} heads {config}: {str(error).splitlines()[0]}")
            continue
        times[config] = seconds
        rate, work = inputs.bytes_moved / seconds / 1e9, inputs.flops / seconds / 1e12
        say(
            f"{heads} heads, {batch} x {context}: {seconds * 1e6:9.1f} us {rate:6,.0f} GB/s "
            f"{work:5,.0f} TFLOP/s {config}"
        )
    return dict(sorted(times.items(), key=lambda item: item[1]))


@click.command(context_settings={"max_content_width": 110})
@click.option("--heads", default="16,128", show_default=True, help="Numbers of heads to tune for.")
@click.option("--batch", type=click.IntRange(1), default=64, show_default=True, help="Requests.")
@click.option("--context", type=click.IntRange(1), default=4096, show_default=True, help="Tokens of each.")
@click.option("--out", type=click.Path(), required=True, help="The file to write.")
def command(heads: str, batch: int, context: int, out: str) -> int:
    """Find the fastest configurations of the Triton MLA kernel on this GPU."""
    if not torch.cuda.is_available():
        raise UsageError("tuning needs a CUDA device")
    try:
        numbers = [int(number) for number in heads.split(",")]
    except ValueError:
        raise UsageError(f"--heads {heads!r}: give whole numbers with commas between") from None
    failures = compile_all((number, config) for number in numbers for config in candidates(number))
    for (number, config), failure in failures.items():
        if failure:
            click.echo(f"{number} heads {config}: {failure}")
    found = []
    for number in numbers:
        skip = [config for (of, config), failure in failures.items() if of == number and failure]
        times = tune(number, batch, context, click.echo, skip)
        found += [
            {"heads": number, "config": dataclasses.asdict(one), "seconds": s} for one, s in times.items()
        ]
    result = {"device": cuda.get_device_name(), "batch": batch, "context": context, "configs": found}
    Path(out).write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    code: int = run(command, argv, "mla_tune")
    return code


if __name__ == "__main__":
    sys.exit(main())
