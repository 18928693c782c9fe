"""What the arms of the workload `tensor_cores` share: options, the timed run, and the run that exports.

A step is one prefill of `--batch` prompts. On CUDA the arms run the kernels that they are named after. A CPU
has neither tensor cores nor Triton: there the baseline is the same three operations, both other arms run
torch's fused attention, on a small size, and each says so.

The kernel that is exported is checked first: its output against the float64 reference, on rows from all over
the prompt. Then the device's ceilings are measured, and calls are timed one by one.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import click
import torch
from click.core import ParameterSource
from torch import Tensor

from monitorgen.kernels import command as commands
from monitorgen.kernels import timing
from monitorgen.kernels.attention.prefill_common import DTYPES, ERROR_LIMITS, HEAD_DIMS, Problem, check, made
from monitorgen.kernels.attention.prefill_reference import prefill_reference, relative_error, some_rows
from monitorgen.kernels.counters import Expected, KernelCounters, best_seconds
from monitorgen.kernels.decode.device import check_fits, choose_device
from monitorgen.kernels.expected import expected
from monitorgen.kernels.export import Telemetry, Terminated, exporting, prom_options
from monitorgen.kernels.workload import Outcome, UsageError

NAME = "tensor_cores"
Arm: TypeAlias = Literal["baseline", "optimized", "warp_specialized"]
COMPARED = 4096  # numbers of the output that arms are compared by
WARM = 5  # calls that are not counted: caches, clocks and pages come in
FIRST_CALLS = 20  # at least, whose median is what is expected where no file says it
# batch, heads, kv heads, tokens, head size: what a device takes milliseconds for.
SIZES = {"cuda": (2, 32, 8, 4096, 128), "cpu": (1, 4, 2, 256, 64)}


@dataclass(frozen=True, slots=True)
class Way:
    """A way to compute prefill: what it is, and a function of q, k and v.

    `leeway` is how many times the error of a fused kernel its own roundings account for.
    """

    what: str
    call: Callable[[Tensor, Tensor, Tensor], Tensor]
    leeway: float = 1.0
    facts: Callable[[], Mapping[str, float]] = dict


Make: TypeAlias = Callable[[Problem, torch.dtype, torch.device], Way]


def sdpa(problem: Problem) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """torch's own fused attention, what stands in for Triton on a CPU."""

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=problem.causal, enable_gqa=problem.heads != problem.kv_heads
        )

    return call


