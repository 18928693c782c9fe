"""How fast the decoder decodes: tokens/s and GB/s by batch size, beside the measured copy rate.

`python -m monitorgen.kernels.decode.decode_throughput --batches 1,8,64 --json FILE`. Each way to compute a
step is measured on the same weights; its logits are first compared with the torch reference's.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch

from monitorgen.kernels.command import run
from monitorgen.kernels.counters import DecodeCounters
from monitorgen.kernels.decode.device import copy_rate, measure
from monitorgen.kernels.decode.graphs import cuda
from monitorgen.kernels.decode.options import OPS, build_ops, build_weights, model_options, resolve
from monitorgen.kernels.decode.stepper import Stepper, logits_tolerance, make_stepper
from monitorgen.kernels.decode.torch_ops import TorchOps
from monitorgen.kernels.decode.weights import Weights
from monitorgen.kernels.export import Telemetry, serve
from monitorgen.kernels.workload import UsageError


def numbers(text: str, flag: str) -> list[int]:
    """Whole numbers from 1 with commas between. Raises UsageError naming the flag."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise UsageError(f"{flag} {text!r}: give whole numbers from 1 with commas between")
    return found


def spread(samples: Sequence[float]) -> dict[str, float]:
    """Median, least and most of some samples, and their quartiles' distance over the median."""
    low, _, high = statistics.quantiles(samples, n=4)
    median = statistics.median(samples)
    return {"median": median, "min": min(samples), "max": max(samples), "spread": (high - low) / median}


def measure_way(
    weights: Weights, ops: str, batch: int, flags: Mapping[str, Any], copy: float, reference: torch.Tensor
) -> dict[str, Any]:
    """One way to compute a step at one batch size: seconds a step, tokens/s, GB/s, share of the copy rate."""
    made, function = build_ops({**flags, "ops": ops}, weights, batch)
    _take_tiles(made, flags["tiles"], batch)
    graph = weights.device.type == "cuda" and not flags["no_graphs"]
    stepper = make_stepper(
        weights, made, batch, context=flags["context"], tokens=flags["tokens"], graph=graph,
        function=function, seed=flags["seed"],
    )  # fmt: skip
    logits = stepper.logits()
    distance = float((logits - reference).norm() / reference.norm())
    agreed = float((logits.argmax(-1) == reference.argmax(-1)).float().mean())
    seconds = [t / flags["tokens"] for t in measure(stepper.step, weights.device, flags["repeats"])]
    found = spread(seconds)
    rate = stepper.bytes_moved / flags["tokens"] / found["median"]
    stepper.close()
    return {
        "ops": ops, "batch": batch, "graph": graph, "step_seconds": found, "samples": seconds,
        "tokens_per_second": batch / found["median"], "bytes_per_second": rate, "share_of_copy": rate / copy,
        "bytes_per_step": stepper.bytes_moved / flags["tokens"], "logits_distance": distance,
        "tokens_agreed": agreed,
    }  # fmt: skip


def _take_tiles(ops: Any, path: str | None, batch: int) -> None:
    """Give tuned tiles to Triton ops: those of `tune`'s file for the least row count that holds the batch."""
    if path is None or ops.name != "triton":
        return
    from monitorgen.kernels.decode.tune import tiles_for

    ops.tiles |= tiles_for(Path(path), batch, ops)


def reference_logits(weights: Weights, batch: int, flags: Mapping[str, Any]) -> torch.Tensor:
    """The logits of the torch reference on the same start, [B, V] on the host."""
    stepper = make_stepper(
        weights, TorchOps(weights), batch, context=flags["context"], tokens=flags["tokens"], graph=False,
        seed=flags["seed"],
    )  # fmt: skip
    found: torch.Tensor = stepper.logits()
    return found


def measure_telemetry(stepper: Stepper, steps: int, rounds: int) -> dict[str, Any]:
    """Tokens/s of a loop that takes each step's tokens, with telemetry and without, in turns.

    With it, every step is counted and an exporter is scraped ten times a second, which is far more often
    than a real one. `loss` is the share of tokens/s that it costs, by medians.
    """
    counters = DecodeCounters(stepper.weights.config.name, mode="full", graphs=stepper.graph is not None)
    found: dict[str, list[float]] = {"off": [], "on": []}
    with serve([Telemetry([counters])], 0) as port, _scraped(port):
        for _ in range(rounds):
            for name, counted in (("off", None), ("on", counters)):
                found[name].append(steps * stepper.batch / _loop(stepper, steps, counted))
    loss = 1 - statistics.median(found["on"]) / statistics.median(found["off"])
    return {"tokens_per_second": found, "loss": loss, "steps": steps, "batch": stepper.batch}


class _scraped:  # noqa: N801 - a context manager, read as a verb
    """Scrapes an exporter ten times a second while the block runs."""

    def __init__(self, port: int) -> None:
        self.url, self.stop = f"http://127.0.0.1:{port}/metrics", threading.Event()
        self.thread = threading.Thread(target=self.scrape, daemon=True)

    def scrape(self) -> None:
        """Until told to stop."""
        while not self.stop.wait(0.1):
            with urllib.request.urlopen(self.url, timeout=5) as answer:
                answer.read()

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()


