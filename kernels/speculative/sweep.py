"""Measures ways to speculate over batch sizes: latency against throughput, as a table, a plot and JSON.

`python -m monitorgen.kernels.speculative.sweep --batches 1,4,16 --load 2000 --plot sweep.svg`. The ways come
from a YAML file (`sweep.yaml` beside this one if none is given): a list of settings, in which a list of
values stands for all of them. Plain decode is measured beside them, with graphs and the best kernels where
there is CUDA. Answers are all `--tokens` long (end tokens are ignored), so that a batch stays full.

With `--load`, the best is the way with the lowest latency among those that decode that many tokens a second.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch

from monitorgen.kernels import command as commands
from monitorgen.kernels.counters import DecodeCounters, SpeculationCounters
from monitorgen.kernels.speculative.building import Arm, Models, find_models, make_loop, plan_models
from monitorgen.kernels.speculative.common import WORK
from monitorgen.kernels.speculative.plot import Line, log_plot
from monitorgen.kernels.speculative.settings import Settings, read_yaml, settings_of
from monitorgen.kernels.workload import UsageError

LARGEST = 500  # settings that a file may stand for


@dataclass(frozen=True, slots=True)
class Point:
    """One way at one batch size. Latency is the mean time between two tokens of a request, in seconds.

    `settings` None is plain decode. `mean_accepted_length` counts the target's own token: 1 without drafts.
    """

    name: str
    settings: Settings | None
    batch: int
    tokens_per_second: float
    latency_seconds: float
    acceptance_rate: float
    mean_accepted_length: float
    speedup: float = 1.0


def read_sweep(path: Path) -> list[Settings]:
    """The settings that a file stands for, in its order. Raises UsageError naming file, entry and key."""
    said = read_yaml(path)
    if not isinstance(said, list) or not said:
        raise UsageError(f"{path}: a list of settings is wanted, such as `- {{method: ngram, k: [2, 4]}}`")
    found: list[Settings] = []
    for number, entry in enumerate(said, 1):
        where = f"{path}, entry {number}"
        if not isinstance(entry, Mapping):
            raise UsageError(f"{where}: a mapping of settings is wanted, not {entry!r}")
        choices = [value if isinstance(value, list) else [value] for value in entry.values()]
        for values in itertools.product(*choices):
            found.append(settings_of(dict(zip(entry, values, strict=True)), where))
            if len(found) > LARGEST:
                raise UsageError(f"{path}: more than {LARGEST} settings; take fewer values")
    return found


def batch_sizes(text: str) -> list[int]:
    """Batch sizes with commas between. Raises UsageError."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise UsageError(f"--batches {text!r}: give whole numbers from 1 with commas between")
    return sorted(set(found))


def measure(
    arm: Arm, flags: Mapping[str, Any], settings: Settings, models: Models, repeats: int
) -> tuple[float, float, SpeculationCounters]:
    """Seconds of a run (the median), tokens that it decodes, and what was counted."""
    name = models.target.config.name
    counters = SpeculationCounters(name, settings.k)
    loop = make_loop(arm, flags, settings, models, DecodeCounters(name), counters)
    seconds, tokens = [], 0
    for turn in range(repeats + 1):
        loop.reset()
        started = time.perf_counter()
        answers = loop.run()
        if turn:  # the first one warms up
            seconds.append(time.perf_counter() - started)
        tokens = sum(len(row) - 1 for row in answers.tokens)  # the first ones are the prefill's
    loop.close()
    if models.target.device.type == "cuda":
        torch.cuda.empty_cache()
    return statistics.median(seconds), tokens, counters


def sweep(
    ways: Sequence[Settings], batches: Sequence[int], flags: Mapping[str, Any], say: Callable[[str], Any]
) -> list[Point]:
    """All ways at all batch sizes, and plain decode at each. Raises UsageError before any work."""
    longest, wide = max(way.k for way in ways), {**flags, "batch": max(batches)}
    for way in ways:
        plan_models(wide, replace(way, k=longest))
    held: dict[str, Models] = {}
    for way in ways:
        key = _key(way)
        if key not in held:
            held[key] = _models(wide, replace(way, k=longest), say)
            # One target for all: each draft comes with its own copy.
            held[key].target = next(iter(held.values())).target
    points: list[Point] = []
    for batch in batches:
        base: dict[float, Point] = {}
        for heat in sorted({way.temperature for way in ways}):
            models = _first(next(iter(held.values())), batch)
            plain = Settings(temperature=heat)
            seconds, tokens, _ = measure("plain", flags, plain, models, flags["repeats"])
            name = f"plain, temperature {heat:g}" if heat else "plain"
            rate, latency = tokens / seconds, seconds * batch / tokens
            base[heat] = Point(name, None, batch, rate, latency, 0.0, 1.0)
            points.append(base[heat])
            say(_row(points[-1]))
        for way in ways:
            models = _first(held[_key(way)], batch)
            seconds, tokens, counted = measure(flags["arm"], flags, way, models, flags["repeats"])
            said, rate = counted.summary(), tokens / seconds
            point = Point(
                str(way), way, batch, rate, seconds * batch / tokens, said["acceptance_rate"],
                said["mean_accepted_length"], rate / base[way.temperature].tokens_per_second,
            )  # fmt: skip
            points.append(point)
            say(_row(point))
    return points


