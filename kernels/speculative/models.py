"""Pairs of a target and drafts that agree: their shapes, and where trained ones are kept.

Trained weights are files of tensors in the user's cache folder (`XDG_CACHE_HOME`, else `~/.cache`), named by
everything that they depend on, beside a JSON with the seed and the loss curve. What is not there is trained.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monitorgen.kernels.decode.config import Config
from monitorgen.kernels.decode.weights import Layer, Weights, rotary
from monitorgen.kernels.speculative.corpus import vocabulary
from monitorgen.kernels.workload import UsageError

VERSION = 1
"""Part of a file's name: raise it when the training or the corpus changes."""

HEAD = "head"
"""What `trained` calls the head of a pair, beside the names of its drafts."""

WORDS = len(vocabulary())
SMALL_VOCAB = -(-WORDS // 16) * 16  # the words, up to a size that tiles divide


@dataclass(frozen=True, slots=True)
class Course:
    """How a model is trained: steps of `batch` sequences of `length` tokens, with a peak learning rate."""

    steps: int
    batch: int
    length: int
    rate: float


@dataclass(frozen=True, slots=True)
class Pair:
    """A target, drafts for it by name, and how each is trained; a draft learns the target's distributions."""

    name: str
    target: Config
    drafts: Mapping[str, Config]
    course: Course
    draft_course: Course
    best: str  # the draft that is taken if none is named
    inner: int  # the inner size of a drafting head


def _draft(target: Config, name: str, hidden: int, layers: int, heads: int, kv_heads: int) -> Config:
    return replace(
        target, name=f"{target.name}-{name}", hidden=hidden, layers=layers, heads=heads, kv_heads=kv_heads,
        intermediate=2 * hidden,
    )  # fmt: skip


_TINY = Config(
    "spec-tiny", vocab=SMALL_VOCAB, hidden=128, layers=3, heads=4, kv_heads=2, head_dim=32, intermediate=256,
    positions=512, tied=True,
)  # fmt: skip
# The layers of Llama 3.2 1B, 0.97B parameters, and a head of 32k words, most of which no text ever uses: a
# step has to read 2.1 GB in bf16.
_ONE_B = Config(
    "spec-1b", vocab=32768, hidden=2048, layers=16, heads=32, kv_heads=8, head_dim=64, intermediate=8192,
    positions=2048, rope_theta=500000.0, tied=True,
)  # fmt: skip

PAIRS: Mapping[str, Pair] = {
    pair.name: pair
    for pair in (
        Pair(
            "tiny",
            _TINY,
            {
                "small": _draft(_TINY, "small", 32, 1, 1, 1),
                "medium": _draft(_TINY, "medium", 64, 1, 2, 1),
            },
            Course(steps=110, batch=12, length=64, rate=4e-3),
            Course(steps=90, batch=12, length=64, rate=8e-3),
            "medium",
            128,
        ),
        Pair(
            "1b",
            _ONE_B,
            {
                "small": _draft(_ONE_B, "small", 256, 1, 4, 2),
                "medium": _draft(_ONE_B, "medium", 512, 2, 8, 4),
                "large": _draft(_ONE_B, "large", 1024, 4, 16, 8),
            },
            Course(steps=300, batch=32, length=160, rate=3e-4),
            Course(steps=400, batch=32, length=160, rate=2e-3),
            "medium",
            2048,
        ),
    )
}
"""Pairs by name: `tiny` trains in seconds on a core, `1b` in minutes on a GPU."""


def pair_of(name: str, draft: str) -> tuple[Pair, str]:
    """A pair, and the name of its draft; an empty one is the pair's best. Raises UsageError for neither."""
    if name not in PAIRS:
        raise UsageError(f"no pair {name!r} of trained models; there are: {', '.join(PAIRS)}")
    pair = PAIRS[name]
    if (draft or pair.best) not in pair.drafts:
        raise UsageError(f"no draft {draft!r} for the pair {name}; there are: {', '.join(pair.drafts)}")
    return pair, draft or pair.best


def cache_folder() -> Path:
    """Where trained models are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "monitorgen" / "speculative"


def file_name(config: Config, *what: Any) -> str:
    """The name of a file of weights: the model's, and a digest of all that they depend on."""
    text = json.dumps([VERSION, asdict(config), vocabulary(), *map(str, what)], sort_keys=True)
    return f"{config.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def save(path: Path, tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
    """Write tensors, and beside them what is told of their training; each file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    torch.save({name: tensor.detach().cpu() for name, tensor in tensors.items()}, part)
    path.with_suffix(".json").write_text(json.dumps(dict(told), indent=1) + "\n", "utf-8")
    part.replace(path)


def load(path: Path) -> dict[str, Tensor]:
    """Read tensors. Raises UsageError for a file that cannot be read."""
    try:
        found: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"{path} cannot be read as trained weights ({reason}); delete it to train anew"
        ) from None
    return found


PARTS = ("attention_norm", "qkv", "out", "mlp_norm", "gate_up", "down")


def to_tensors(weights: Weights) -> dict[str, Tensor]:
    """The trained tensors of a tied model, by name."""
    found = {"embed": weights.embed, "norm": weights.norm}
    for index, layer in enumerate(weights.layers):
        found |= {f"layer{index}.{part}": getattr(layer, part) for part in PARTS}
    return found


def from_tensors(
    config: Config, tensors: Mapping[str, Tensor], device: torch.device | str, dtype: torch.dtype
) -> Weights:
    """A tied model of trained tensors. Raises UsageError if they are not those of its shape."""
    try:
        placed = {name: tensor.to(device, dtype) for name, tensor in tensors.items()}
        layers = tuple(
            Layer(*(placed[f"layer{index}.{part}"] for part in PARTS)) for index in range(config.layers)
        )
        embed, norm = placed["embed"], placed["norm"]
    except KeyError as error:
        raise UsageError(f"the trained weights of {config.name} lack {error.args[0]}") from None
    cos, sin = rotary(config, config.positions, device)
    return Weights(config, embed, layers, norm, embed, cos, sin)
