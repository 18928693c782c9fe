"""A whole stack of transformer layers on FlexAttention: chosen masks and mods, forward and backward.

`python -m monitorgen.kernels.attention.flex_attention_large_model --model 1b --masks "sliding_window,causal"`
gives layers the masks in turn, as models with local and global layers do, times a pass forward and one with
the backward pass, and says the share of live blocks of each mask. A small model of the same masks and mods is
compared with float64 first: its output, and the gradients of every weight.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from torch.nn.functional import rms_norm, silu

from monitorgen.kernels.attention.flex_attention_common import TYPES, chosen
from monitorgen.kernels.attention.flex_attention_native import (
    TOLERANCES,
    FlexPlan,
    attention_flops,
    plan,
    refuse_blocks,
    relative_error,
    visible_pairs,
)
from monitorgen.kernels.attention.flex_reference import reference
from monitorgen.kernels.attention.shapes import Shape, shape_options, sweep
from monitorgen.kernels.command import run
from monitorgen.kernels.decode.config import SHAPES, Config
from monitorgen.kernels.decode.device import check_fits, choose_device, measure
from monitorgen.kernels.workload import UsageError

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's weights: `qkv` [E, (Hq + 2 Hkv) D], `out` [Hq D, E], `gate_up` [E, 2 F], `down` [F, E]."""

    attention_norm: Tensor
    qkv: Tensor
    out: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """All of them, in this order."""
        return tuple(getattr(self, one.name) for one in fields(self))


def make_layers(config: Config, device: torch.device, dtype: torch.dtype, seed: int = 0) -> list[Layer]:
    """Random weights that keep activations near 1, the same on every device; they need gradients."""
    generator = torch.Generator().manual_seed(seed)
    width, inner = config.hidden, config.heads * config.head_dim

    def weight(rows: int, columns: int) -> Tensor:
        made = torch.randn(rows, columns, generator=generator) / math.sqrt(rows)
        return made.to(device, dtype).requires_grad_()

    def norm() -> Tensor:
        return torch.ones(width, device=device, dtype=dtype, requires_grad=True)

    return [
        Layer(
            norm(), weight(width, config.qkv_rows), weight(inner, width), norm(),
            weight(width, 2 * config.intermediate), weight(config.intermediate, width),
        )
        for _ in range(config.layers)
    ]  # fmt: skip


def rotate(x: Tensor, theta: float) -> Tensor:
    """Rotary positions on x [B, H, S, D], halves paired as in Llama (Su et al., "RoFormer", 2021)."""
    half = x.shape[-1] // 2
    # In float64 for the reference, in float32 for everything else: bf16 cannot hold large positions.
    wide = torch.promote_types(x.dtype, torch.float32)
    frequencies = theta ** (-torch.arange(half, device=x.device, dtype=torch.float64) / half)
    angles = torch.outer(torch.arange(x.shape[2], device=x.device, dtype=torch.float64), frequencies)
    cos, sin = angles.cos().to(wide), angles.sin().to(wide)
    first, second = x[..., :half].to(wide), x[..., half:].to(wide)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


def forward(config: Config, layers: Sequence[Layer], x: Tensor, attends: Sequence[Attend]) -> Tensor:
    """x [B, S, E] through every layer; layer i attends by `attends[i % len(attends)]`."""
    groups = [config.heads, config.kv_heads, config.kv_heads]
    for index, layer in enumerate(layers):
        mixed = rms_norm(x, x.shape[-1:], layer.attention_norm, config.norm_eps) @ layer.qkv
        heads = mixed.view(*x.shape[:2], -1, config.head_dim).transpose(1, 2)
        q, k, v = torch.split(heads, groups, 1)
        q, k = rotate(q, config.rope_theta), rotate(k, config.rope_theta)
        attended = attends[index % len(attends)](q, k, v)
        x = x + attended.transpose(1, 2).flatten(2) @ layer.out
        gate, up = (rms_norm(x, x.shape[-1:], layer.mlp_norm, config.norm_eps) @ layer.gate_up).chunk(2, -1)
        x = x + (silu(gate) * up) @ layer.down
    return x


