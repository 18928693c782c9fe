"""What both arms of the decode throughput workload share.

A timed step is a run of `--tokens` decode steps of one batch. The baseline launches torch's kernels one by
one; the optimized arm replays a CUDA graph of our fused ones. On a CPU there is neither, so that both arms
run the same torch steps there, and the workload only shows that it runs.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import click

from monitorgen.kernels.command import parse, run
from monitorgen.kernels.decode.device import copy_rate, measure
from monitorgen.kernels.decode.options import build_ops, build_weights, model_options, ops_option, resolve
from monitorgen.kernels.decode.stepper import Stepper, make_stepper

Arm = Literal["baseline", "optimized"]


def build(arm: Arm, flags: Mapping[str, Any]) -> Stepper:
    """An arm ready to be timed. Raises UsageError for what cannot be run."""
    _, config, dtype = resolve(flags)
    longest = flags["context"] + flags["tokens"] + 1
    reserve = (flags["batch"] + 1) * longest * config.token_numbers * dtype.itemsize
    weights = build_weights(flags, reserve, longest)
    chosen = "torch" if arm == "baseline" else flags["ops"]
    ops, function = build_ops({**flags, "ops": chosen}, weights, flags["batch"])
    return make_stepper(
        weights, ops, flags["batch"], context=flags["context"], tokens=flags["tokens"],
        graph=arm == "optimized" and weights.device.type == "cuda", function=function, seed=flags["seed"],
    )  # fmt: skip


def make_command(arm: Arm, help_text: str) -> click.Command:
    """The click command of an arm."""

    def decode(**flags: Any) -> int:
        stepper = build(arm, flags)
        seconds = statistics.median(measure(stepper.step, stepper.weights.device, flags["repeats"]))
        rate, copy = stepper.bytes_moved / seconds, copy_rate(stepper.weights.device)
        tokens = flags["batch"] * flags["tokens"]
        click.echo(
            f"{arm}: {tokens / seconds:,.0f} tokens/s, {seconds / flags['tokens'] * 1e6:,.1f} us a step, "
            f"{rate / 1e9:,.0f} GB/s ({rate / copy:.1%} of the copy rate)"
        )
        return 0

    callback: Any = decode
    for option in (
        click.option("--repeats", type=click.IntRange(1), default=15, show_default=True, help="Runs timed."),
        click.option(
            "--tokens", type=click.IntRange(1), default=16, show_default=True, help="Steps of a run."
        ),
        click.option(
            "--context", type=click.IntRange(1), default=256, show_default=True, help="Tokens before it."
        ),
        click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Requests."),
        ops_option,
        model_options,
    ):
        callback = option(callback)
    settings = {"max_content_width": 110}
    made: click.Command = click.command(help=help_text, context_settings=settings)(callback)
    return made


def main(arm: Arm, command: click.Command, argv: Sequence[str] | None) -> int:
    """Run an arm's command as a program."""
    code: int = run(command, argv, f"{arm}_decode_throughput")
    return code


def prepare(arm: Arm, command: click.Command, flags: Sequence[str]) -> Stepper:
    """An arm ready to be timed, with the flags of its command."""
    return build(arm, parse(command, flags, f"{arm}_decode_throughput"))