class PrefillRun:
    """One arm ready to be timed: inputs made, output not yet."""

    def __init__(self, arm: Arm, make: Make, values: Mapping[str, Any]) -> None:
        self._device = choose_device(values["device"])
        self.arm = arm
        self.problem = problem_of(values, self._device)
        self.dtype = DTYPES[values["dtype"]]
        held = 2 * self.problem.bytes_moved(self.dtype.itemsize)
        if arm == "baseline":  # scores, and their softmax
            pairs = self.problem.queries * self.problem.keys
            held += 3.0 * self.problem.batch * self.problem.heads * pairs * self.dtype.itemsize
        check_fits(f"the {arm} arm", int(held), self._device, "take a smaller --batch, --heads or --tokens")
        self.q, self.k, self.v = made(
            self.problem, dtype=self.dtype, device=self._device, seed=values["seed"]
        )
        try:
            check(self.q, self.k, self.v, causal=self.problem.causal, scale=None)
        except ValueError as error:
            raise UsageError(str(error)) from None
        self.way = make(self.problem, self.dtype, self._device)
        self.out: Tensor | None = None

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where it runs."""
        return "cuda" if self._device.type == "cuda" else "cpu"

    @property
    def bytes_moved(self) -> float:
        """Bytes of q, k, v and the output."""
        return float(self.problem.bytes_moved(self.dtype.itemsize))

    @property
    def flops(self) -> float:
        """Operations of both products, masked pairs not counted."""
        return float(self.problem.flops)

    def step(self) -> None:
        """One prefill."""
        self.out = self.way.call(self.q, self.k, self.v)

    @property
    def error_limit(self) -> float:
        """The relative error that the precision accounts for, in the way that is taken."""
        return float(ERROR_LIMITS[self.dtype]) * self.way.leeway

    def error(self) -> float:
        """The relative error of some rows of the output against the float64 reference."""
        if self.out is None:
            self.step()
        assert self.out is not None
        rows = some_rows(self.problem.queries).to(self._device)
        want, _ = prefill_reference(self.q, self.k, self.v, causal=self.problem.causal, rows=rows)
        return float(relative_error(self.out[:, :, rows], want))

    def outcome(self) -> Outcome:
        """Numbers from all over the output; two arms may each be off by what their precision accounts for."""
        if self.out is None:
            self.step()
        assert self.out is not None
        flat = self.out.flatten()
        some = flat[:: max(1, flat.numel() // COMPARED)].float().cpu().tolist()
        return Outcome(close={"output": (some, 2 * ERROR_LIMITS[self.dtype])})

    def metrics(self) -> Mapping[str, float]:
        """The error against the reference, and what the way knows of itself."""
        return {"error": self.error(), **self.way.facts()}

    def close(self) -> None:
        """Let go of the tensors."""
        self.out = None
        del self.q, self.k, self.v


def problem_of(values: Mapping[str, Any], device: torch.device) -> Problem:
    """The sizes that the options name, the device's own where they name none."""
    batch, heads, kv_heads, tokens, dim = (
        values[name] or size
        for name, size in zip(
            ("batch", "heads", "kv_heads", "tokens", "head_dim"), SIZES[device.type], strict=True
        )
    )
    return Problem(batch, heads, kv_heads, tokens, tokens, dim, values["causal"])


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    whole = click.IntRange(1)
    for option in reversed(
        (
            click.option("--batch", type=whole, help="Prompts.  [default: 2 on cuda, 1 on cpu]"),
            click.option("--heads", type=whole, help="Query heads.  [default: 32 on cuda, 4 on cpu]"),
            click.option("--kv-heads", type=whole, help="KV heads.  [default: 8 on cuda, 2 on cpu]"),
            click.option("--tokens", type=whole, help="Of a prompt.  [default: 4096 on cuda, 256 on cpu]"),
            click.option(
                "--head-dim",
                type=click.Choice([str(dim) for dim in HEAD_DIMS]),
                callback=lambda _c, _p, value: None if value is None else int(value),
                help="Head size.  [default: 128 on cuda, 64 on cpu]",
            ),
            click.option("--causal/--full", default=True, show_default=True, help="The mask."),
            click.option("--dtype", type=click.Choice(list(DTYPES)), default="bf16", show_default=True),
            click.option(
                "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
            ),
            click.option("--seed", type=int, default=0, show_default=True, help="Of q, k and v."),
            click.option(
                "--repeats", type=click.IntRange(1), default=30, show_default=True, help="Calls timed."
            ),
            click.option(
                "--rate",
                type=click.FloatRange(0),
                default=20.0,
                show_default=True,
                help="Calls a second while metrics are served; 0 for as many as possible.",
            ),
        )
    ):
        function = option(function)
    served: Callable[..., Any] = prom_options(function)
    return served


def make_command(arm: Arm, make: Make, about: str) -> click.Command:
    """The click command of an arm."""

    @click.pass_context
    def prefill(context: click.Context, /, **values: Any) -> int:
        given = context.get_parameter_source("prom_duration") is not ParameterSource.DEFAULT
        port, duration = values["prom_port"], values["prom_duration"]
        if duration and port is None:
            raise UsageError(f"--prom-duration {duration:g} needs --prom-port")
        if port is not None and not given:
            duration = math.inf
        counters = KernelCounters(f"{arm}_{NAME}")
        # The port is taken first: making inputs and measuring ceilings takes seconds.
        with exporting(Telemetry(kernels=[counters]), port=port, host=values["prom_host"]):
            run = PrefillRun(arm, make, values)
            try:
                return _serve(run, counters, values, duration, context.command)
            finally:
                run.close()

    made_command: click.Command = click.command(help=about, context_settings={"max_content_width": 110})(
        _options(prefill)
    )
    return made_command


