"""What both arms of the FlexAttention workload share: flags, inputs, the timed run and the command.

Both attend with the same mask and score mod. The baseline hands SDPA an explicit mask (and bias, for ALiBi),
made once; a mod that no bias can express is computed by plain operators on whole score matrices. The
optimized arm calls compiled FlexAttention with a block mask made once.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from monitorgen.kernels import timing
from monitorgen.kernels.attention import masks, score_mods
from monitorgen.kernels.attention.flex_attention_native import (
    TOLERANCES,
    FlexPlan,
    attention_flops,
    dense_attention,
    plan,
    random_inputs,
    relative_error,
    visible_pairs,
)
from monitorgen.kernels.attention.flex_reference import dense_mask, indices, reference
from monitorgen.kernels.attention.masks import Mask
from monitorgen.kernels.attention.score_mods import ScoreMod
from monitorgen.kernels.attention.shapes import Shape, shape_options, sweep
from monitorgen.kernels.command import parse, run
from monitorgen.kernels.counters import KernelCounters, best_seconds
from monitorgen.kernels.decode.device import check_fits, choose_device, measure
from monitorgen.kernels.export import Telemetry, exporting, prom_options
from monitorgen.kernels.workload import Outcome, UsageError

Arm = Literal["baseline", "optimized"]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SAMPLED = 32  # queries of each head whose results are compared
DENSE_COPIES = 5  # score matrices that plain operators hold at once: scores, mod, mask, weights and one more


@dataclass(slots=True)
class FlexRun:
    """One arm, prepared: a step is one attention over the whole batch."""

    attend: Attend
    inputs: tuple[Tensor, Tensor, Tensor]
    planned: FlexPlan
    shape: Shape
    pairs: int
    plan_seconds: float
    out: Tensor | None = None

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where it runs."""
        return "cuda" if self.inputs[0].is_cuda else "cpu"

    @property
    def bytes_moved(self) -> float:
        """Bytes of q, k, v and the output, each once."""
        return float(sum(t.numel() * t.element_size() for t in (*self.inputs, self.inputs[0])))

    @property
    def flops(self) -> float:
        """Floating point operations on pairs that the mask lets see each other; what is masked is waste."""
        flops: float = attention_flops(self.pairs, self.shape.head)
        return flops

    def step(self) -> None:
        """Attend once."""
        with torch.no_grad():
            self.out = self.attend(*self.inputs)

    def rows(self) -> Tensor:
        """Positions of the queries that are compared, from first to last."""
        count = min(SAMPLED, self.shape.length)
        return torch.linspace(0, self.shape.length - 1, count, device=self.inputs[0].device).long()

    def outcome(self) -> Outcome:
        """The last output at some queries of every head."""
        if self.out is None:
            self.step()
        assert self.out is not None
        numbers: list[float] = self.out[:, :, self.rows()].double().flatten().tolist()
        # Each arm may be off by the tolerance.
        return Outcome(close={"output": (numbers, 2 * TOLERANCES[self.inputs[0].dtype])})

    def error(self) -> float:
        """The relative norm of the last output's difference to float64, at those queries."""
        if self.out is None:
            self.step()
        assert self.out is not None
        rows = self.rows()
        expected, _ = reference(*self.inputs, self.planned.mask, self.planned.score_mod, rows=rows)
        error: float = relative_error(self.out[:, :, rows], expected)
        return error

    def metrics(self) -> Mapping[str, float]:
        """Blocks and pairs of the mask, and the error against float64."""
        blocks = self.planned.sparsity
        return {
            "live_blocks_ratio": blocks.share,
            "whole_blocks_ratio": blocks.whole / blocks.total,
            "visible_pairs": float(self.pairs),
            "plan_seconds": self.plan_seconds,
            "reference_error": self.error(),
        }

    def close(self) -> None:
        """Free tensors."""
        del self.attend, self.inputs, self.planned
        self.out = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def chosen(flags: Mapping[str, Any], shape: Shape, device: torch.device) -> tuple[Mask, ScoreMod | None]:
    """The mask and the score mod that the flags name. Raises UsageError for other names."""
    ids = masks.document_ids(shape.batch, shape.length, shape.doc_span, seed=flags["seed"]).to(device)
    mask = masks.parse(flags["mask"], window=shape.window, ids=ids, prefix=shape.prefix)
    mod = score_mods.parse(
        flags["score_mod"], heads=shape.heads, cap=flags["cap"], gain=flags["gain"], device=device
    )
    return mask, mod


