"""What both arms of the paged attention workload share: flags, the batch, timing and telemetry.

A timed step is one decode attention of a batch. The baseline gathers the pages of each sequence and runs
torch's SDPA on them; the optimized arm runs our Triton kernels from a CUDA graph. Without CUDA, the optimized
arm runs a plain torch implementation over pages on a small batch, and says so.
"""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import click
import torch
from torch import Tensor

from monitorgen.kernels.attention import reference
from monitorgen.kernels.attention.paged_case import Case, make_case, ragged_lengths
from monitorgen.kernels.attention.paged_torch import dense_sdpa, paged_torch
from monitorgen.kernels.command import parse, run
from monitorgen.kernels.counters import KernelCounters, best_seconds
from monitorgen.kernels.decode.device import check_fits, choose_device, copy_rate, held_bytes, measure
from monitorgen.kernels.decode.graphs import capture, cuda
from monitorgen.kernels.export import Telemetry, exporting, prom_options
from monitorgen.kernels.workload import Outcome, UsageError

Arm = Literal["baseline", "optimized"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCE = 4e-3  # of bf16 against float64, as a relative norm; two right ways may be twice that apart
COMPARED = 4  # sequences that the command compares with the float64 reference


@dataclass(slots=True)
class PagedRun:
    """One arm, ready: `call` does the attention of the whole batch into `out`."""

    arm: Arm
    case: Case
    out: Tensor
    call: Callable[[], None]
    how: str
    workspace_bytes: int = 0
    calls: int = 0

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where it runs."""
        return "cuda" if self.out.device.type == "cuda" else "cpu"

    @property
    def bytes_moved(self) -> float:
        """Bytes that a step has to move: keys and values of the context, queries and results."""
        return float(self.case.kv_bytes + 2 * self.out.numel() * self.out.element_size())

    @property
    def flops(self) -> float:
        """Floating point operations of a step."""
        return float(self.case.flops(0))

    def step(self) -> None:
        """One attention, without waiting for the device."""
        self.calls += 1
        self.call()

    def outcome(self) -> Outcome:
        """The result. bf16 may be 4e-3 from the truth in each arm, so twice that from the other's."""
        return Outcome(close={"out": (self.out.float().flatten().tolist(), 2 * TOLERANCE)})

    def metrics(self) -> Mapping[str, float]:
        """Calls, and what is held."""
        held = [self.case.k_pages, self.case.v_pages, self.case.table, self.case.q, self.out]
        return {
            "calls": float(self.calls),
            "kv_read_bytes": float(self.case.kv_bytes),
            "cache_bytes": float(held_bytes(held)),
            "workspace_bytes": float(self.workspace_bytes),
        }

    def close(self) -> None:
        """Free what a graph holds; tensors go with the last reference."""
        self.call = _closed
        if self.device == "cuda":
            cuda.empty_cache()

    def error(self) -> float:
        """How far the last result is from the float64 reference, as a relative norm, for a few sequences."""
        case = self.case
        few = slice(0, COMPARED)
        want = reference.paged_decode(
            case.q[few], case.k_pages, case.v_pages, case.table[few], case.lengths[few]
        )
        distance: float = reference.relative_norm(self.out[few], want.out)
        return distance


def _closed() -> None:
    raise RuntimeError("this run was closed")


def build(arm: Arm, flags: Mapping[str, Any]) -> PagedRun:
    """An arm ready to be timed. Raises UsageError for what cannot be run."""
    device = choose_device(flags["device"])
    on_cuda = device.type == "cuda"
    batch = flags["batch"] or (64 if on_cuda else 4)
    context = flags["context"] or (4096 if on_cuda else 300)
    heads, kv_heads, dim = flags["heads"], flags["kv_heads"], flags["head_dim"]
    if heads % kv_heads:
        raise UsageError(f"--heads {heads}: not a multiple of --kv-heads {kv_heads}")
    lengths = [context] * batch
    if flags["mix"] == "ragged":
        lengths = ragged_lengths(batch, context, 8 * context, flags["seed"])
    dtype, page = DTYPES[flags["dtype"]], int(flags["page"])
    cache = 2 * sum(lengths) * kv_heads * dim * dtype.itemsize
    check_fits("the KV cache", cache + (1 << 28), device, "take a smaller --batch or --context")
    case = make_case(
        lengths, heads=heads, kv_heads=kv_heads, head_dim=dim, page_size=page, dtype=dtype, device=device,
        seed=flags["seed"], poison=on_cuda or arm == "baseline",
    )  # fmt: skip
    out = torch.full_like(case.q, torch.nan)
    if arm == "baseline":
        call = lambda: dense_sdpa(  # noqa: E731
            case.q, case.k_pages, case.v_pages, case.table, case.host_lengths, out
        )
        return PagedRun(arm, case, out, call, "SDPA over gathered pages, sequence by sequence")
    if not on_cuda:
        call = lambda: paged_torch(case.q, case.k_pages, case.v_pages, case.table, case.lengths, out)  # noqa: E731
        return PagedRun(
            arm, case, out, call, "plain torch over pages: there is no CUDA device for Triton here"
        )
    return _on_cuda(case, out, graph=flags["graph"])


def _on_cuda(case: Case, out: Tensor, *, graph: bool) -> PagedRun:
    """The Triton kernels, launched each time or as a CUDA graph."""
    if importlib.util.find_spec("triton") is None:
        raise UsageError("the optimized arm needs Triton on a CUDA device; it is not installed")
    from monitorgen.kernels.attention.paged_gqa import plan

    try:
        made = plan(
            batch=case.q.shape[0], heads=case.q.shape[1], kv_heads=case.k_pages.shape[2],
            head_dim=case.q.shape[2], page_size=case.k_pages.shape[1], max_length=max(case.host_lengths),
            table_width=case.table.shape[1], dtype=case.q.dtype, device=case.q.device,
        )  # fmt: skip
    except ValueError as error:
        raise UsageError(str(error)) from None

    def launch() -> None:
        made.run(case.q, case.k_pages, case.v_pages, case.table, case.lengths, out=out)

    call: Callable[[], None] = capture(launch).replay if graph else launch
    cut = made.tuning
    how = (
        f"Triton, {'CUDA graph' if graph else 'launched'}, {made.programs} programs, tiles of {cut.block}, "
        f"{'one kernel' if cut.fused else 'two kernels'}"
    )
    return PagedRun("optimized", case, out, call, how, made.workspace_bytes)


def make_command(arm: Arm, help_text: str) -> click.Command:
    """The click command of an arm."""

    def attend(**flags: Any) -> int:
        made = build(arm, flags)
        device = made.out.device
        copy = copy_rate(device)
        counters = KernelCounters(
            f"paged_attn_{arm}", made.bytes_moved, made.flops, best_seconds(made.bytes_moved, 0.0, copy, 0.0)
        )
        telemetry = Telemetry(kernels=[counters])
        with exporting(
            telemetry, port=flags["prom_port"], duration=flags["prom_duration"], host=flags["prom_host"]
        ):
            samples: list[float] = []
            while len(samples) < flags["calls"]:
                # In rounds, so that a scrape sees how it goes.
                some = measure(made.step, device, min(16, flags["calls"] - len(samples)), 0 if samples else 3)
                for seconds in some:
                    counters.call(seconds)
                samples += some
            median, rate = statistics.median(samples), made.bytes_moved / statistics.median(samples)
            lengths = made.case.host_lengths
            click.echo(
                f"{arm}: {len(lengths)} sequences of {min(lengths)} to {max(lengths)} tokens "
                f"on {device.type} ({made.how})"
            )
            error = made.error()
            click.echo(
                f"{arm}: {median * 1e6:,.1f} us, {rate / 1e9:,.1f} GB/s "
                f"({rate / copy:.1%} of the copy rate), {error:.1e} from the float64 reference"
            )
            made.close()
        return 0 if error <= TOLERANCE else 1

    callback: Any = prom_options(attend)
    for option in (
        click.option("--seed", type=int, default=0, show_default=True, help="Of lengths and contents."),
        click.option(
            "--calls", type=click.IntRange(1), default=50, show_default=True, help="Calls of the command."
        ),
        click.option(
            "--graph/--no-graph", default=True, show_default=True, help="Optimized on CUDA: a CUDA graph."
        ),
        click.option("--dtype", type=click.Choice(list(DTYPES)), default="bf16", show_default=True),
        click.option("--page", type=click.Choice(["16", "32", "64"]), default="16", show_default=True),
        click.option("--head-dim", type=click.IntRange(1), default=128, show_default=True),
        click.option("--kv-heads", type=click.IntRange(1), default=8, show_default=True),
        click.option("--heads", type=click.IntRange(1), default=32, show_default=True, help="Query heads."),
        click.option(
            "--mix", type=click.Choice(["ragged", "equal"]), default="ragged", show_default=True,
            help="Lengths: log-normal around --context, or all alike.",
        ),
        click.option(
            "--context", type=click.IntRange(1), show_default="4096 on cuda, 300 on cpu", help="Tokens."
        ),
        click.option(
            "--batch", type=click.IntRange(1), show_default="64 on cuda, 4 on cpu", help="Sequences."
        ),
        click.option(
            "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
        ),
    ):  # fmt: skip
        callback = option(callback)
    settings = {"max_content_width": 110}
    made: click.Command = click.command(help=help_text, context_settings=settings)(callback)
    return made


def main(arm: Arm, command: click.Command, argv: Sequence[str] | None) -> int:
    """Run an arm's command as a program; 1 if the result is too far from the reference."""
    code: int = run(command, argv, f"{arm}_paged_attn")
    return code


def prepare(arm: Arm, command: click.Command, flags: Sequence[str]) -> PagedRun:
    """An arm ready to be timed, with the flags of its command."""
    return build(arm, parse(command, flags, f"{arm}_paged_attn"))
