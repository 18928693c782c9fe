"""Trains a target on the generated corpus and drafts on the target's own distributions.

`python -m monitorgen.kernels.speculative.train --pair tiny` takes seconds on one core, `--pair 1b` minutes on
one GPU (not measured yet). The seed and the loss curves are kept as JSON beside the weights.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from monitorgen.kernels import command as commands
from monitorgen.kernels.decode.config import Config
from monitorgen.kernels.decode.device import check_fits, choose_device
from monitorgen.kernels.decode.torch_ops import rms_norm, rotate
from monitorgen.kernels.decode.weights import DTYPES, Weights, random_weights
from monitorgen.kernels.speculative.corpus import documents
from monitorgen.kernels.speculative.models import (
    PAIRS,
    Course,
    Pair,
    cache_folder,
    file_name,
    from_tensors,
    load,
    pair_of,
    save,
    to_tensors,
)

Say = Callable[[str], Any]
LOSS_EVERY = 10  # steps between two points of the loss curve


def hidden_states(weights: Weights, tokens: Tensor) -> Tensor:
    """The last hidden state at every position of sequences [B, T] without a cache, [B, T, H]."""
    config, (batch, length) = weights.config, tokens.shape
    cos, sin = weights.cos[:length, None], weights.sin[:length, None]  # [T, 1, D / 2]
    x = F.embedding(tokens, weights.embed)  # [B, T, H]
    for layer in weights.layers:
        normed = rms_norm(x, layer.attention_norm, config.norm_eps)
        heads = F.linear(normed, layer.qkv).view(batch, length, -1, config.head_dim)
        q, k, v = torch.split(heads, [config.heads, config.kv_heads, config.kv_heads], 2)  # [B, T, heads, D]
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        attended = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, enable_gqa=True
        )  # [B, Hq, T, D]
        x = x + F.linear(attended.transpose(1, 2).flatten(2), layer.out)
        gate, up = F.linear(rms_norm(x, layer.mlp_norm, config.norm_eps), layer.gate_up).chunk(2, -1)
        x = x + F.linear(F.silu(gate) * up, layer.down)
    return x


def logits_of(weights: Weights, hidden: Tensor) -> Tensor:
    """The logits after hidden states [..., H], [..., V]."""
    return F.linear(rms_norm(hidden, weights.norm, weights.config.norm_eps), weights.head)


def batches(seed: int, batch: int, length: int, device: torch.device) -> Iterator[Tensor]:
    """Batches [B, T + 1] of a stream of documents put one after another, without end."""
    stream = (token for document in documents(seed) for token in document)
    while True:
        flat = list(islice(stream, batch * (length + 1)))
        yield torch.tensor(flat, device=device).view(batch, length + 1)


def train_target(
    config: Config, course: Course, seed: int, device: torch.device
) -> tuple[Weights, list[float]]:
    """A model that predicts the corpus, in float32, and its loss curve (cross entropy, in nats)."""
    weights = _start(config, seed, device)

    def loss(tokens: Tensor) -> Tensor:
        logits = logits_of(weights, hidden_states(weights, tokens[:, :-1]))
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())

    curve = optimise(list(to_tensors(weights).values()), loss, course, seed, device)
    return weights, curve


def distil(
    config: Config, target: Weights, course: Course, seed: int, device: torch.device
) -> tuple[Weights, list[float]]:
    """A draft that says what the target says, and its loss curve (KL divergence from the target, in nats)."""
    weights = _start(config, seed + 1, device)

    def loss(tokens: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = logits_of(target, hidden_states(target, tokens[:, :-1])).float().log_softmax(-1)
        found = logits_of(weights, hidden_states(weights, tokens[:, :-1])).float().log_softmax(-1)
        return F.kl_div(found, wanted, log_target=True, reduction="none").sum(-1).mean()

    # Other documents than the target's.
    curve = optimise(list(to_tensors(weights).values()), loss, course, seed + 1000, device)
    return weights, curve


def _start(config: Config, seed: int, device: torch.device) -> Weights:
    """Weights to start from: random ones, what adds to the residual stream made small."""
    weights = random_weights(config, device=device, dtype=torch.float32, seed=seed)
    for layer in weights.layers:
        layer.out.mul_(1 / math.sqrt(2 * config.layers))
        layer.down.mul_(1 / math.sqrt(2 * config.layers))
    return weights


def optimise(
    parameters: Sequence[Tensor],
    loss: Callable[[Tensor], Tensor],
    course: Course,
    seed: int,
    device: torch.device,
) -> list[float]:
    """AdamW with a warm-up and a cosine to zero, in place; returns the loss at every tenth step."""
    cuda = device.type == "cuda"
    curve: list[float] = []
    with torch.enable_grad():
        for tensor in parameters:
            tensor.requires_grad_(True)
        optimiser = torch.optim.AdamW(parameters, lr=course.rate, betas=(0.9, 0.95), weight_decay=0.01)
        warm = max(1, course.steps // 20)
        stream = batches(seed, course.batch, course.length, device)
        for step, tokens in zip(range(course.steps), stream, strict=False):
            share = (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * step / course.steps))
            for group in optimiser.param_groups:
                group["lr"] = course.rate * share
            # bf16 matrix products on a GPU; weights and optimiser stay float32.
            mixed: AbstractContextManager[Any] = (
                torch.autocast("cuda", torch.bfloat16) if cuda else nullcontext()
            )
            with mixed:
                found = loss(tokens)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(found)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            if step % LOSS_EVERY == 0 or step == course.steps - 1:
                curve.append(round(found.item(), 4))
    for tensor in parameters:
        tensor.requires_grad_(False)
        tensor.grad = None
    return curve


def trained(
    pair: Pair,
    draft: str,
    *,
    seed: int = 0,
    device: torch.device,
    dtype: torch.dtype,
    folder: Path | None = None,
    say: Say = lambda _: None,
) -> tuple[Weights, Weights | None]:
    """The pair's target and a draft (none for ''), from the folder or trained into it; then in `dtype`."""
    folder = folder or cache_folder()
    target_file = folder / f"{file_name(pair.target, pair.course, seed)}.pt"
    target: Weights | None = None
    if not target_file.is_file():
        target = _make(target_file, pair, pair.course, seed, device, say, None)
    tensors = load(target_file)
    if not draft:
        return from_tensors(pair.target, tensors, device, dtype), None
    config = pair.drafts[draft]
    draft_file = folder / f"{file_name(config, pair.draft_course, target_file.name, seed)}.pt"
    if not draft_file.is_file():
        target = target or from_tensors(pair.target, tensors, device, torch.float32)
        _make(draft_file, pair, pair.draft_course, seed, device, say, (config, target))
    del target  # the float32 weights of training, before those that decode are made
    made = from_tensors(config, load(draft_file), device, dtype)
    return from_tensors(pair.target, tensors, device, dtype), made