def dense_attend(
    shape: Shape, mask: Mask, mod: ScoreMod | None, dtype: torch.dtype, device: torch.device
) -> Attend:
    """The baseline: SDPA with the mask written out, or plain operators where a mod is no bias.

    K and V are repeated for the query heads that share them, in each call as models without GQA kernels do:
    SDPA's masked kernels do not share heads. Raises UsageError if score matrices would not fit.
    """
    pairs = shape.batch * shape.heads * shape.length**2
    if mod is not None and mod.__name__ != "alibi":
        check_fits(
            f"score matrices of {shape.text}", pairs * 4 * DENSE_COPIES, device, "take a shorter --seq-len"
        )
        return lambda q, k, v: dense_attention(q, k, v, mask, mod)
    check_fits(f"a mask of {shape.text}", pairs * (4 if mod else 1), device, "take a shorter --seq-len")
    seen = dense_mask(mask, shape.batch, shape.heads, shape.length, shape.length, device)
    if mod is not None:
        zero = torch.zeros((), device=device)
        bias = mod(zero, *indices(shape.batch, shape.heads, shape.length, shape.length, device))
        seen = bias.to(dtype).masked_fill(~seen, float("-inf"))
    group = shape.heads // shape.kv_heads

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        return scaled_dot_product_attention(q, k, v, attn_mask=seen)

    return attend


def resolve(flags: Mapping[str, Any]) -> tuple[torch.device, torch.dtype, list[Shape]]:
    """Device, type and shapes that the flags and the environment name. Raises UsageError."""
    device = choose_device(flags["device"])
    name = flags["dtype"] if flags["dtype"] != "auto" else "bf16" if device.type == "cuda" else "fp32"
    length = flags["seq_len"] if flags["seq_len"] != "auto" else "8192" if device.type == "cuda" else "256"
    return device, TYPES[name], list(sweep({**flags, "seq_len": length}))