def _serve(
    run: PrefillRun,
    counters: KernelCounters,
    values: Mapping[str, Any],
    duration: float,
    command: click.Command,
) -> int:
    """Check, measure and count calls; then go on as long as metrics are served. 1 for a wrong answer."""
    run.step()  # compiles
    error, limit = run.error(), run.error_limit
    ceilings = _ceilings(run.device)
    counters.bytes_per_call, counters.flops_per_call = run.bytes_moved, run.flops
    counters.best_seconds = best_seconds(
        run.bytes_moved,
        run.flops,
        ceilings["copy_gb_per_s"] * 1e9,
        ceilings["bf16_matmul_tflop_per_s"] * 1e12,
    )
    counters.error, counters.error_limit = error, limit
    for _ in range(WARM):
        run.step()
    first = []
    for _ in range(max(FIRST_CALLS, values["repeats"])):
        first.append(timed(run))
        counters.call(first[-1])
    seconds = statistics.median(first)
    counters.expected = _expected(run, values, command) or Expected(seconds, "startup")
    for line in _says(run, counters, seconds, error):
        click.echo(line)
    if error > limit or not math.isfinite(error):
        click.echo(f"the error is over {limit:g}: a wrong answer", err=True)
        if not duration:
            return 1
    if duration:
        span = "until SIGTERM" if math.isinf(duration) else f"for {duration:g} s more"
        click.echo(f"calls go on {span}", err=True)
        try:
            _go_on(run, counters, values["rate"], time.monotonic() + duration)
        except (Terminated, KeyboardInterrupt):
            click.echo("ended by request", err=True)
    return 0


def _ceilings(device: str) -> dict[str, float]:
    """The device's ceilings; of a CPU the best of three, since others that run there lower each of them."""
    found = [timing.ceilings(device) for _ in range(1 if device == "cuda" else 3)]
    return {name: max(one[name] for one in found) for name in found[0]}


def _go_on(run: PrefillRun, counters: KernelCounters, rate: float, end: float) -> None:
    """Call `rate` times a second until `end`. The error is measured anew every few seconds."""
    pause = threading.Event()
    due = checked = time.monotonic()
    while (now := time.monotonic()) < end:
        if now < due:
            pause.wait(min(due, end) - now)
            continue
        due = max(due + (1.0 / rate if rate else 0.0), now - 1.0)
        counters.call(timed(run))
        if now - checked >= 10.0:
            counters.error, checked = run.error(), time.monotonic()


def timed(run: PrefillRun) -> float:
    """Seconds of one call: between events on CUDA, by the clock on a CPU."""
    if run.device == "cpu":
        start = time.perf_counter()
        run.step()
        return time.perf_counter() - start
    events: Any = torch.cuda
    begin, done = events.Event(enable_timing=True), events.Event(enable_timing=True)
    begin.record()
    run.step()
    done.record()
    done.synchronize()
    return float(begin.elapsed_time(done)) / 1e3


def _expected(run: PrefillRun, values: Mapping[str, Any], command: click.Command) -> Expected | None:
    """What the file of this GPU expects of the same options; None on a CPU."""
    if run.device != "cuda":
        return None
    shape = ("batch", "heads", "kv_heads", "tokens", "head_dim", "causal", "dtype")

    def same(flags: list[str]) -> bool:
        theirs = commands.parse(command, flags, NAME)
        return all(theirs[name] == values[name] for name in shape)

    return expected(torch.cuda.get_device_name(run._device), NAME, run.arm, same)


def _says(run: PrefillRun, counters: KernelCounters, seconds: float, error: float) -> list[str]:
    """What ran, how fast, how right."""
    one = run.problem
    share = "" if not counters.best_seconds else f", {counters.best_seconds / seconds:.1%} of the roofline"
    facts = "".join(f", {name} {value:g}" for name, value in run.way.facts().items())
    expectation = counters.expected
    return [
        f"{run.arm} on {run.device}: {run.way.what}{facts}",
        f"batch {one.batch}, heads {one.heads}/{one.kv_heads}, {one.queries} tokens, head size {one.dim}, "
        f"{'causal' if one.causal else 'full'}, {run.dtype}: {seconds * 1e6:,.1f} us, "
        f"{run.flops / seconds / 1e12:,.3g} TFLOP/s{share}",
        f"error against float64 {error:.2e} (limit {run.error_limit:g})"
        + (f"; expected {expectation.seconds * 1e6:,.1f} us by {expectation.source}" if expectation else ""),
    ]


def main(arm: Arm, command: click.Command, argv: Sequence[str] | None) -> int:
    """Run an arm's command as a program; its exit code."""
    with torch.no_grad():
        return int(commands.run(command, argv, f"{arm}_{NAME}"))


def prepare(arm: Arm, make: Make, command: click.Command, flags: Sequence[str]) -> PrefillRun:
    """An arm ready to be timed. Raises UsageError for flags that it does not take."""
    return PrefillRun(arm, make, commands.parse(command, flags, f"{arm}_{NAME}"))
