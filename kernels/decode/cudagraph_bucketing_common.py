"""CUDA graph bucketing: a graph for every batch size that turns up, against graphs captured beforehand.

Both arms decode the same trace of batch sizes with the same step. The baseline captures a graph when a size
is first seen, which stalls decoding; the optimized arm captures its buckets before the first step, pads, and
captures nothing afterwards. On CUDA captures and replays are those of CUDA graphs. On the CPU the step is
traced into a program for each size, which runs on the same padded rows; what CUDA graphs would have cost is
simulated by a calibration that the report names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import click

from monitorgen.kernels import command as commands
from monitorgen.kernels.counters import DecodeCounters
from monitorgen.kernels.decode.bucket_loop import GraphMachine, Loop, PriceMachine, Tally
from monitorgen.kernels.decode.buckets import best_buckets, bucket_of, checked_sizes
from monitorgen.kernels.decode.compile_smoke import compile_smoke
from monitorgen.kernels.decode.graph_costs import Calibration, load
from monitorgen.kernels.decode.step_graphs import (
    Programs,
    Step,
    StepShape,
    calibrate,
    check_memory,
    device_of,
    provenance_of,
)
from monitorgen.kernels.decode.traces import ragged_trace, read_trace
from monitorgen.kernels.decode.vllm_sizes import CaptureSizes, capture_sizes
from monitorgen.kernels.export import Telemetry, exporting, prom_options
from monitorgen.kernels.workload import Outcome, UsageError

Arm = Literal["baseline", "optimized"]

SHAPES = {
    # About 100 us a step on an H100, and as little as a CPU needs to exercise the loop.
    "cuda": {"hidden": 1024, "inner": 2816, "layers": 4},
    "cpu": {"hidden": 64, "inner": 176, "layers": 2},
}

PRICED = ("step_seconds", "capture_seconds", "longest_step_seconds", "graph_bytes")

CLOSE = {"cuda": 0.02, "cpu": 1e-5}
"""Largest relative difference of the arms' outputs: matrix products of other shapes sum in another order,
in bf16 on CUDA and in fp32 on the CPU."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run, from the flags: the trace, the sizes to capture and where they come from."""

    arm: Arm
    trace: tuple[int, ...]
    buckets: tuple[int, ...]
    source: str
    vllm: CaptureSizes | None
    calibration: Calibration
    keep: int | None
    shape: StepShape
    device: Literal["cpu", "cuda"]
    seed: int

    @property
    def captured_first(self) -> tuple[int, ...] | None:
        """Sizes to capture before the first step; None in the baseline, which captures as it goes."""
        return self.buckets if self.arm == "optimized" else None


def plan_of(arm: Arm, values: Mapping[str, Any]) -> Plan:
    """Check the flags. Raises UsageError for sizes, files or a device that cannot be."""
    if values["trace_file"]:
        trace = read_trace(values["trace_file"])
    else:
        trace = ragged_trace(values["steps"], values["min_batch"], values["max_batch"], values["seed"])
    calibration = load(values["calibration"])
    vllm = None
    if values["vllm_bins"]:
        vllm = capture_sizes(
            values["vllm_model"],
            values["max_num_seqs"],
            values["max_num_batched_tokens"],
            use_installed=values["vllm_sizes"] == "auto",
        )
    if values["buckets"]:
        buckets, source = checked_sizes(_numbers(values["buckets"])), "--buckets"
    elif vllm:
        buckets, source = vllm.sizes, vllm.source
    else:
        buckets = best_buckets(trace, calibration.costs(), values["most"])
        source = f"best set for this trace by {calibration.name}"
    if bucket_of(max(trace), buckets) is None and calibration.costs().eager is None:
        raise UsageError(
            f"the largest bucket is {buckets[-1]}, the trace has a step of {max(trace)}, and the calibration "
            f"has no eager times: add a bucket of {max(trace)}"
        )
    device = device_of(values["device"])
    sizes = {name: values[name] or default for name, default in SHAPES[device.type].items()}
    shape = StepShape(**sizes)
    check_memory(shape, [*trace, *buckets], device)
    kind = cast(Literal["cpu", "cuda"], device.type)
    return Plan(arm, trace, buckets, source, vllm, calibration, values["keep"], shape, kind, values["seed"])


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"--buckets {text}: give whole numbers with commas between, as in 1,2,4,8"
        ) from error


