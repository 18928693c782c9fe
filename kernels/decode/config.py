"""The shape of a Llama-like decoder: named ones, and those that a checkpoint's config.json says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitorgen.kernels.workload import UsageError


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How Llama 3 stretches rotary frequencies; `original` is the context of the training, in tokens."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original: int


@dataclass(frozen=True, slots=True)
class Config:
    """The sizes of a decoder. `head_dim` is its own number: it need not be hidden / heads."""

    name: str
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    positions: int = 2048
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    tied: bool = False

    @property
    def qkv_rows(self) -> int:
        """Rows of the fused projection: queries, keys, values."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def parameters(self) -> int:
        """Numbers in the weights, the embedding and the head included (once if they are tied)."""
        attention = self.hidden * (self.qkv_rows + self.heads * self.head_dim)
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.layers * layer + self.hidden + self.vocab * self.hidden * (1 if self.tied else 2)

    def step_bytes(self, rows: int, context: int, element: int) -> int:
        """Bytes that a decode step of `rows` requests with `context` tokens in all has to move at least.

        All weights once (of the embedding only the rows of the tokens), keys and values of the context read,
        and those of the new tokens written. `element` is bytes per number.
        """
        weights = self.parameters - (0 if self.tied else self.vocab * self.hidden) + rows * self.hidden
        return (weights + self.token_numbers * (context + rows)) * element

    def step_flops(self, rows: int, context: int) -> int:
        """Floating point operations of such a step: two for each multiply-add."""
        linear = self.parameters - (0 if self.tied else self.vocab * self.hidden)
        attention = 2 * self.layers * self.heads * self.head_dim * (context + rows)
        return 2 * (rows * linear + attention)

    @property
    def token_numbers(self) -> int:
        """Numbers that a token has in the cache: keys and values of all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim


SHAPES: Mapping[str, Config] = {
    shape.name: shape
    for shape in (
        Config("tiny", vocab=264, hidden=256, layers=4, heads=8, kv_heads=4, head_dim=32, intermediate=512),
        # Llama 3.2 1B: 1.24B parameters, 2.47 GB in bf16 read for each step.
        Config(
            "1b",
            vocab=128256,
            hidden=2048,
            layers=16,
            heads=32,
            kv_heads=8,
            head_dim=64,
            intermediate=8192,
            positions=8192,
            rope_theta=500000.0,
            tied=True,
        ),
    )
}
"""Shapes that random weights can be made of, by name."""


def read_config(folder: Path) -> Config:
    """The shape that a Hugging Face checkpoint's config.json says.

    Raises UsageError if the folder is not a model of the Llama shape, with what is different.
    """
    path = folder / "config.json"
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; give a checkpoint, or one of: {', '.join(SHAPES)}")
    try:
        said = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{folder} holds no config.json, so it is no Hugging Face model") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    if not isinstance(said, dict):
        raise UsageError(f"{path} holds no object")
    _refuse_other_shapes(path, said)
    try:
        return _config(folder.resolve().name, said)
    except KeyError as error:
        raise UsageError(f"{path} lacks {error.args[0]}") from None
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path} holds a value that does not fit: {error}") from None


def _refuse_other_shapes(path: Path, said: Mapping[str, Any]) -> None:
    """Name what this decoder would compute wrongly."""
    kind = said.get("model_type")
    if kind not in ("llama", "mistral"):
        raise UsageError(
            f"{path}: model_type is {kind!r}; this decoder runs the Llama shape (llama, mistral)"
        )
    wrong = [name for name in ("attention_bias", "mlp_bias", "sliding_window") if said.get(name)]
    if said.get("hidden_act", "silu") != "silu":
        wrong.append(f"hidden_act {said['hidden_act']}")
    if said.get("quantization_config"):
        wrong.append("quantization_config")
    if wrong:
        raise UsageError(f"{path}: this decoder has no {', '.join(wrong)}")


def _config(name: str, said: Mapping[str, Any]) -> Config:
    hidden, heads = int(said["hidden_size"]), int(said["num_attention_heads"])
    # Newer configs put theta and scaling together as rope_parameters.
    rope = said.get("rope_parameters") or said.get("rope_scaling") or {}
    theta = rope.get("rope_theta", said.get("rope_theta", 10000.0))
    made = Config(
        name=name,
        vocab=int(said["vocab_size"]),
        hidden=hidden,
        layers=int(said["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(said.get("num_key_value_heads") or heads),
        head_dim=int(said.get("head_dim") or hidden // heads),
        intermediate=int(said["intermediate_size"]),
        positions=int(said.get("max_position_embeddings", 2048)),
        rope_theta=float(theta),
        rope_scaling=_scaling(rope),
        norm_eps=float(said.get("rms_norm_eps", 1e-6)),
        tied=bool(said.get("tie_word_embeddings", False)),
    )
    sizes = (
        made.vocab,
        made.hidden,
        made.layers,
        made.heads,
        made.kv_heads,
        made.head_dim,
        made.intermediate,
    )
    if min(sizes) < 1 or made.heads % made.kv_heads or made.head_dim % 2:
        raise ValueError("sizes must be positive, heads a multiple of KV heads, head_dim even")
    return made


def _scaling(rope: Mapping[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise ValueError(f"rope_type {kind!r} (this decoder has default and llama3)")
    return RopeScaling(
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original=int(rope["original_max_position_embeddings"]),
    )
