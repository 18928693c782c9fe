"""What the arms of the MLA decode workload share: flags, the timed run, and the command.

A timed step is one call for one layer: every request of a batch attends to its context. On CUDA the arms are
dense torch, our Triton kernels and our CUDA kernel. On a CPU there are no such kernels, so every arm runs the
same torch code on a small size there, and the command says so.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import click
import torch
from torch import Tensor

from monitorgen.kernels import timing
from monitorgen.kernels.attention.mla_check import MOST_BATCH, MOST_HEADS, PAGES, VALUE, WIDTH
from monitorgen.kernels.attention.mla_inputs import Inputs, make_inputs
from monitorgen.kernels.attention.mla_torch import mla_torch
from monitorgen.kernels.command import parse, run
from monitorgen.kernels.counters import KernelCounters, best_seconds
from monitorgen.kernels.decode.device import check_fits, choose_device, measure
from monitorgen.kernels.decode.graphs import cuda
from monitorgen.kernels.export import Telemetry, exporting, prom_options
from monitorgen.kernels.workload import Outcome, UsageError

Arm = Literal["baseline", "optimized", "cuda"]
Call = Callable[[], Tensor]

MODULES = {
    "optimized": "monitorgen.kernels.attention.mla_triton",
    "cuda": "monitorgen.kernels.attention.flashmla",
}
"""Where an arm's `plan` and `run` are."""

TOLERANCE = 8e-3
"""Relative norm by which two arms may differ: each is within 4e-3 of the float64 reference in 16 bits."""

COMPARED = 1 << 16  # numbers of the output that are offered for comparison
SIZES = {
    "cuda": {"batch": 64, "context": 4096, "heads": 128},
    "cpu": {"batch": 3, "context": 97, "heads": 16},
}


