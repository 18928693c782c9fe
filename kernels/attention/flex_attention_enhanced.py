"""Masks composed by and/or with score mods over a sweep of shapes: errors, blocks, time.

`SEQ_LEN=4096,8192 DOC_SPAN=512,2048 python -m monitorgen.kernels.attention.flex_attention_enhanced` gives a
line for each combination: its error against float64, the shares of blocks that are live and wholly visible,
its time, and where blocks are skipped (compiled), the share of the ideal: the time without a mask times the
share of live blocks, over its own time. Run eagerly, as on a CPU, FlexAttention computes every block.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch

from monitorgen.kernels.attention.flex_attention_common import OPTIONS, build, resolve
from monitorgen.kernels.attention.flex_attention_native import TOLERANCES
from monitorgen.kernels.attention.shapes import Shape
from monitorgen.kernels.command import run
from monitorgen.kernels.decode.device import measure

MASKS = (
    "causal",
    "sliding_window",
    "document",
    "prefix_lm",
    "causal&document",
    "sliding_window&document",
    "prefix_lm&document",
    "sliding_window|prefix_lm&document",
)
"""What is swept unless `--mask` names something: each mask, and compositions of them."""


def measure_mask(
    flags: Mapping[str, Any], shape: Shape, mask: str, full_seconds: float | None
) -> dict[str, Any]:
    """Error, blocks and seconds of one mask; `of_ideal` where compiled, given the time without a mask."""
    made = build("optimized", {**flags, "mask": mask}, shape)
    try:
        seconds = statistics.median(measure(made.step, made.inputs[0].device, flags["repeats"]))
        metrics = made.metrics()
        live, error = metrics["live_blocks_ratio"], metrics["reference_error"]
        found = {
            "shape": shape.text, "doc_span": shape.doc_span, "mask": mask, "score_mod": flags["score_mod"],
            "error": error, "ok": error <= TOLERANCES[made.inputs[0].dtype], "seconds": seconds, "live": live,
            "whole": metrics["whole_blocks_ratio"], "visible_pairs": metrics["visible_pairs"],
            "compiled": made.planned.compiled,
        }  # fmt: skip
    finally:
        made.close()
    if full_seconds is not None and found["compiled"]:
        found["of_ideal"] = full_seconds * live / seconds
    return found


def sweep_masks(flags: Mapping[str, Any], masks: Sequence[str]) -> list[dict[str, Any]]:
    """Every mask at every shape, told line by line, after the same attention without a mask."""
    rows = []
    for shape in resolve(flags)[2]:
        full = measure_mask(flags, shape, "full", None)
        rows.append(full)
        click.echo(f"{shape.text} full, {flags['score_mod']}: {full['seconds'] * 1e3:.3f} ms")
        for mask in masks:
            row = measure_mask(flags, shape, mask, full["seconds"])
            rows.append(row)
            ideal = f"{row['of_ideal']:.2f} of ideal, " if "of_ideal" in row else ""
            click.echo(
                f"{shape.text} documents {shape.doc_span} {mask}, {flags['score_mod']}: "
                f"{row['seconds'] * 1e3:.3f} ms, live {row['live']:.1%}, whole {row['whole']:.1%}, {ideal}"
                f"error {row['error']:.1e}{'' if row['ok'] else ' WRONG'}"
            )
    return rows


def _bare(**flags: Any) -> int:
    """Sweep masks and their compositions: errors, live blocks, time."""
    asked = flags["mask"]
    rows = sweep_masks(flags, MASKS if asked == "all" else asked.split(","))
    if flags["json_file"]:
        found = {"torch": torch.__version__, "device": resolve(flags)[0].type, "rows": rows}
        Path(flags["json_file"]).write_text(json.dumps(found) + "\n", "utf-8")
    return 0 if all(row["ok"] for row in rows) else 1


def _make_command() -> click.Command:
    callback: Any = _bare
    for option in reversed(OPTIONS[1:]):
        callback = option(callback)
    option = click.option(
        "--mask", default="all", show_default=True, help="Masks with & and |, with commas between several."
    )
    made: click.Command = click.command(context_settings={"max_content_width": 110})(option(callback))
    return made


command = _make_command()


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code, 1 if a result differs from the reference."""
    code: int = run(command, argv, "flex_attention_enhanced")
    return code


if __name__ == "__main__":
    sys.exit(main())
