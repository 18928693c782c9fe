"""Checks, tunes and times paged GQA decode on a GPU, beside FlashAttention-3 and FlashInfer.

`python -m monitorgen.kernels.attention.bench_paged --out paged.json` prints a line for each shape of the
grid: pages of 16 and 64 tokens, batches 1 to 256, contexts 512 to 32,768, four ragged mixes; 32 query and 8
KV heads of 128. Times are medians between CUDA events with a cold L2. `dirty` has L2 overwritten before each
run, as triton.testing.do_bench does, so that a run also pays for writing up to 50 MB of zeros back; `clean`
has it filled by reading. Both are told, launched from the host and as replays of a CUDA graph.

Measured on an H100 80GB (torch 2.11, Triton 3.6), against FlashAttention-3 only, 34 shapes, L2 dirty, with
another table than the bundled one: it was tuned in that run, by times launched from the host, on the grid
that it was timed on. Launched: geometric mean 0.939 of FlashAttention-3's speed, least 0.232; as replays:
1.029, least 0.909. Both least ones are of batch 1 with programmatic dependent launch (two kernels). The
bundled table is chosen from the tuning times of that run without such cuts; it was not timed as a whole.

A shape or a peer that fails is told and left out; FILE is written after every shape.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from monitorgen.kernels.attention import paged_tuner as tuner
from monitorgen.kernels.attention.paged_case import Case, make_case
from monitorgen.kernels.attention.paged_checks import GPU_CHECKS, checks, compile_check
from monitorgen.kernels.attention.paged_gqa_tuning import choose
from monitorgen.kernels.attention.paged_peers import PEERS
from monitorgen.kernels.attention.paged_timing import FLUSHES, Flush, timed
from monitorgen.kernels.command import run
from monitorgen.kernels.decode.device import copy_rate
from monitorgen.kernels.decode.graphs import capture, cuda
from monitorgen.kernels.workload import UsageError

HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
MODULE = "monitorgen.kernels.attention.bench_paged"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class GridShape:
    """A shape of the grid: its name, page size, lengths."""

    name: str
    page: int
    lengths: tuple[int, ...]

    @property
    def batch(self) -> int:
        """Sequences."""
        return len(self.lengths)

    def case(self, *, poison: bool = False) -> Case:
        """The batch on the current device. Without poison: peers may multiply what they mask by zero."""
        return make_case(
            self.lengths, heads=HEADS, kv_heads=KV_HEADS, head_dim=HEAD_DIM, page_size=self.page,
            device=torch.device("cuda", cuda.current_device()), seed=1, poison=poison,
        )  # fmt: skip


def grid() -> Iterator[GridShape]:
    """The grid, short contexts first within a page size, and ragged mixes in front: they say most."""
    generator = torch.Generator().manual_seed(7)
    for batch, mean in ((8, 2000), (32, 1000), (64, 4000), (128, 500)):
        drawn = torch.exp(torch.randn(batch, generator=generator) + math.log(mean)).clamp(1, 32768).long()
        yield GridShape(f"p16 ragged b{batch} ~{mean}", 16, tuple(drawn.tolist()))
    for page in (16, 64):
        for context in (512, 4096, 32768):
            for batch in (1, 4, 16, 64, 256):
                yield GridShape(f"p{page} b{batch} s{context}", page, (context,) * batch)


def chosen(only: str | None) -> list[GridShape]:
    """Shapes whose names hold one of some words with commas between; all without. Raises UsageError."""
    shapes = [s for s in grid() if only is None or any(word in s.name for word in only.split(","))]
    if not shapes:
        raise UsageError(
            f"--only {only}: no shape has such a name; there are {', '.join(s.name for s in grid())}"
        )
    return shapes


def measure_call(call: Callable[[], Any], flushes: Mapping[str, Flush], budget: float) -> dict[str, float]:
    """Microseconds of a call: `dirty`, `clean`, and the same from a graph: `dirty_graph`, `clean_graph`.

    Without the latter for what cannot be captured.
    """
    found = {name: timed(call, flush, budget) * 1e6 for name, flush in flushes.items()}
    try:
        graph = capture(call)
    except RuntimeError as error:
        click.echo(f"not captured: {error}".splitlines()[0][:200], err=True)
        return found
    for name, flush in flushes.items():
        found[f"{name}_graph"] = timed(graph.replay, flush, budget) * 1e6
    return found


def compare(
    shape: GridShape, tuning: Any, peers: Sequence[str], flushes: Mapping[str, Flush], budget: float
) -> dict[str, Any]:
    """Ours and the peers at one shape, on the same batch."""
    case = shape.case()
    made = tuner.plan_for(case, tuning)
    out = torch.full_like(case.q, torch.nan)

    def ours() -> None:
        made.run(case.q, case.k_pages, case.v_pages, case.table, case.lengths, out=out)

    row: dict[str, Any] = {
        "shape": shape.name, "page": shape.page, "batch": shape.batch, "kv_bytes": case.kv_bytes,
        "tuning": asdict(made.tuning), "ours": measure_call(ours, flushes, budget), "peers": {}, "failed": {},
    }  # fmt: skip
    for peer in peers:
        try:
            call = PEERS[peer](case)
            row.setdefault("differ", {})[peer] = float(
                (call().float() - out.float()).norm() / out.float().norm()
            )
            row["peers"][peer] = measure_call(call, flushes, budget)
        except Exception as error:
            # A peer that is missing or does not take the shape is told, and the others go on.
            row["failed"][peer] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    row["ratio"] = {
        kind: min(times) / row["ours"][kind]
        for kind in row["ours"]
        if (times := [found[kind] for found in row["peers"].values() if kind in found])
    }
    return row


def line(row: Mapping[str, Any], copy: float) -> str:
    """A shape in a line: us launched/graph, dirty and clean, share of copy, ratios to the best peer."""

    def times(found: Mapping[str, float]) -> str:
        return " ".join(
            f"{found[name]:.1f}/{found.get(name + '_graph', math.nan):.1f}"
            for name in FLUSHES
            if name in found
        )

    tuning = row["tuning"]
    cut = f"b{tuning['block']}w{tuning['warps']}s{tuning['stages']}x{tuning['per_sm']}l{tuning['least']}"
    cut += f"t{tuning['toll']}" + ("" if tuning["fused"] else "+join") + ("+pdl" if tuning["pdl"] else "")
    share = row["kv_bytes"] / (next(iter(row["ours"].values())) * 1e-6) / copy
    parts = [f"{row['shape']:<20} {row['kv_bytes'] / 1e6:8.1f}MB ours {times(row['ours'])} {share:.0%} {cut}"]
    parts += [f"{peer} {times(found)}" for peer, found in row["peers"].items()]
    parts += [f"{peer} FAILED {why}" for peer, why in row["failed"].items()]
    if row["ratio"]:
        parts.append("x " + " ".join(f"{ratio:.2f}" for ratio in row["ratio"].values()))
    if row.get("differ"):
        parts.append("differ " + " ".join(f"{apart:.1e}" for apart in row["differ"].values()))
    return " | ".join(parts)


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Geometric means and least ratios to the best peer, of all shapes and of the ragged ones."""
    found: dict[str, dict[str, float]] = {}
    for group, of in (("all", rows), ("ragged", [row for row in rows if "ragged" in row["shape"]])):
        with_peers = [row["ratio"] for row in of if row["ratio"]]
        for kind in with_peers[0] if with_peers else ():
            ratios = [ratio[kind] for ratio in with_peers]
            mean = math.exp(statistics.fmean(map(math.log, ratios)))
            found[f"{group} {kind}"] = {"mean": mean, "least": min(ratios), "shapes": len(ratios)}
    return found