def _make(
    file: Path,
    pair: Pair,
    course: Course,
    seed: int,
    device: torch.device,
    say: Say,
    draft: tuple[Config, Weights] | None,
) -> Weights:
    """Train a model into a file: the pair's target, or a draft for it."""
    config = draft[0] if draft else pair.target
    # Weights, gradients and two moments in float32, and as much again for activations.
    check_fits(f"training {config.name}", 2 * 16 * config.parameters, device, "take --pair tiny")
    say(f"training {config.name}: {config.parameters:,} parameters, {course.steps} steps on {device.type}")
    started = time.perf_counter()
    if draft:
        weights, curve = distil(draft[0], draft[1], course, seed, device)
    else:
        weights, curve = train_target(config, course, seed, device)
    seconds = time.perf_counter() - started
    told = {
        "model": asdict(config),
        "learns": f"the distributions of {pair.target.name}" if draft else "the corpus",
        "loss": "KL divergence, nats" if draft else "cross entropy, nats",
        "seed": seed,
        "course": asdict(course),
        "curve_every": LOSS_EVERY,
        "curve": curve,
        "seconds": round(seconds, 1),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
    }
    save(file, to_tensors(weights), told)
    say(f"trained {config.name} in {seconds:.1f} s: loss {curve[0]:.3f} to {curve[-1]:.3f}; {file}")
    return weights


@click.command(context_settings={"max_content_width": 110})
@click.option("--pair", "name", default="tiny", show_default=True, help=f"Of: {', '.join(PAIRS)}.")
@click.option("--draft", default="", show_default="all of them", help="A draft of the pair, by name.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights and corpus.")
@click.option(
    "--models", type=click.Path(path_type=Path), help="Folder of the weights.  [default: the user's cache]"
)
def command(name: str, draft: str, device: str, seed: int, models: Path | None) -> int:
    """Train a pair of models that agree, where they are not there yet."""
    pair, _ = pair_of(name, draft)
    for one in [draft] if draft else list(pair.drafts):
        trained(
            pair, one, seed=seed, device=choose_device(device), dtype=DTYPES["fp32"], folder=models,
            say=lambda line: click.echo(line, err=True),
        )  # fmt: skip
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    torch.set_grad_enabled(False)
    return int(commands.run(command, argv, "train"))


if __name__ == "__main__":
    sys.exit(main())
