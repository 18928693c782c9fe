"""Finds the fastest tiles of the Triton kernels for a shape on this GPU, and writes them as JSON.

Each part is timed over the matrices of all layers in one CUDA graph, so that none of them is still in the
cache when its turn comes.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, get_args

import click

from monitorgen.kernels.command import run
from monitorgen.kernels.decode.decode_throughput import numbers
from monitorgen.kernels.decode.device import measure
from monitorgen.kernels.decode.graphs import capture, cuda
from monitorgen.kernels.decode.options import build_weights, model_options, resolve
from monitorgen.kernels.decode.state import Workspace
from monitorgen.kernels.decode.triton_ops import Part, Tile, TritonOps, default_tiles
from monitorgen.kernels.decode.weights import Weights
from monitorgen.kernels.workload import UsageError

PARTS: tuple[Part, ...] = get_args(Part)


def candidates(part: Part, rows: int) -> Iterator[Tile]:
    """Tiles worth trying for a part at a number of rows, the default first."""
    yield default_tiles(rows)[part]
    if rows == 1:
        for bn, bk, warps in product((4, 8, 16), (512, 1024, 2048), (4, 8)):
            if bn * bk <= 16384:
                yield Tile(1, bn, bk, warps, 1)
        return
    bm = default_tiles(rows)[part].bm
    wide = (32, 64, 128) if part in ("gate_up", "head") else (16, 32, 64)
    for bn, bk, stages in product(wide, (64, 128, 256), (3, 5)):
        if (bn * (2 if part == "gate_up" else 1) + bm) * bk * 2 * stages < 220_000:  # shared memory of an SM
            yield Tile(bm, bn, bk, 8 if bn == 128 else 4, stages)


def launcher(part: Part, ops: TritonOps, work: Workspace) -> Callable[[], None]:
    """Launches a part for every layer."""
    weights = ops.weights

    def launch() -> None:
        if part == "head":
            ops.head(work.x, work, write=False)
            return
        for layer in weights.layers:
            if part == "qkv":
                ops.linear("qkv", work.x, layer.attention_norm, layer.qkv, work.qkv, add=False)
            elif part == "out":
                ops.linear("out", work.attended, None, layer.out, work.x, add=True)
            elif part == "gate_up":
                ops.gate_up(work.x, layer.mlp_norm, layer.gate_up, work.up)
            else:
                ops.linear("down", work.up, None, layer.down, work.x, add=True)

    return launch


def time_tile(part: Part, tile: Tile, weights: Weights, rows: int, pdl: bool) -> float:
    """Seconds of a part over all layers with a tile; infinity if the GPU cannot hold it."""
    ops = TritonOps(weights, rows, tiles={part: tile}, pdl=pdl)
    work = ops.workspace(rows, 1)
    for tensor in (work.x, work.attended, work.up):
        tensor.zero_()
    try:
        graph = capture(launcher(part, ops, work))
    except Exception as error:
        # Triton says so for a tile beyond the shared memory or the registers; anything else is a fault.
        if type(error).__name__ != "OutOfResources":
            raise
        return float("inf")
    seconds: list[float] = measure(graph.replay, weights.device, 15)
    return statistics.median(seconds)


def tune(
    weights: Weights, rows: Sequence[int], parts: Sequence[Part], pdl: bool, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """The best tile of each part for each number of rows, with its time and the default's."""
    found = []
    config, element = weights.config, weights.dtype.itemsize
    layer = config.layers * config.hidden * element
    size = {
        "qkv": layer * config.qkv_rows, "out": layer * config.heads * config.head_dim,
        "gate_up": 2 * layer * config.intermediate, "down": layer * config.intermediate,
        "head": config.vocab * config.hidden * element,
    }  # fmt: skip
    for count, part in product(rows, parts):
        times = {
            tile: time_tile(part, tile, weights, count, pdl)
            for tile in dict.fromkeys(candidates(part, count))
        }
        best, default = min(times, key=times.__getitem__), default_tiles(count)[part]
        rate = size[part] / times[best]
        say(
            f"{count:>3} rows {part:<8} {times[best] * 1e6:8.1f} us {rate / 1e9:6,.0f} GB/s, "
            f"default {times[default] * 1e6:8.1f} us: {best}"
        )
        found.append(
            {"rows": count, "part": part, "tile": dataclasses.asdict(best), "seconds": times[best],
             "default_seconds": times[default], "bytes_per_second": rate}
        )  # fmt: skip
    return found


def tiles_for(path: Path, batch: int, ops: TritonOps) -> dict[Part, Tile]:
    """The tiles of a file for the least number of rows that holds a batch. Raises UsageError."""
    try:
        entries = json.loads(path.read_text("utf-8"))["tiles"]
        fitting = [
            entry["rows"]
            for entry in entries
            if entry["rows"] >= batch and (entry["rows"] == 1) == (batch == 1)
        ]
        chosen = [entry for entry in entries if fitting and entry["rows"] == min(fitting)]
        tiles: dict[Part, Tile] = {entry["part"]: Tile(**entry["tile"]) for entry in chosen}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--tiles {path} cannot be read: {error!r}") from None
    inner = {"qkv": "hidden", "gate_up": "hidden", "head": "hidden", "down": "intermediate"}
    config = ops.config
    return {
        part: tile.fits(getattr(config, inner[part]) if part in inner else config.heads * config.head_dim)
        for part, tile in tiles.items()
    }


@click.command(context_settings={"max_content_width": 110})
@click.option("--rows", default="1,16,64", show_default=True, help="Numbers of rows to tune for.")
@click.option(
    "--part", "parts", type=click.Choice(PARTS), multiple=True, help="Only this part; may be repeated."
)
@click.option("--pdl", is_flag=True, help="With programmatic dependent launch.")
@click.option("--out", type=click.Path(), required=True, help="The file to write.")
def _bare(**flags: Any) -> int:
    """Find the fastest tiles of the Triton kernels for a shape on this GPU."""
    device, config, _ = resolve(flags)
    if device.type != "cuda":
        raise UsageError("tuning needs a CUDA device")
    rows = numbers(flags["rows"], "--rows")
    weights = build_weights(flags, 0, 1)
    tiles = tune(weights, rows, flags["parts"] or PARTS, flags["pdl"], lambda line: click.echo(line))
    result = {
        "device": cuda.get_device_name(device),
        "model": config.name,
        "pdl": flags["pdl"],
        "tiles": tiles,
    }
    Path(flags["out"]).write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return 0


command: click.Command = model_options(_bare)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    code: int = run(command, argv, "tune")
    return code


if __name__ == "__main__":
    sys.exit(main())