class Report:
    """The JSON file, written whole after every step."""

    def __init__(self, path: str, facts: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.data: dict[str, Any] = {**facts, "checks": [], "tuned": [], "rows": [], "failed": []}

    def write(self) -> None:
        """Swap the file in."""
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.data, indent=1) + "\n", "utf-8")
        part.replace(self.path)


def _workers(count: int, flags: Mapping[str, Any], say: Say) -> None:
    """Compile every variant in processes of their own; Triton's cache on disk hands them on."""
    shared = [
        "--out",
        "-",
        *(["--only", flags["only"]] if flags["only"] else []),
        *([] if flags["tune"] else ["--no-tune"]),
    ]
    started = time.monotonic()
    jobs = [
        subprocess.Popen(
            [sys.executable, "-m", MODULE, "--compile", f"{index}/{count}", *shared],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for index in range(count)
    ]  # fmt: skip
    for job in jobs:
        _, said = job.communicate()
        if job.returncode:
            say(f"a compiling process failed: {said.strip().splitlines()[-1:]}")
    say(f"compiled in {time.monotonic() - started:.0f} s by {count} processes")


def _warm(peer: str) -> subprocess.Popen[bytes]:
    """A process that makes a peer compile what it has to, meanwhile."""
    return subprocess.Popen(
        [sys.executable, "-m", MODULE, "--warm", peer, "--out", "-"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def compile_part(part: str, shapes: Sequence[GridShape], tune: bool, device: torch.device) -> None:
    """Compile the k-th of n parts of what shapes and checks need, by running it on tiny batches."""
    index, count = map(int, part.split("/"))
    jobs = [
        partial(tuner.run_tiny, batch, tuning)
        for batch, tuning in tuner.variants([shape.lengths for shape in shapes], tune)
    ]
    jobs += [partial(compile_check, check, device) for check in GPU_CHECKS]
    for job in jobs[index::count]:
        try:
            job()
        except Exception as error:
            # It is told again, and counted, where the variant is used.
            click.echo(f"{job.args}: {type(error).__name__}: {error}", err=True)


def report(flags: Mapping[str, Any], say: Say) -> int:
    """Everything that the flags ask for. The exit code: 1 if a check failed or nothing could be timed."""
    shapes, started = chosen(flags["only"]), time.monotonic()
    peers = [name for name in flags["peers"].split(",") if name]
    if unknown := [name for name in peers if name not in PEERS]:
        raise UsageError(f"--peers {flags['peers']}: no {', '.join(unknown)}; there are {', '.join(PEERS)}")
    warming = {name: _warm(name) for name in peers if name == "flashinfer"}
    if flags["workers"]:
        _workers(flags["workers"], flags, say)
    device = torch.device("cuda", cuda.current_device())
    copy = copy_rate(device)
    facts = {
        "gpu": cuda.get_device_name(), "torch": torch.__version__, "copy_bytes_per_second": copy,
        "heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM,
    }  # fmt: skip
    made = Report(flags["out"], facts)
    say(f"{facts['gpu']}, torch {torch.__version__}: copy {copy / 1e9:,.0f} GB/s")
    if flags["checks"]:
        made.data["checks"] = checks(device, say)
        made.write()
    flushes = {
        name: FLUSHES[name](device) for name in (FLUSHES if flags["flush"] == "both" else (flags["flush"],))
    }
    deadline = started + flags["seconds"]
    tunings = _tune(shapes, flags, flushes, made, deadline, say)
    for name, job in warming.items():
        with suppress(subprocess.TimeoutExpired):
            job.wait(max(1.0, deadline - time.monotonic() - 30.0))
        if job.poll() is None:
            say(f"{name} is still compiling; the first shape waits for it")
    for shape in shapes:
        if time.monotonic() > deadline:
            say(f"{flags['seconds']} s are over; {shape.name} and what follows was not timed")
            break
        try:
            row = compare(shape, tunings.get(shape.name), peers, flushes, flags["budget"] / 1e3)
        except Exception as error:
            made.data["failed"].append({"shape": shape.name, "why": f"{type(error).__name__}: {error}"[:300]})
            say(f"{shape.name}: FAILED {type(error).__name__}: {error}"[:300])
            continue
        made.data["rows"].append(row)
        made.write()
        say(line(row, copy))
    for job in warming.values():
        if job.poll() is None:
            job.kill()
    made.data["summary"] = summary(made.data["rows"])
    made.write()
    for name, found in made.data["summary"].items():
        say(
            f"{name:<20} geometric mean {found['mean']:.3f}, least {found['least']:.3f} "
            f"of {found['shapes']} shapes"
        )
    say(f"{time.monotonic() - started:.0f} s")
    wrong = [check for check in made.data["checks"] if not check["ok"]]
    return 1 if wrong or not made.data["rows"] else 0


def _tune(
    shapes: Sequence[GridShape], flags: Mapping[str, Any], flushes: Mapping[str, Flush], made: Report,
    deadline: float, say: Say,
) -> dict[str, Any]:  # fmt: skip
    """The tuning of each shape by the table that is written; none where a shape gets what it gets anyway.

    Shapes of both page sizes are cut alike, so only one of them is tried.
    """
    found: dict[str, Any] = {}
    if not flags["tune"]:
        return found
    kind = flags["tune_for"] if flags["tune_for"] in flushes else next(iter(flushes))
    started = time.monotonic()
    tried = {shape.lengths: shape for shape in reversed(shapes)}
    for shape in reversed(tried.values()):
        if time.monotonic() > deadline - 0.4 * flags["seconds"]:
            say("no more time to tune")
            break
        try:
            times, failed = tuner.tune_case(shape.case(), flushes[kind], 4e-3)
        except Exception as error:
            say(f"tuning {shape.name}: FAILED {type(error).__name__}: {error}"[:300])
            continue
        if failed:
            say(f"tuning {shape.name}: {len(failed)} failed, such as {failed[0]}"[:300])
        made.data["tuned"].append(
            {
                "shape": shape.name,
                "times": [{**asdict(cut), **us} for cut, us in times],
                "failed": [{**asdict(cut), "why": why} for cut, why in failed],
            }
        )
    made.write()
    table = Path(flags["table"] or f"{flags['out']}.table")
    tuner.write_table(table, made.data, {shape.name: shape.lengths for shape in shapes})
    sms = cuda.get_device_properties(cuda.current_device()).multi_processor_count
    for shape in shapes:
        found[shape.name] = choose(HEAD_DIM, 2, KV_HEADS * shape.batch, max(shape.lengths), sms, table)
    say(f"tuned in {time.monotonic() - started:.0f} s")
    return found


@click.command(context_settings={"max_content_width": 110})
@click.option("--out", required=True, type=click.Path(), help="The JSON file to write.")
@click.option(
    "--only", help="Shapes whose names hold one of these words (commas between), such as `ragged,b1 `."
)
@click.option("--peers", default="fa3,flashinfer", show_default=True, help="Peers to time; empty for none.")
@click.option(
    "--tune/--no-tune", default=True, show_default=True, help="Try all cuts and take the best table."
)
@click.option("--tune-for", type=click.Choice(list(FLUSHES)), default="dirty", show_default=True)
@click.option(
    "--table",
    type=click.Path(),
    help="Where to write the best cut of each class of shapes.  [default: FILE.table]",
)
@click.option("--flush", type=click.Choice([*FLUSHES, "both"]), default="both", show_default=True)
@click.option("--checks/--no-checks", default=True, show_default=True, help="Compare with float64 first.")
@click.option("--budget", default=15.0, show_default=True, help="Milliseconds of device time a measurement.")
@click.option("--seconds", default=95.0, show_default=True, help="No shape is started after this.")
@click.option(
    "--workers", type=click.IntRange(0), default=12, show_default=True, help="Processes that compile."
)
@click.option("--compile", "compiled", hidden=True, help="Compile a part of the variants: k/n.")
@click.option("--warm", hidden=True, help="Let a peer compile what it needs.")
def command(**flags: Any) -> int:
    """Check, tune and time paged GQA decode on this GPU, beside its peers."""
    if not torch.cuda.is_available():
        raise UsageError("bench_paged needs a CUDA device")
    if flags["compiled"]:
        device = torch.device("cuda", cuda.current_device())
        compile_part(flags["compiled"], chosen(flags["only"]), flags["tune"], device)
        return 0
    if flags["warm"]:
        PEERS[flags["warm"]](GridShape("tiny", 16, (40, 3)).case())()
        return 0
    return report(flags, lambda text: click.echo(text))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    code: int = run(command, argv, "bench_paged")
    return code


if __name__ == "__main__":
    sys.exit(main())