class BucketingRun:
    """An arm with its weights in place. A step decodes the whole trace once.

    In the baseline it begins without graphs each time, as a process that has just started does.
    """

    def __init__(self, plan: Plan, wait: bool = False, counters: DecodeCounters | None = None) -> None:
        self.plan = plan
        device = device_of(plan.device)
        self._programs = Programs(Step(plan.shape, device, plan.seed), shared_pool=plan.arm == "optimized")
        self._machine = GraphMachine(self._programs, plan.trace, plan.seed, wait)
        self._loop = Loop(self._machine, plan.captured_first, plan.keep, counters)
        self._loop.warm_up()
        if counters:
            counters.graphs = self._programs.graphs
            counters.mode = "full" if self._programs.graphs else "eager"
            counters.allocator_bytes = self._programs.allocator_bytes
            counters.pool_bytes = lambda: int(self._machine.held_bytes())

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where the step runs."""
        return self.plan.device

    @property
    def bytes_moved(self) -> float:
        """Every step reads all weights once."""
        element = 2 if self.device == "cuda" else 4
        return float(len(self.plan.trace) * self.plan.shape.weight_bytes(element))

    @property
    def flops(self) -> float:
        """Of the requests' rows; padding is not needed work."""
        return float(self.plan.shape.flops(sum(self.plan.trace)))

    def step(self) -> None:
        """Decode the trace; the baseline captures its graphs anew."""
        if self.plan.arm == "baseline":
            self._loop.forget()
            self._programs.drop()
        self._loop.run(self.plan.trace)

    @property
    def tally(self) -> Tally:
        """What was counted since the start."""
        return self._loop.tally

    def outcome(self) -> Outcome:
        """Rows by step, and a few elements of every output row of every step."""
        seen = self._machine.seen.float().flatten().tolist()
        return Outcome(
            exact={"rows of each step": list(self.plan.trace)},
            close={"outputs": (seen, CLOSE[self.device])},
        )

    def metrics(self) -> Mapping[str, float]:
        """What was counted; on the CPU also what CUDA graphs would cost for one trace (`simulated_`)."""
        counted: dict[str, float] = self.tally.summary()
        counted.pop("step_seconds")  # steps are launched, not waited for: the harness times them
        counted.pop("longest_step_seconds")
        if self._programs.graphs:
            return counted
        priced = simulate(self.plan).summary()
        return counted | {f"simulated_{name}": priced[name] for name in PRICED}

    def close(self) -> None:
        """Drop graphs and programs."""
        self._loop.forget()
        self._programs.drop()


def simulate(plan: Plan) -> Tally:
    """The arm's own policy over the plan's trace, priced by the calibration."""
    loop = Loop(PriceMachine(plan.calibration.costs()), plan.captured_first, plan.keep)
    loop.warm_up()
    loop.run(plan.trace)
    return loop.tally


def alternatives(plan: Plan, most: int | None) -> list[dict[str, Any]]:
    """The trace priced for other sets of buckets: as seen, this plan's, vLLM's, the best there is."""
    costs = plan.calibration.costs()
    sets: list[tuple[str, Sequence[int] | None]] = [("captured as seen", None), ("this plan", plan.buckets)]
    if plan.vllm and plan.vllm.sizes != plan.buckets:
        sets.append(("vLLM's sizes", plan.vllm.sizes))
    sets.append(("best set", best_buckets(plan.trace, costs)))
    if most:
        sets.append((f"best of at most {most}", best_buckets(plan.trace, costs, most)))
    rows = []
    for name, buckets in sets:
        if buckets is not None and bucket_of(max(plan.trace), buckets) is None and costs.eager is None:
            continue  # it has no price
        loop = Loop(PriceMachine(costs), buckets)
        loop.warm_up()
        loop.run(plan.trace)
        sizes = sorted(set(plan.trace)) if buckets is None else list(buckets)
        rows.append({"name": name, "buckets": sizes, **loop.tally.summary()})
    return rows


