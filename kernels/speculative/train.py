"""Trains a target on the generated corpus and drafts on the target's own distributions.

`python -m monitorgen.kernels.speculative.train --pair tiny` takes seconds on one core, `--pair 1b` minutes on
one GPU (not measured yet). The seed and the loss curves are kept as JSON beside the weights;
`training_tiny.json` holds those of the tiny pair with seed 0 on one core.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
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
from monitorgen.kernels.decode.weights import DTYPES, Weights, random_weights
from monitorgen.kernels.speculative.corpus import documents
from monitorgen.kernels.speculative.full_pass import hidden_states, logits_of
from monitorgen.kernels.speculative.head import Head, following, head_of, make_head
from monitorgen.kernels.speculative.models import (
    HEAD,
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
UNROLL = 4  # tokens ahead that a head is trained for


@dataclass(frozen=True, slots=True)
class Trained:
    """A pair's target, with the draft or the head that was asked for."""

    target: Weights
    draft: Weights | None = None
    head: Head | None = None


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


def train_head(
    target: Weights, inner: int, course: Course, seed: int, device: torch.device
) -> tuple[Head, list[float]]:
    """A head that says what the target says, up to UNROLL tokens ahead, and its loss curve (as `distil`)."""
    head = make_head(target.config.hidden, inner, seed + 2, device)

    def loss(tokens: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = hidden_states(target, tokens[:, :-1])  # [B, T, H]
            wanted = logits_of(target, hidden).float().log_softmax(-1)
        span = hidden.shape[1] - UNROLL
        state, total = hidden[:, :span], hidden.new_zeros((), dtype=torch.float32)
        for ahead in range(1, UNROLL + 1):
            state = following(head, target, state, tokens[:, ahead : ahead + span])
            found = logits_of(target, state).float().log_softmax(-1)
            told = F.kl_div(found, wanted[:, ahead : ahead + span], log_target=True, reduction="none")
            total = total + told.sum(-1).mean() / UNROLL
        loss_: Tensor = total
        return loss_

    curve = optimise(list(head.tensors().values()), loss, course, seed + 2000, device)
    return head, curve


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
) -> Trained:
    """The pair's target, and a draft by its name, a head for `head`, nothing for ''; then in `dtype`.

    They are read from the folder, or trained into it.
    """
    folder = folder or cache_folder()
    make = _Maker(pair, seed, device, folder, say)
    file = make.target()
    tensors = load(file)
    small = make.head(file, tensors) if draft == HEAD else make.draft(draft, file, tensors) if draft else None
    target = from_tensors(pair.target, tensors, device, dtype)
    if small is None:
        return Trained(target)
    if draft == HEAD:
        return Trained(target, head=head_of(load(small), device, dtype))
    return Trained(target, from_tensors(pair.drafts[draft], load(small), device, dtype))


@dataclass(frozen=True, slots=True)
class _Maker:
    """Trains what a folder does not hold yet; each method returns the file."""

    pair: Pair
    seed: int
    device: torch.device
    folder: Path
    say: Say

    def target(self) -> Path:
        """The pair's target."""
        pair = self.pair
        file = self.folder / f"{file_name(pair.target, pair.course, self.seed)}.pt"

        def train() -> tuple[dict[str, Tensor], list[float]]:
            made, curve = train_target(pair.target, pair.course, self.seed, self.device)
            return to_tensors(made), curve

        size = pair.target.parameters
        return self._once(file, pair.target.name, "the corpus", size, pair.course, train)

    def draft(self, name: str, target_file: Path, tensors: Mapping[str, Tensor]) -> Path:
        """A draft for it."""
        pair, config = self.pair, self.pair.drafts[name]
        file = self.folder / f"{file_name(config, pair.draft_course, target_file.name, self.seed)}.pt"

        def train() -> tuple[dict[str, Tensor], list[float]]:
            target = from_tensors(pair.target, tensors, self.device, torch.float32)
            made, curve = distil(config, target, pair.draft_course, self.seed, self.device)
            return to_tensors(made), curve

        return self._once(file, config.name, pair.target.name, config.parameters, pair.draft_course, train)

    def head(self, target_file: Path, tensors: Mapping[str, Tensor]) -> Path:
        """A head on it."""
        pair, name = self.pair, f"{self.pair.target.name}-head"
        digest = file_name(pair.target, HEAD, pair.inner, pair.draft_course, target_file.name, self.seed)
        file = self.folder / f"{digest.replace(pair.target.name, name, 1)}.pt"

        def train() -> tuple[dict[str, Tensor], list[float]]:
            target = from_tensors(pair.target, tensors, self.device, torch.float32)
            made, curve = train_head(target, pair.inner, pair.draft_course, self.seed, self.device)
            return made.tensors(), curve

        size = 3 * pair.inner * pair.target.hidden
        return self._once(file, name, pair.target.name, size, pair.draft_course, train)

    def _once(
        self,
        file: Path,
        name: str,
        teacher: str,
        size: int,
        course: Course,
        train: Callable[[], tuple[dict[str, Tensor], list[float]]],
    ) -> Path:
        """Train into a file that is not there yet, with what is told of it beside. Raises UsageError."""
        if file.is_file():
            return file
        # Weights, gradients and two moments in float32, and as much again for activations.
        check_fits(f"training {name}", 2 * 16 * size, self.device, "take --pair tiny")
        self.say(f"training {name}: {size:,} parameters, {course.steps} steps on {self.device.type}")
        started = time.perf_counter()
        tensors, curve = train()
        seconds = time.perf_counter() - started
        cuda = self.device.type == "cuda"
        told = {
            "model": name,
            "parameters": size,
            "learns": teacher,
            "loss": "cross entropy, nats" if teacher == "the corpus" else "KL divergence from it, nats",
            "seed": self.seed,
            "course": asdict(course),
            "curve_every": LOSS_EVERY,
            "curve": curve,
            "seconds": round(seconds, 1),
            "device": torch.cuda.get_device_name() if cuda else "cpu",
            "torch": torch.__version__,
        }
        save(file, tensors, told)
        self.say(f"trained {name} in {seconds:.1f} s: loss {curve[0]:.3f} to {curve[-1]:.3f}; {file}")
        return file


@click.command(context_settings={"max_content_width": 110})
@click.option("--pair", "name", default="tiny", show_default=True, help=f"Of: {', '.join(PAIRS)}.")
@click.option(
    "--draft", default="", show_default="all of them", help="A draft of the pair by name, or `head`."
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights and corpus.")
@click.option(
    "--models", type=click.Path(path_type=Path), help="Folder of the weights.  [default: the user's cache]"
)
def command(name: str, draft: str, device: str, seed: int, models: Path | None) -> int:
    """Train a pair of models that agree, where they are not there yet."""
    pair, _ = pair_of(name, "" if draft == HEAD else draft)
    for one in [draft] if draft else [*pair.drafts, HEAD]:
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