def doubled(layers: Sequence[Layer]) -> list[Layer]:
    """The same weights in float64, as leaves of their own."""
    return [Layer(*(w.detach().double().requires_grad_() for w in layer.weights)) for layer in layers]


def gradients(out: Tensor, seed: Tensor, layers: Sequence[Layer]) -> list[Tensor]:
    """The gradient of sum(out * seed) for every weight, in order."""
    weights = [weight for layer in layers for weight in layer.weights]
    return list(torch.autograd.grad(out, weights, seed))


def compare(
    config: Config, plans: Sequence[FlexPlan], shape: Shape, device: torch.device, dtype: torch.dtype
) -> tuple[float, float]:
    """Relative errors against float64 of the output, and the largest of the weights' gradients."""
    layers = make_layers(config, device, dtype)
    generator = torch.Generator().manual_seed(1)
    x, seed = (
        torch.randn(shape.batch, shape.length, config.hidden, generator=generator).to(device, dtype)
        for _ in range(2)
    )
    out = forward(config, layers, x, plans)
    exact = doubled(layers)
    attends = [dense(one) for one in plans]
    expected = forward(config, exact, x.double(), attends)
    found, wanted = gradients(out, seed, layers), gradients(expected, seed.double(), exact)
    errors = [relative_error(one, other) for one, other in zip(found, wanted, strict=True)]
    return relative_error(out.detach(), expected.detach()), max(errors)


def dense(planned: FlexPlan) -> Attend:
    """The float64 reference with a plan's mask and mod."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = reference(q, k, v, planned.mask, planned.score_mod, planned.scale)[0]
        return out

    return attend


def make_plans(flags: Mapping[str, Any], shape: Shape, device: torch.device) -> list[FlexPlan]:
    """A plan for each mask of `--masks`, in turn. Raises UsageError for names that there are not."""
    plans = []
    for name in flags["masks"].split(","):
        mask, mod = chosen({**flags, "mask": name}, shape, device)
        plans.append(
            plan(
                mask, mod, batch=shape.batch, heads=shape.heads, queries=shape.length, device=device,
                block=shape.block,
            )
        )  # fmt: skip
    return plans


def measure_shape(
    config: Config, flags: Mapping[str, Any], shape: Shape, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Seconds of a pass forward and of one with its backward pass, with the masks' blocks."""
    tokens = shape.batch * shape.length
    (like,) = make_layers(replace(config, layers=1), torch.device("meta"), dtype)
    numbers = sum(weight.numel() for weight in like.weights)
    # Weights and their gradients; about 10 activations of a layer are kept for the backward pass.
    kept = tokens * (10 * config.hidden + 4 * config.intermediate + 2 * config.qkv_rows)
    check_fits(
        f"{config.name} with {config.layers} layers on {tokens} tokens",
        config.layers * (2 * numbers + kept) * dtype.itemsize, device,
        "take fewer --layers or a shorter --seq-len",
    )  # fmt: skip
    plans = make_plans(flags, shape, device)
    layers = make_layers(config, device, dtype)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape.batch, shape.length, config.hidden, generator=generator).to(device, dtype)

    def ahead() -> None:
        with torch.no_grad():
            forward(config, layers, x, plans)

    def there_and_back() -> None:
        out = forward(config, layers, x, plans)
        gradients(out, x, layers)

    forward_seconds = statistics.median(measure(ahead, device, flags["repeats"]))
    both_seconds = statistics.median(measure(there_and_back, device, flags["repeats"]))
    pairs = [
        visible_pairs(p.mask, shape.batch, shape.heads, shape.length, shape.length, device) for p in plans
    ]
    per_layer = [attention_flops(pairs[i % len(pairs)], config.head_dim) for i in range(config.layers)]
    flops = config.layers * tokens * 2 * numbers + sum(per_layer)
    return {
        "shape": shape.text, "layers": config.layers, "forward_seconds": forward_seconds,
        "forward_backward_seconds": both_seconds, "forward_flops": flops,
        "forward_tflop_per_s": flops / forward_seconds / 1e12, "tokens_per_second": tokens / both_seconds,
        "attention_share_of_flops": sum(per_layer) / flops,
        "masks": [{"mask": p.mask.__name__, "live": p.sparsity.share} for p in plans],
    }  # fmt: skip