def _print(plan: Plan, tally: Tally, rows: Sequence[Mapping[str, Any]]) -> None:
    trace = plan.trace
    click.echo(
        f"trace: {len(trace)} steps of {min(trace)} to {max(trace)} requests, {len(set(trace))} sizes, "
        f"{sum(trace)} tokens"
    )
    if plan.arm == "optimized":
        click.echo(f"buckets: {len(plan.buckets)} sizes up to {plan.buckets[-1]}: {plan.source}")
    else:
        click.echo("buckets: none, a graph for each size as it turns up")
    how = "CUDA graphs" if plan.device == "cuda" else "CPU: no CUDA graphs, traced programs"
    click.echo(
        f"this run ({how}): {tally.captures} captures, {tally.recaptures} of them while decoding, "
        f"{sum(tally.replays.values())} replays, {tally.eager_steps} eager steps, padding "
        f"{tally.padding_share:.1%}, steps {tally.step_seconds * 1e3:.1f} ms, captures "
        f"{tally.capture_seconds * 1e3:.1f} ms, longest step {tally.longest_step_seconds * 1e3:.2f} ms, "
        f"graphs hold {tally.graph_bytes / 2**20:.1f} MiB"
    )
    click.echo(f"simulated by calibration: {plan.calibration.name} ({plan.calibration.kind})")
    for row in rows:
        total = row["step_seconds"] + row["capture_seconds"]
        click.echo(
            f"  {row['name']:<20} {len(row['buckets']):>3} graphs  captures {row['capture_seconds']:6.2f} s "
            f"({row['recaptures']} late)  steps {row['step_seconds']:6.2f} s  total {total:6.2f} s  "
            f"padding {row['padding_share']:5.1%}  {row['graph_bytes'] / 2**20:6.1f} MiB"
        )


OPTIONS: tuple[Callable[..., Any], ...] = (
    click.option(
        "--vllm-model",
        default="gpt-oss-20b",
        show_default=True,
        help="Capture the sizes that vLLM would for this model: a folder or a name.",
    ),
    click.option("--vllm-bins/--no-vllm-bins", default=True, help="Or choose the best set for the trace."),
    click.option("--vllm-sizes", type=click.Choice(["auto", "recorded"]), default="auto", show_default=True,
                 help="Ask vLLM's own code when it is installed, or use the recorded table."),
    click.option("--max-num-seqs", type=int, default=1024, show_default=True, help="vLLM's own limit."),
    click.option("--max-num-batched-tokens", type=int, default=8192, show_default=True,
                 help="vLLM's limit of tokens a step."),
    click.option("--buckets", metavar="1,2,4", help="Capture these sizes instead."),
    click.option("--most", type=click.IntRange(min=1), help="At most so many buckets in the best set."),
    click.option("--steps", type=int, default=256, show_default=True, help="Steps of the trace."),
    click.option("--min-batch", type=int, default=3, show_default=True, help="Fewest requests of a step."),
    click.option("--max-batch", type=int, default=28, show_default=True, help="Most requests of a step."),
    click.option("--trace", "trace_file", type=click.Path(path_type=Path), help="File of batch sizes."),
    click.option("--keep", type=click.IntRange(min=1),
                 help="Baseline: keep at most so many graphs; the one unused for longest makes room."),
    click.option("--seed", type=int, default=20, show_default=True, help="Of trace, weights, inputs."),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
    click.option("--hidden", type=click.IntRange(min=1), help="Width of the step; by device unless given."),
    click.option("--inner", type=click.IntRange(min=1), help="Width inside; by device unless given."),
    click.option("--layers", type=click.IntRange(min=1), help="Layers of the step; by device unless given."),
    click.option("--calibration", type=click.Path(path_type=Path), help="Costs for the simulator."),
    click.option("--skip-compile-smoke", is_flag=True, help="Do not count what torch.compile specialises."),
)  # fmt: skip