@dataclass(slots=True)
class MlaRun:
    """One arm, prepared: inputs on the device, the output and LSE that a step writes."""

    inputs: Inputs
    call: Call
    lse: Tensor
    counters: KernelCounters
    out: Tensor | None = None

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where it runs."""
        return "cuda" if self.inputs.q.device.type == "cuda" else "cpu"

    @property
    def bytes_moved(self) -> float:
        """Bytes that a call has to move at least."""
        return float(self.inputs.bytes_moved)

    @property
    def flops(self) -> float:
        """Floating point operations of a call."""
        return float(self.inputs.flops)

    def step(self) -> None:
        """One call, without waiting for the device."""
        self.out = self.call()

    def outcome(self) -> Outcome:
        """A sample of the last call's output, in order."""
        if self.out is None:
            self.step()
        assert self.out is not None
        flat = self.out.flatten()
        sample = flat[:: max(1, flat.numel() // COMPARED)].float().cpu()
        return Outcome(close={"out": (sample.tolist(), TOLERANCE)})

    def metrics(self) -> Mapping[str, float]:
        """Tokens of the contexts, and bytes of the cache."""
        cache = self.inputs.cache
        return {"tokens": sum(self.inputs.held), "cache_bytes": cache.numel() * cache.element_size()}

    def close(self) -> None:
        """Let go of the output; the inputs go with the last reference."""
        self.out = None
        if self.device == "cuda":
            cuda.empty_cache()


def lengths_of(batch: int, context: int, ragged: bool) -> list[int]:
    """Lengths of the requests: all `context`, or spread evenly from a sixteenth of it up to it."""
    if not ragged or batch == 1:
        return [context] * batch
    least = max(1, context // 16)
    return [least + (context - least) * row // (batch - 1) for row in range(batch)]


def arm_call(arm: Arm, inputs: Inputs, lse: Tensor) -> Call:
    """What a step of an arm calls. Raises UsageError where the CUDA kernel cannot be had."""
    if arm == "baseline" or inputs.q.device.type != "cuda":

        def dense() -> Tensor:
            out: Tensor
            out, sums = mla_torch(inputs.q, inputs.cache, inputs.table, inputs.lengths)
            lse.copy_(sums)
            return out

        return dense
    batch, heads, _ = inputs.q.shape
    sizes = (batch, heads, inputs.cache.shape[1], inputs.table.shape[1])
    out: Tensor = inputs.q.new_empty(batch, heads, VALUE)
    try:
        module: Any = importlib.import_module(MODULES[arm])
    except ImportError as error:
        raise UsageError(f"the arm {arm} needs Triton: {error}") from None
    try:
        planned = module.plan(*sizes, dtype=inputs.q.dtype, device=inputs.q.device)
    except (ValueError, RuntimeError) as error:
        raise UsageError(str(error)) from None

    def attend() -> Tensor:
        module.run(planned, inputs.q, inputs.cache, inputs.table, inputs.lengths, out=out, lse=lse)
        return out

    return attend


def build(arm: Arm, flags: Mapping[str, Any]) -> MlaRun:
    """An arm ready to be timed. Raises UsageError for what cannot be run."""
    device = choose_device(flags["device"])
    kind = "cuda" if device.type == "cuda" else "cpu"
    batch, context, heads = (flags[name] or SIZES[kind][name] for name in ("batch", "context", "heads"))
    lengths = lengths_of(batch, context, flags["ragged"])
    tokens = sum(-(-length // flags["page"]) * flags["page"] for length in lengths)
    # The dense arm gathers every request padded to the longest, and copies its values again.
    dense = 2 * batch * context * WIDTH * 2 + 3 * batch * heads * context * 4 if arm == "baseline" else 0
    check_fits(
        f"a cache of {tokens} tokens",
        tokens * WIDTH * 2 + dense,
        device,
        "take fewer requests or a shorter context",
    )
    inputs = make_inputs(lengths, heads, flags["page"], device=device, seed=flags["seed"])
    lse = torch.empty(batch, heads, dtype=torch.float32, device=device)
    counters = KernelCounters(f"mla_decode_{arm}", inputs.bytes_moved, inputs.flops)
    return MlaRun(inputs, arm_call(arm, inputs, lse), lse, counters)


def work(arm: Arm, flags: Mapping[str, Any]) -> int:
    """Time an arm's calls, count each, and tell the median; serve metrics if asked."""
    made = build(arm, flags)
    telemetry = Telemetry(kernels=[made.counters])
    with exporting(
        telemetry, port=flags["prom_port"], duration=flags["prom_duration"], host=flags["prom_host"]
    ):
        if made.device == "cpu":
            click.echo("no CUDA device: plain torch computes every arm here, at a small size", err=True)
        limits = timing.ceilings(made.device)
        made.counters.best_seconds = best_seconds(
            made.bytes_moved,
            made.flops,
            limits["copy_gb_per_s"] * 1e9,
            limits["bf16_matmul_tflop_per_s"] * 1e12,
        )
        seconds = measure(made.step, made.inputs.q.device, flags["repeats"])
        for one in seconds:
            made.counters.call(one)
        median = statistics.median(seconds)
        found = timing.roofline(limits, made.bytes_moved, made.flops, median)
        batch, heads, _ = made.inputs.q.shape
        click.echo(
            f"{arm} on {made.device}: {batch} requests, {sum(made.inputs.held):,} tokens, {heads} heads: "
            f"{median * 1e6:,.1f} us, {found['gb_per_s']:,.1f} GB/s, {found['tflop_per_s']:,.2f} TFLOP/s, "
            f"{found['roofline_share']:.1%} of what the device allows"
        )
    made.close()
    return 0


def make_command(arm: Arm, help_text: str) -> click.Command:
    """The click command of an arm."""

    def mla_decode(**flags: Any) -> int:
        return work(arm, flags)

    small, large = SIZES["cpu"], SIZES["cuda"]

    def size(name: str, most: int | None, text: str) -> Any:
        return click.option(
            f"--{name}",
            type=click.IntRange(1, most),
            show_default=f"{large[name]} on cuda, {small[name]} on cpu",
            help=text,
        )

    callback: Any = mla_decode
    for option in (
        prom_options,
        click.option("--seed", type=int, default=0, show_default=True, help="Of the numbers and pages."),
        click.option("--repeats", type=click.IntRange(1), default=30, show_default=True, help="Calls timed."),
        click.option(
            "--ragged", is_flag=True, help="Contexts from a sixteenth of --context up to it, not all alike."
        ),
        click.option(
            "--page", type=click.Choice(PAGES), default=64, show_default=True, help="Tokens of a page."
        ),
        size("heads", MOST_HEADS, "Query heads."),
        size("context", 1 << 20, "Tokens of a context."),
        size("batch", MOST_BATCH, "Requests."),
        click.option(
            "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
        ),
    ):
        callback = option(callback)
    made: click.Command = click.command(help=help_text, context_settings={"max_content_width": 110})(callback)
    return made


def main(arm: Arm, command: click.Command, argv: Sequence[str] | None) -> int:
    """Run an arm's command as a program."""
    code: int = run(command, argv, f"{arm}_mla_decode")
    return code


def prepare(arm: Arm, command: click.Command, flags: Sequence[str]) -> MlaRun:
    """An arm ready to be timed, with the flags of its command."""
    return build(arm, parse(command, flags, f"{arm}_mla_decode"))