def build(arm: Arm, flags: Mapping[str, Any], shape: Shape) -> FlexRun:
    """An arm ready to be timed at one shape. Raises UsageError for what cannot be run."""
    device, dtype, _ = resolve(flags)
    # Making a block mask looks at every pair once: differences of positions, and whether they are seen.
    check_fits(
        f"the block mask of {shape.text}",
        shape.batch * shape.length**2 * 10,
        device,
        "take a shorter --seq-len",
    )
    mask, mod = chosen(flags, shape, device)
    started = time.perf_counter()
    planned = plan(
        mask, mod, batch=shape.batch, heads=shape.heads, queries=shape.length, device=device,
        block=shape.block, compiled=True if flags["compiled"] else None,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    pairs = visible_pairs(mask, shape.batch, shape.heads, shape.length, shape.length, device)
    inputs = random_inputs(shape, device, dtype, flags["seed"])
    attend = planned if arm == "optimized" else dense_attend(shape, mask, mod, dtype, device)
    return FlexRun(attend, inputs, planned, shape, pairs, seconds)


OPTIONS = (
    click.option(
        "--mask",
        default="sliding_window&document",
        show_default=True,
        help=f"{', '.join(masks.NAMES)}, with & and | between; & binds first.",
    ),
    click.option(
        "--score-mod",
        default="none",
        show_default=True,
        help=f"{', '.join(score_mods.NAMES)}, with + between, applied in that order.",
    ),
    click.option("--cap", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True),
    click.option("--gain", type=click.FloatRange(0, min_open=True), default=1.5, show_default=True),
    shape_options(batch=1, seq_len="auto", block="128", doc_span="2048", heads=(32, 8, 128)),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
    click.option(
        "--dtype",
        type=click.Choice(["auto", *TYPES]),
        default="auto",
        show_default="bf16 on cuda, fp32 on cpu",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Of inputs and documents."),
    click.option("--compiled", is_flag=True, help="Optimized: compile on a CPU too; takes up to a minute."),
    click.option("--repeats", type=click.IntRange(1), default=20, show_default=True, help="Calls timed."),
    click.option("--json", "json_file", type=click.Path(), help="Write the results to a file."),
)


def make_command(arm: Arm, help_text: str) -> click.Command:
    """The click command of an arm. Both take all flags, so that a comparison can give the same to both."""

    def attend(**flags: Any) -> int:
        return execute(arm, flags)

    callback: Any = prom_options(attend)
    for option in reversed(OPTIONS):
        callback = option(callback)
    settings = {"max_content_width": 110}
    made: click.Command = click.command(help=help_text, context_settings=settings)(callback)
    return made


def execute(arm: Arm, flags: Mapping[str, Any]) -> int:
    """Run an arm's command over every shape, under an exporter if asked for. 1 if a result is wrong."""
    device, _, shapes = resolve(flags)
    # A kernel's counters are those of one shape, so that each shape of a sweep gets a name of its own.
    name = f"flex_attention_{arm}"
    kernels = [KernelCounters(f"{name} {shape.text}" if len(shapes) > 1 else name) for shape in shapes]
    prom = {"port": flags["prom_port"], "duration": flags["prom_duration"], "host": flags["prom_host"]}
    rows = []
    with exporting(Telemetry(kernels=kernels), **prom):
        limits = timing.ceilings(device.type) if flags["prom_port"] is not None else None
        for shape, counters in zip(shapes, kernels, strict=True):
            rows.append(measure_shape(arm, flags, shape, counters, limits))
        if flags["json_file"]:
            found = {"workload": "flex_attention", "arm": arm, "torch": torch.__version__, "rows": rows}
            Path(flags["json_file"]).write_text(json.dumps(found) + "\n", "utf-8")
    return 0 if all(row["ok"] for row in rows) else 1


def measure_shape(
    arm: Arm,
    flags: Mapping[str, Any],
    shape: Shape,
    counters: KernelCounters,
    limits: Mapping[str, float] | None,
) -> dict[str, Any]:
    """Time one shape, count its calls, and say what came of it."""
    made = build(arm, flags, shape)
    try:
        counters.bytes_per_call, counters.flops_per_call = made.bytes_moved, made.flops
        if limits is not None:
            copy, matmul = limits["copy_gb_per_s"] * 1e9, limits["bf16_matmul_tflop_per_s"] * 1e12
            counters.best_seconds = best_seconds(made.bytes_moved, made.flops, copy, matmul)
        samples = measure(made.step, made.inputs[0].device, flags["repeats"])
        for seconds in samples:
            counters.call(seconds)
        metrics = dict(made.metrics())
        median, error = statistics.median(samples), metrics["reference_error"]
        ok = error <= TOLERANCES[made.inputs[0].dtype]
        click.echo(
            f"{arm}: {shape.text} {made.planned.mask.__name__} {flags['score_mod']}: {median * 1e3:.3f} ms, "
            f"{made.flops / median / 1e12:.2f} TFLOP/s, live blocks {metrics['live_blocks_ratio']:.1%}, "
            f"error {error:.1e}{'' if ok else ' WRONG'}"
        )
        return {
            "shape": shape.text, "mask": flags["mask"], "score_mod": flags["score_mod"], "ok": ok,
            "samples_seconds": samples, "median_seconds": median, "metrics": metrics, "flops": made.flops,
        }  # fmt: skip
    finally:
        made.close()


def main(arm: Arm, command: click.Command, argv: Sequence[str] | None) -> int:
    """Run an arm's command as a program."""
    code: int = run(command, argv, f"{arm}_flex_attention")
    return code


def prepare(arm: Arm, command: click.Command, flags: Sequence[str]) -> FlexRun:
    """An arm ready to be timed, with the flags of its command. Raises UsageError for more than one shape."""
    values = parse(command, flags, f"{arm}_flex_attention")
    shapes = resolve(values)[2]
    if len(shapes) > 1:
        raise UsageError(
            f"{len(shapes)} shapes by --seq-len, --block-size and --doc-span: a timed run takes one"
        )
    return build(arm, values, shapes[0])