CHECKED = Shape(2, 8, 4, 150, 32, 128, 24, 40, 37)
"""The small shape at which masks and mods are compared with float64: an odd length, groups of 2."""


def check_small(flags: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """The errors of a small model with the same masks and mods, a layer for each: output, gradients."""
    config = replace(SHAPES["tiny"], layers=max(2, len(flags["masks"].split(","))))
    return compare(config, make_plans(flags, CHECKED, device), CHECKED, device, dtype)


OPTIONS = (
    click.option(
        "--model", type=click.Choice(list(SHAPES)), default="tiny", show_default=True, help="A shape."
    ),
    click.option("--layers", type=click.IntRange(1), help="Layers.  [default: the model's]"),
    click.option(
        "--masks",
        default="sliding_window,causal",
        show_default=True,
        help="Masks that layers take in turn, with commas between.",
    ),
    click.option("--score-mod", default="none", show_default=True, help="Score mod of every layer."),
    click.option("--cap", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True),
    click.option("--gain", type=click.FloatRange(0, min_open=True), default=1.5, show_default=True),
    shape_options(batch=1, seq_len="256", block="128", doc_span="64", heads=None),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
    click.option("--dtype", type=click.Choice(["auto", *TYPES]), default="auto", show_default=True),
    click.option("--seed", type=int, default=0, show_default=True, help="Of documents."),
    click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Passes timed."),
    click.option("--json", "json_file", type=click.Path(), help="Write the results to a file."),
)


def _bare(**flags: Any) -> int:
    """Run a stack of transformer layers on FlexAttention, checked against float64 on a small model."""
    config, device = SHAPES[flags["model"]], choose_device(flags["device"])
    config = replace(config, layers=flags["layers"] or config.layers)
    name = flags["dtype"] if flags["dtype"] != "auto" else "bf16" if device.type == "cuda" else "fp32"
    dtype = TYPES[name]
    sizes = {"heads": config.heads, "kv_heads": config.kv_heads, "head_dim": config.head_dim}
    shapes = list(sweep({**flags, **sizes}))
    for shape in shapes:
        if shape.length > config.positions:
            raise UsageError(f"--seq-len {shape.length}: {config.name} has {config.positions} positions")
        refuse_blocks(shape, dtype, device)
    error, worst = check_small(flags, device, dtype)
    # Every layer rounds what it adds and what it passes back, in attention and in its products.
    ok = error <= 4 * TOLERANCES[dtype] and worst <= 12 * TOLERANCES[dtype]
    click.echo(f"{'ok' if ok else 'WRONG'}: small model, error {error:.1e}, gradients {worst:.1e}")
    rows = []
    for shape in shapes:
        found = measure_shape(config, flags, shape, device, dtype)
        rows.append(found)
        live = ", ".join(f"{one['mask']} {one['live']:.1%}" for one in found["masks"])
        click.echo(
            f"{shape.text}, {config.layers} layers: forward {found['forward_seconds'] * 1e3:.2f} ms "
            f"({found['forward_tflop_per_s']:.2f} TFLOP/s), with backward "
            f"{found['forward_backward_seconds'] * 1e3:.2f} ms; live blocks: {live}"
        )
    if flags["json_file"]:
        result = {"model": config.name, "error": error, "gradient_error": worst, "ok": ok, "rows": rows}
        Path(flags["json_file"]).write_text(json.dumps(result) + "\n", "utf-8")
    return 0 if ok else 1


def _make_command() -> click.Command:
    callback: Any = _bare
    for option in reversed(OPTIONS):
        callback = option(callback)
    made: click.Command = click.command(context_settings={"max_content_width": 110})(callback)
    return made


command = _make_command()


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code, 1 if the small model differs from the reference."""
    code: int = run(command, argv, "flex_attention_large_model")
    return code


if __name__ == "__main__":
    sys.exit(main())
