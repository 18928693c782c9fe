"""The numbers of a decoder: random ones of a shape, or those of a Hugging Face checkpoint.

Query, key and value projections are one matrix, gate and up projections another: each is read by one kernel.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monitorgen.kernels.decode.config import SHAPES, Config, read_config
from monitorgen.kernels.workload import UsageError

DTYPES: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one block; matrices are [out, in], as torch's linear layers keep them."""

    attention_norm: Tensor  # [H]
    qkv: Tensor  # [(Hq + 2 Hkv) D, H]
    out: Tensor  # [H, Hq D]
    mlp_norm: Tensor  # [H]
    gate_up: Tensor  # [2 I, H], gate first
    down: Tensor  # [H, I]


@dataclass(frozen=True, slots=True)
class Weights:
    """All weights of a decoder, and the rotary tables of its positions."""

    config: Config
    embed: Tensor  # [V, H]
    layers: tuple[Layer, ...]
    norm: Tensor  # [H]
    head: Tensor  # [V, H]; the embedding itself where they are tied
    cos: Tensor  # [positions, D / 2], float32
    sin: Tensor  # [positions, D / 2], float32

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights, and so of activations and cache."""
        return self.embed.dtype

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor, tied ones twice."""
        yield from (self.embed, self.norm, self.head, self.cos, self.sin)
        for layer in self.layers:
            yield from (
                layer.attention_norm, layer.qkv, layer.out, layer.mlp_norm, layer.gate_up, layer.down,
            )  # fmt: skip