def _key(way: Settings) -> str:
    """Ways of one key share their models."""
    return f"{way.method} {way.draft if way.method == 'draft-model' else ''}"


def _models(flags: Mapping[str, Any], settings: Settings, say: Callable[[str], Any]) -> Models:
    models = find_models(flags, settings, say)
    models.end = -1
    return models


def _first(models: Models, batch: int) -> Models:
    """The same with the first requests only."""
    return replace(models, prompts=models.prompts[:batch], answers=models.answers[:batch])


def best(points: Sequence[Point], load: float) -> Point | None:
    """The point of the lowest latency among those that decode `load` tokens a second; None if none does."""
    able = [point for point in points if point.tokens_per_second >= load]
    return min(able, key=lambda point: point.latency_seconds, default=None)


HEAD = "batch    tokens/s   ms/token  speedup  accepted  tokens/step  way"


def _row(point: Point) -> str:
    accepted = f"{point.acceptance_rate:.1%}" if point.settings else "-"
    return (
        f"{point.batch:>5}  {point.tokens_per_second:>10,.0f}  {point.latency_seconds * 1e3:>9.3f}  "
        f"{point.speedup:>6.2f}x  {accepted:>8}  {point.mean_accepted_length:>11.2f}  {point.name}"
    )


def plot(points: Sequence[Point], title: str) -> str:
    """Latency against throughput as SVG: a line a way, its batch sizes from left to right."""
    names = list(dict.fromkeys(point.name for point in points))
    lines = []
    for name in names:
        mine = sorted((point for point in points if point.name == name), key=lambda point: point.batch)
        places = [(point.tokens_per_second, point.latency_seconds * 1e3) for point in mine]
        lines.append(Line(name, tuple(places), dashed=mine[0].settings is None))
    text: str = log_plot(title, "tokens/s", "ms between tokens", lines)
    return text


def report(points: Sequence[Point], flags: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """All that was measured, with where."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        "arm": flags["arm"],
        "tokens": flags["tokens"],
        "seed": flags["seed"],
        "repeats": flags["repeats"],
        "points": [asdict(point) for point in points],
    }


OPTIONS: tuple[Callable[..., Any], ...] = (
    click.option("--sweep", "sweep_file", type=click.Path(path_type=Path), help="Ways to measure, in YAML."),
    click.option("--batches", default="1,4,16", show_default=True, help="Batch sizes."),
    click.option("--load", type=click.FloatRange(min=0), help="Tokens a second to serve: says the best way."),
    click.option(
        "--arm",
        type=click.Choice(["baseline", "optimized_math", "optimized"]),
        default="optimized",
        show_default=True,
        help="How a way is computed.",
    ),
    click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Runs timed."),
    click.option(
        "--json", "json_file", type=click.Path(path_type=Path), help="Write what was measured here."
    ),
    click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Write a plot here, as SVG."),
)


def _command(**flags: Any) -> int:
    """Measure ways to speculate over batch sizes."""
    ways = read_sweep(flags["sweep_file"] or Path(__file__).with_name("sweep.yaml"))
    batches = batch_sizes(flags["batches"])
    click.echo(HEAD)
    points = sweep(ways, batches, flags, click.echo)
    device = torch.device("cuda" if flags["device"] != "cpu" and torch.cuda.is_available() else "cpu")
    told = report(points, flags, device)
    if flags["load"] is not None:
        found = best(points, flags["load"])
        told |= {"load": flags["load"], "best": found and asdict(found)}
        click.echo(
            f"best for {flags['load']:,.0f} tokens/s: {found.name}, batch {found.batch}, "
            f"{found.latency_seconds * 1e3:.3f} ms a token"
            if found
            else f"nothing decodes {flags['load']:,.0f} tokens/s: take a larger batch or more devices"
        )
    if flags["json_file"]:
        flags["json_file"].write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    if flags["plot_file"]:
        flags["plot_file"].write_text(plot(points, f"Speculative decoding on {told['device']}"), "utf-8")
    return 0


def _build() -> click.Command:
    callback: Any = _command
    for option in reversed((*OPTIONS, *(one for one in WORK if one is not WORK[BATCH]))):
        callback = option(callback)
    made: click.Command = click.command(context_settings={"max_content_width": 110})(callback)
    return made


BATCH = 3  # where `--batch` stands among the options of the work
command = _build()


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    torch.set_grad_enabled(False)
    return int(commands.run(command, argv, "sweep"))


if __name__ == "__main__":
    sys.exit(main())