def _loop(stepper: Stepper, steps: int, counters: DecodeCounters | None) -> float:
    """Seconds of `steps` steps whose tokens reach the host, one step behind; runs start again in between."""
    on_cuda = stepper.device == "cuda"
    out = [torch.empty(stepper.batch, dtype=torch.int64, pin_memory=on_cuda) for _ in range(2)]
    done = [cuda.Event() for _ in range(2)] if on_cuda else []
    stepper.reset()
    if on_cuda:
        cuda.synchronize()
    batch, clock = stepper.batch, time.perf_counter
    started = before = clock()
    for index in range(steps):
        if index % stepper.tokens == 0:
            stepper.reset()
        stepper.one()
        out[index % 2].copy_(stepper.chosen, non_blocking=True)
        if on_cuda:
            done[index % 2].record()
            if index:
                done[(index - 1) % 2].synchronize()
        if counters is not None:
            now = clock()
            counters.step(batch, batch, now - before)
            if stepper.graph is not None:
                counters.replayed(batch)
            before = now
    if on_cuda:
        cuda.synchronize()
    return clock() - started


def report(flags: Mapping[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """Everything that the flags ask for, said line by line as it is found."""
    device, config, dtype = resolve(flags)
    batches, names = numbers(flags["batches"], "--batches"), flags["ops"].split(",")
    if unknown := [name for name in names if name not in OPS]:
        raise UsageError(f"--ops {flags['ops']}: no {', '.join(unknown)}; there are {', '.join(OPS)}")
    largest, longest = max(batches), flags["context"] + flags["tokens"] + 1
    reserve = 2 * (largest + 1) * longest * config.token_numbers * dtype.itemsize
    weights = build_weights(flags, reserve, longest)
    copy = copy_rate(device)
    name = cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    say(f"{config.name} in {dtype} on {name}: copy {copy / 1e9:,.0f} GB/s, context {flags['context']}")
    rows = []
    for batch in batches:
        reference = reference_logits(weights, batch, flags)
        for ops in names:
            row = measure_way(weights, ops, batch, flags, copy, reference)
            rows.append(row)
            say(
                f"batch {batch:>3} {ops:<10} {row['step_seconds']['median'] * 1e6:>9,.1f} us "
                f"{row['tokens_per_second']:>10,.0f} tokens/s {row['bytes_per_second'] / 1e9:>6,.0f} GB/s "
                f"{row['share_of_copy']:>6.1%} of copy, logits off by {row['logits_distance']:.1e}"
            )
    found: dict[str, Any] = {
        "workload": "decode_throughput", "model": config.name, "parameters": config.parameters,
        "device": name, "torch": torch.__version__, "dtype": str(dtype),
        "logits_tolerance": logits_tolerance(dtype, len(weights.layers)), "context": flags["context"],
        "chunk": flags["chunk"],
        "tokens_per_run": flags["tokens"], "repeats": flags["repeats"], "seed": flags["seed"],
        "copy_bytes_per_second": copy, "rows": rows,
    }  # fmt: skip
    if flags["telemetry"]:
        found["telemetry"] = _telemetry(weights, flags, say)
    return found


def _telemetry(weights: Weights, flags: Mapping[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    ops, function = build_ops({**flags, "ops": flags["ops"].split(",")[0]}, weights, 1)
    _take_tiles(ops, flags["tiles"], 1)
    graph = weights.device.type == "cuda" and not flags["no_graphs"]
    stepper = make_stepper(
        weights, ops, 1, context=flags["context"], tokens=flags["tokens"], graph=graph, function=function
    )
    found = measure_telemetry(stepper, flags["telemetry"], 11)
    speed = statistics.median(found["tokens_per_second"]["off"])
    say(f"telemetry costs {found['loss']:.2%} of {speed:,.0f} tokens/s")
    return found


@click.command(context_settings={"max_content_width": 110})
@click.option("--batches", default="1,8,64", show_default=True, help="Batch sizes.")
@click.option(
    "--ops", default="auto", show_default=True, help=f"Ways to compute a step, of: {', '.join(OPS)}."
)
@click.option(
    "--context", type=click.IntRange(1), default=256, show_default=True, help="Tokens before a run."
)
@click.option("--tokens", type=click.IntRange(1), default=32, show_default=True, help="Steps of a run.")
@click.option("--repeats", type=click.IntRange(4), default=15, show_default=True, help="Runs timed.")
@click.option("--tiles", type=click.Path(), help="Tiles of the Triton kernels, as `tune` wrote them.")
@click.option(
    "--chunk", type=click.IntRange(16), help="Triton: tokens of the context for a program.  [default: 512]"
)
@click.option("--no-graphs", is_flag=True, help="Launch kernel by kernel on CUDA too.")
@click.option(
    "--telemetry", type=click.IntRange(1), help="Also measure telemetry on and off, over so many steps."
)
@click.option("--json", "json_file", type=click.Path(), help="Write the result to a file.")
def _bare(**flags: Any) -> int:
    """Measure the decoder: tokens/s and GB/s by batch size, beside the copy rate."""
    found = report(flags, lambda line: click.echo(line))
    if flags["json_file"]:
        Path(flags["json_file"]).write_text(json.dumps(found) + "\n", "utf-8")
    limit = found["logits_tolerance"]
    wrong = [row["ops"] for row in found["rows"] if not row["logits_distance"] < limit]
    if wrong:
        click.echo(f"logits differ from the reference by more than {limit:g}: {', '.join(wrong)}", err=True)
    return 1 if wrong else 0


command: click.Command = model_options(_bare)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code, 1 if a way's logits are wrong."""
    code: int = run(command, argv, "decode_throughput")
    return code


if __name__ == "__main__":
    sys.exit(main())