def build(arm: Arm) -> click.Command:
    """The command of an arm."""

    def main(**values: Any) -> int:
        return _main(arm, values)

    function: Callable[..., Any] = prom_options(main)
    function = click.option(
        "--json", "json_file", type=click.Path(path_type=Path), help="Write results here."
    )(function)
    function = click.option(
        "--calibrate",
        "calibrate_file",
        type=click.Path(path_type=Path),
        help="Measure captures and replays on CUDA, write them as a calibration, and end.",
    )(function)
    for option in reversed(OPTIONS):
        function = option(function)
    summary = {
        "baseline": "Capture a graph for every batch size as it turns up.",
        "optimized": "Capture buckets first, pad every step to one, capture nothing while decoding.",
    }
    return click.command(help=summary[arm])(function)


def _main(arm: Arm, values: Mapping[str, Any]) -> int:
    plan = plan_of(arm, values)
    if values["calibrate_file"]:
        return _calibrate(plan, values["calibrate_file"])
    name = f"{arm}_cudagraph_bucketing"
    counters = DecodeCounters(name)
    with exporting(
        Telemetry([counters]),
        port=values["prom_port"],
        duration=values["prom_duration"],
        host=values["prom_host"],
    ):
        run = BucketingRun(plan, wait=True, counters=counters)
        run.step()
        rows = alternatives(plan, values["most"])
        _print(plan, run.tally, rows)
        smoke = None
        if not values["skip_compile_smoke"]:
            sizes = plan.trace if arm == "baseline" else [bucket_of(n, plan.buckets) or n for n in plan.trace]
            smoke = compile_smoke(sizes, device_of(plan.device))
            click.echo(smoke.says())
        if values["json_file"]:
            document = {
                "arm": arm,
                "device": plan.device,
                "provenance": provenance_of(plan.device),
                "shape": asdict(plan.shape),
                "trace": list(plan.trace),
                "buckets": list(plan.buckets),
                "buckets_from": plan.source,
                "this_run": run.tally.summary() | {"replays_by_bucket": dict(run.tally.replays)},
                "calibration": {"name": plan.calibration.name, "kind": plan.calibration.kind},
                "simulated": rows,
                "compile_smoke": asdict(smoke) if smoke else None,
            }
            values["json_file"].write_text(json.dumps(document, indent=2) + "\n")
    return 0


def _calibrate(plan: Plan, file: Path) -> int:
    if plan.device != "cuda":
        raise UsageError("--calibrate measures CUDA graphs, and there is no CUDA device here")
    step = Step(plan.shape, device_of("cuda"), plan.seed)
    provenance = provenance_of("cuda") | {
        "step": f"gated MLP stack, bf16: hidden {plan.shape.hidden}, inner {plan.shape.inner}, "
        f"{plan.shape.layers} layers",
        "captures": "one a size, largest first, one shared pool, 2 warm-up runs included",
        "replays": "median of 50 between CUDA events, each waited for",
        "graph_bytes": "growth of the device's used memory over all captures, divided evenly",
    }
    made = calibrate(step, sorted({*plan.trace, *plan.buckets}), provenance)
    file.write_text(json.dumps(made.document(), indent=1) + "\n")
    click.echo(f"{file}: {len(made.points)} sizes measured on {provenance['device']}")
    return 0


def prepare(arm: Arm, flags: Sequence[str]) -> BucketingRun:
    """An arm ready to be timed. Raises UsageError for flags that it does not take."""
    values = commands.parse(build(arm), flags, f"{arm}_cudagraph_bucketing")
    if values["calibrate_file"]:
        raise UsageError("--calibrate is no timed run: run the module itself")
    return BucketingRun(plan_of(arm, values))


def run(arm: Arm, argv: Sequence[str] | None) -> int:
    """Run an arm as a program; its exit code."""
    name = f"{arm}_cudagraph_bucketing"
    return int(commands.run(build(arm), argv, name))
