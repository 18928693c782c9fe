"""A small random target, a draft that is the target with noise, and loops over them: nothing is trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from monitorgen.kernels.decode.config import Config
from monitorgen.kernels.decode.sampling import Sampling
from monitorgen.kernels.decode.torch_ops import TorchOps
from monitorgen.kernels.decode.weights import Layer, Weights, random_weights
from monitorgen.kernels.speculative.accept import Proposal
from monitorgen.kernels.speculative.draft_model import ModelDrafter
from monitorgen.kernels.speculative.head import HeadDrafter, make_head
from monitorgen.kernels.speculative.ngram import NgramDrafter
from monitorgen.kernels.speculative.plain import Plain
from monitorgen.kernels.speculative.sequences import Sequences
from monitorgen.kernels.speculative.speculator import Speculator
from monitorgen.kernels.speculative.verify import Verifier

torch.set_grad_enabled(False)

VOCAB, CONTEXT, END = 41, 96, 35
SHAPE = Config(
    "small", VOCAB, hidden=16, layers=2, heads=2, kv_heads=1, head_dim=8, intermediate=24, positions=CONTEXT
)
PARTS = ("attention_norm", "qkv", "out", "mlp_norm", "gate_up", "down")


def target(config: Config = SHAPE, seed: int = 3) -> Weights:
    """Random weights."""
    return random_weights(config, device="cpu", dtype=torch.float32, seed=seed)


def noisy(weights: Weights, amount: float = 0.15, seed: int = 1) -> Weights:
    """The same weights with noise of a share of their deviation: agrees with them at times."""
    generator = torch.Generator().manual_seed(seed)

    def shaken(tensor: Tensor) -> Tensor:
        return tensor + amount * tensor.std() * torch.randn(tensor.shape, generator=generator)

    layers = tuple(Layer(*(shaken(getattr(layer, part)) for part in PARTS)) for layer in weights.layers)
    embed, head = shaken(weights.embed), shaken(weights.head)
    return Weights(weights.config, embed, layers, weights.norm, head, weights.cos, weights.sin)


def requests(count: int, seed: int = 2) -> tuple[list[list[int]], list[int]]:
    """Ragged prompts of 1 to 20 tokens, and answers of 1 to 24."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 21, (count,), generator=generator).tolist()
    prompts = [torch.randint(VOCAB, (size,), generator=generator).tolist() for size in sizes]
    return prompts, torch.randint(1, 25, (count,), generator=generator).tolist()


def plain_tokens(
    weights: Weights, prompts: list[list[int]], answers: list[int], end: int = END
) -> list[list[int]]:
    """What our plain decode says."""
    loop = Plain(weights, TorchOps(weights), len(prompts), CONTEXT, end=end)
    loop.start(prompts, answers)
    return loop.run().tokens


def drafter(method: str, draft: Weights, rows: int, sampling: Sampling | None = None) -> Any:
    """A drafter by its name."""
    if method == "ngram":
        return NgramDrafter(1, 3)
    return ModelDrafter(draft, TorchOps(draft), TorchOps(draft), rows, CONTEXT, sampling)


def with_head(
    weights: Weights, rows: int, k: int, end: int = END, draws: Sequence[Sampling | None] = (None, None)
) -> Speculator:
    """A loop that drafts by an untrained head, which mostly says the last token again; draft's and target's
    sampling as `draws`."""
    verifier = Verifier(weights, TorchOps(weights), rows, k, CONTEXT, draws[1], keep=True)
    head = make_head(weights.config.hidden, 8, 1, torch.device("cpu"))
    return Speculator(verifier, HeadDrafter(head, verifier, draws[0]), rows, CONTEXT, end=end)


def speculator(
    weights: Weights,
    drafter: Any,
    rows: int,
    k: int,
    *,
    end: int = END,
    sampling: Sampling | None = None,
    **more: Any,
) -> Speculator:
    """A loop over torch's ops."""
    verifier = Verifier(weights, TorchOps(weights), rows, k, CONTEXT, sampling)
    return Speculator(verifier, drafter, rows, CONTEXT, end=end, **more)


class ScriptedDrafter:
    """Proposes what a script says at each place of each row: right tokens, wrong ones, ends, or nothing."""

    name = "scripted"
    drawn = False
    generators: tuple[torch.Generator, ...] = ()

    def __init__(self) -> None:
        self.script: list[dict[int, list[int]]] = []

    def prefill(self, slots: Tensor, tokens: Tensor, lengths: Tensor) -> None:
        """Nothing to read."""

    def propose(self, sequences: Sequences, k: int, proposal: Proposal) -> None:
        """The script's tokens for each row's length; none where it says nothing."""
        for row, length in enumerate(sequences.lengths.tolist()):
            draft = self.script[row].get(length, [])[:k]
            proposal.tokens[:, row] = 0
            proposal.tokens[: len(draft), row] = torch.tensor(draft, dtype=torch.int64)
            proposal.count[row] = len(draft)

    def tensors(self) -> Iterable[Tensor]:
        """Nothing is held."""
        return ()
