"""FlexDecoding at a long context with a short window: the arms by batch size, and what is asked of them.

`python -m monitorgen.kernels.attention.bench_flexdecoding --json FILE`, on one GPU: prompts of nearly 16k
tokens, window 512. Asked: the optimized arm's step at least 5 times as fast as the baseline's, launches of
the host at most a tenth, tokens equal (in 16 bits but for near ties, which are counted).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch

from monitorgen.kernels.attention import flexdecoding_common as common
from monitorgen.kernels.command import check_writable, run
from monitorgen.kernels.decode.decode_throughput import numbers
from monitorgen.kernels.decode.device import copy_rate
from monitorgen.kernels.decode.options import model_options, resolve
from monitorgen.kernels.decode.parity import Parity

FASTER, LAUNCHES = 5.0, 0.1


def flags_of(batch: int, asked: dict[str, Any]) -> dict[str, Any]:
    """The flags of a comparison at one batch size: the last prompt fills the context but for what is decoded,
    the shortest is a 128th shorter, so that rows stand at positions of their own."""
    longest = asked["context"] - asked["tokens"]
    shape = {"min_prompt": max(1, longest - longest // 128), "max_prompt": longest, "batch": batch}
    return {**asked, **shape, "compile": False, "rest": asked["rest"]}


def row_of(batch: int, arms: dict[str, dict[str, Any]], parity: Parity) -> dict[str, Any]:
    """One batch size: each arm's numbers, and the optimized one's share of the baseline's."""
    base, best = (arms[common.NAMES[arm]] for arm in ("baseline", "optimized"))
    return {
        "batch": batch,
        "arms": arms,
        "parity": asdict(parity),
        "times_faster": base["step_seconds"] / best["step_seconds"],
        "launches_share": best["launches"] / base["launches"] if base["launches"] else None,
        "kernels_share": best["kernels"] / base["kernels"] if base["kernels"] else None,
    }


def say(row: dict[str, Any]) -> None:
    """Print one batch size, an arm a line."""
    base = row["arms"][common.NAMES["baseline"]]["step_seconds"]
    for name, arm in row["arms"].items():
        click.echo(
            f"batch {row['batch']:>3} {name:<28} {arm['step_seconds'] * 1e6:>10,.1f} us a step "
            f"{base / arm['step_seconds']:>6.2f}x {arm['launches']:>7.1f} launches {arm['kernels']:>7.1f} "
            f"kernels, {arm['blocks_visited']:.0f} of {arm['cache_blocks']:.0f} blocks a row"
        )
    parity = row["parity"]
    ties, wrong = parity["near_ties"], parity["different"]
    click.echo(f"  tokens: {parity['equal']} equal, {ties} near ties, {wrong} different")


@click.command(context_settings={"max_content_width": 110})
@click.option("--batches", default="1,8,32", show_default=True, help="Batch sizes.")
@click.option("--context", type=click.IntRange(2), default=16384, show_default=True, help="In tokens.")
@click.option("--window", type=click.IntRange(0), default=512, show_default=True, help="0 for none.")
@click.option("--tokens", type=click.IntRange(1), default=32, show_default=True, help="Decoded a run.")
@click.option("--block", type=int, default=common.BLOCK, show_default=True, help="Tokens of a block.")
@click.option("--rest", default="auto", show_default=True, help="As in optimized_flexdecoding.")
@click.option("--repeats", type=click.IntRange(1), default=9, show_default=True, help="Runs timed.")
@click.option("--json", "json_file", type=click.Path(), help="Write everything to a file.")
def _bare(**asked: Any) -> int:
    """Measure FlexDecoding by batch size against its baseline; exit code 1 if tokens differ."""
    check_writable(json=asked["json_file"])
    batches = numbers(asked["batches"], "--batches")
    device, config, dtype = resolve(asked)
    flags = [flags_of(batch, asked) for batch in batches]
    for one in flags:
        common.check("optimized", one)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    click.echo(f"{config.name} in {dtype} on {name}: context {asked['context']}, window {asked['window']}")
    rows = []
    for batch, one in zip(batches, flags, strict=True):
        rows.append(row_of(batch, *common.compare_arms(one)))
        say(rows[-1])
    if device.type == "cuda":
        fast = [row["batch"] for row in rows if row["times_faster"] >= FASTER]
        few = [row["batch"] for row in rows if row["launches_share"] <= LAUNCHES]
        click.echo(
            f"{FASTER:g} times as fast at batch: {fast or 'none'}; launches a tenth at: {few or 'none'}"
        )
    else:
        click.echo(common.CPU_NOTE, err=True)
    if asked["json_file"]:
        told = {
            "workload": "flexdecoding", "model": config.name, "device": name, "dtype": str(dtype),
            "torch": torch.__version__, "context": asked["context"], "window": asked["window"],
            "copy_bytes_per_second": copy_rate(device), "rows": rows,
        }  # fmt: skip
        Path(asked["json_file"]).write_text(json.dumps(told) + "\n", "utf-8")
    return 1 if any(row["parity"]["different"] for row in rows) else 0


command: click.Command = model_options(_bare)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    code: int = run(command, argv, "bench_flexdecoding")
    return code


if __name__ == "__main__":
    sys.exit(main())