def rotary(config: Config, positions: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position and pair, float32 [positions, D / 2] each.

    The frequency of pair i is theta^(-2i/D) (RoFormer). Llama 3 divides those whose wavelength is beyond
    original / low_freq_factor by `factor`, keeps those under original / high_freq_factor, and goes linearly
    from one to the other between.
    """
    pairs = torch.arange(0, config.head_dim, 2, dtype=torch.float32)
    frequency = 1.0 / config.rope_theta ** (pairs / config.head_dim)  # [D / 2]
    if (scaling := config.rope_scaling) is not None:
        waves_in_context = scaling.original * frequency / (2 * math.pi)
        span = scaling.high_freq_factor - scaling.low_freq_factor
        keep = ((waves_in_context - scaling.low_freq_factor) / span).clamp(0, 1)
        frequency = frequency * (keep + (1 - keep) / scaling.factor)
    angle = torch.outer(torch.arange(positions, dtype=torch.float32), frequency)  # [positions, D / 2]
    return angle.cos().to(device), angle.sin().to(device)


def random_weights(
    config: Config, *, device: torch.device | str, dtype: torch.dtype, seed: int = 0, positions: int = 0
) -> Weights:
    """Normal weights of deviation 1/sqrt(inputs), so that activations neither grow nor vanish; norms near 1.

    `positions` is how many the rotary tables hold, 0 for all of the shape's.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def matrix(rows: int, columns: int) -> Tensor:
        made = torch.empty(rows, columns, device=device, dtype=dtype)
        return made.normal_(0.0, columns**-0.5, generator=generator)

    def norm() -> Tensor:
        made = torch.empty(config.hidden, device=device, dtype=dtype)
        return made.uniform_(0.75, 1.25, generator=generator)

    embed = matrix(config.vocab, config.hidden)
    layers = tuple(
        Layer(
            attention_norm=norm(),
            qkv=matrix(config.qkv_rows, config.hidden),
            out=matrix(config.hidden, config.heads * config.head_dim),
            mlp_norm=norm(),
            gate_up=matrix(2 * config.intermediate, config.hidden),
            down=matrix(config.hidden, config.intermediate),
        )
        for _ in range(config.layers)
    )
    head = embed if config.tied else matrix(config.vocab, config.hidden)
    cos, sin = rotary(config, positions or config.positions, device)
    return Weights(config, embed, layers, norm(), head, cos, sin)


def load_weights(folder: Path, *, device: torch.device | str, dtype: torch.dtype) -> Weights:
    """The weights of a Hugging Face checkpoint of the Llama shape, one file or sharded.

    Raises UsageError if the folder is none, a tensor is missing, or its shape is not the config's.
    """
    config = read_config(folder)
    held = _Checkpoint(folder, device, dtype)

    def take(name: str, *shape: int) -> Tensor:
        return held.tensor(name, shape)

    h, kv, d = config.hidden, config.kv_heads * config.head_dim, config.head_dim
    layers = []
    for index in range(config.layers):
        block = f"model.layers.{index}"
        attention, mlp = f"{block}.self_attn", f"{block}.mlp"
        qkv = [
            take(f"{attention}.q_proj.weight", config.heads * d, h),
            take(f"{attention}.k_proj.weight", kv, h),
            take(f"{attention}.v_proj.weight", kv, h),
        ]
        gate_up = [take(f"{mlp}.{part}_proj.weight", config.intermediate, h) for part in ("gate", "up")]
        layers.append(
            Layer(
                attention_norm=take(f"{block}.input_layernorm.weight", h),
                qkv=torch.cat(qkv),
                out=take(f"{attention}.o_proj.weight", h, config.heads * d),
                mlp_norm=take(f"{block}.post_attention_layernorm.weight", h),
                gate_up=torch.cat(gate_up),
                down=take(f"{mlp}.down_proj.weight", h, config.intermediate),
            )
        )
    embed = take("model.embed_tokens.weight", config.vocab, h)
    head = embed if config.tied else take("lm_head.weight", config.vocab, h)
    cos, sin = rotary(config, config.positions, device)
    return Weights(config, embed, tuple(layers), take("model.norm.weight", h), head, cos, sin)


class _Checkpoint:
    """The tensors of a folder by name, from model.safetensors or its shards."""

    def __init__(self, folder: Path, device: torch.device | str, dtype: torch.dtype) -> None:
        try:
            from safetensors import safe_open
        except ImportError:
            raise UsageError("loading a checkpoint needs the package safetensors") from None
        self.folder, self.device, self.dtype, self.open = folder, device, dtype, safe_open
        self.files = self._files()
        self.opened: dict[str, Any] = {}

    def _files(self) -> dict[str, str]:
        """Tensor name -> file name; empty for the one file that holds all."""
        index = self.folder / "model.safetensors.index.json"
        if index.is_file():
            try:
                return dict(json.loads(index.read_text("utf-8"))["weight_map"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UsageError(f"{index} cannot be read: {error!r}") from None
        if not (self.folder / "model.safetensors").is_file():
            raise UsageError(f"{self.folder} holds neither model.safetensors nor an index of shards")
        return {}

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor on the device, in the wanted type."""
        file = self.files.get(name, "" if self.files else "model.safetensors")
        try:
            if file not in self.opened:
                self.opened[file] = self.open(self.folder / file, framework="pt")
            found: Tensor = self.opened[file].get_tensor(name)
        except Exception as error:
            # safetensors raises its own error for a broken file and for a name that is not in it.
            if type(error).__name__ != "SafetensorError" and not isinstance(error, OSError):
                raise
            raise UsageError(f"{self.folder / file}: no tensor {name}: {error}") from None
        if tuple(found.shape) != shape:
            raise UsageError(f"{self.folder}: {name} is {tuple(found.shape)}, config.json says {shape}")
        return found.to(self.device, self.dtype)


def make_weights(
    model: str, *, device: torch.device | str, dtype: torch.dtype, seed: int = 0, positions: int = 0
) -> Weights:
    """Random weights of a named shape, or those of a checkpoint's folder. Raises UsageError for neither."""
    if model in SHAPES:
        return random_weights(SHAPES[model], device=device, dtype=dtype, seed=seed, positions=positions)
    return load_weights(Path(model), device=device, dtype=dtype)


def config_of(model: str) -> Config:
    """The shape of a named model or of a checkpoint's folder. Raises UsageError for neither."""
    return SHAPES[model] if model in SHAPES else read_config(Path(model))
