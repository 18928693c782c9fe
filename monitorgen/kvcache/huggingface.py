"""A model's layers from the config.json that its checkpoint comes with.

What a config leaves out is what transformers puts there for that `model_type`. Sizes of states follow vLLM's
`MambaStateShapeCalculator`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monitorgen.errors import InputError
from monitorgen.kvcache.layers import Kind, Layer, State
from monitorgen.kvcache.plan import Model

# What the names in layer_types, layers_block_type and the letters of hybrid_override_pattern keep.
KINDS: dict[str, Kind] = {
    "full_attention": "full", "attention": "full", "*": "full",
    "sliding_attention": "sliding", "chunked_attention": "chunked",
    "linear_attention": "state", "mamba": "state", "mamba2": "state", "M": "state",
    "mlp": "none", "moe": "none", "-": "none", "E": "none",
}  # fmt: skip
# Of every so many layers, the last one attends to everything; transformers' defaults by model_type.
EVERY = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4}
BYTES = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}
INDEXER_SCALE_BYTES = 4  # DeepSeek sparse attention: fp8 keys, one fp32 scale for 128 of them


class Config:
    """The keys of a config, with the file's name in every error."""

    def __init__(self, data: Mapping[str, Any], file: str) -> None:
        self.data, self.file = data, file

    def number(self, *names: str, default: int | None = None) -> int:
        """The first of these keys that is there. Raises InputError for what is no positive whole number."""
        for name in names:
            value = self.data.get(name)
            if value is not None:
                if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 40:
                    raise InputError(f"{self.file}: {name} is {value!r}, not a whole number")
                return value
        if default is None:
            raise InputError(
                f"{self.file}: no {' or '.join(names)}", hint="is it the config of a language model?"
            )
        return default

    def has(self, name: str) -> bool:
        """Whether the key is there and says something."""
        return self.data.get(name) not in (None, False, 0, "")


def read_config(path: Path) -> Model:
    """The model of a config.json, or of the folder that holds it with its weights."""
    file = path / "config.json" if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise InputError(f"{path} is no model folder: it has no config.json")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{file} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{file} holds no mapping of keys")
    return model_of(data, str(file), weight_bytes=weights_in(path) if path.is_dir() else 0)


def model_of(data: Mapping[str, Any], file: str, *, weight_bytes: int = 0) -> Model:
    """The model of a config's keys; the text model's where it is one of several."""
    inner = data.get("text_config")
    config = Config({**data, **inner} if isinstance(inner, Mapping) else data, file)
    kinds = _kinds(config)
    if shared := config.number("num_kv_shared_layers", default=0):
        kinds[-shared:] = ["none"] * shared
    layers = [_layer(config, kind) for kind in kinds]
    return Model(
        tuple(layers),
        name=str(data.get("model_type", "")),
        max_tokens=config.number("max_position_embeddings", "n_positions", default=0),
        weight_bytes=weight_bytes,
    )


def _kinds(config: Config) -> list[Kind]:
    """What each layer keeps, in order."""
    data = config.data
    named = data.get("layer_types") or data.get("layers_block_type") or data.get("hybrid_override_pattern")
    if named:
        unknown = sorted({str(name) for name in named if name not in KINDS})
        if unknown:
            raise InputError(
                f"{config.file}: unknown kind of layer {unknown[0]!r}", hint=f"known: {', '.join(KINDS)}"
            )
        return [_attention(config, KINDS[name]) for name in named]
    count = config.number("num_hidden_layers", "n_layer", "num_layers")
    if not 0 < count <= 10_000:
        raise InputError(f"{config.file}: {count} layers cannot be")
    return [_attention(config, kind) for kind in _unnamed(config, count)]


def _attention(config: Config, kind: Kind) -> Kind:
    """Full attention with a latent is MLA; a window that is switched off is none."""
    if kind == "full" and config.has("kv_lora_rank"):
        return "mla"
    if kind == "sliding" and not config.has("sliding_window"):
        return "full"
    return kind


def _unnamed(config: Config, count: int) -> list[Kind]:
    """Kinds of the layers of a config that does not list them, by the rules of its model type."""
    data, kind_of = config.data, str(config.data.get("model_type", ""))
    if config.has("attn_layer_period"):  # Jamba
        period, offset = config.number("attn_layer_period"), config.number("attn_layer_offset", default=0)
        return ["full" if i % period == offset else "state" for i in range(count)]
    if config.has("attn_layer_indices"):  # Bamba
        return ["full" if i in data["attn_layer_indices"] else "state" for i in range(count)]
    if config.has("linear_num_value_heads"):  # Qwen3-Next
        every = config.number("full_attention_interval", default=4)
        return ["state" if (i + 1) % every else "full" for i in range(count)]
    if config.has("attention_chunk_size"):  # Llama 4
        every = config.number("no_rope_layer_interval", default=4)
        listed = data.get("no_rope_layers") or [int((i + 1) % every != 0) for i in range(count)]
        return ["chunked" if chunked else "full" for chunked in listed[:count]]
    if not config.has("sliding_window") or data.get("use_sliding_window") is False:
        return ["full"] * count
    if "use_sliding_window" in data:  # Qwen2
        first = config.number("max_window_layers", default=28)
        return ["sliding" if i >= first else "full" for i in range(count)]
    every = config.number("sliding_window_pattern", default=EVERY.get(kind_of, 0))
    return ["full" if every and (i + 1) % every == 0 else "sliding" for i in range(count)]


def _layer(config: Config, kind: Kind) -> Layer:
    if kind == "none":
        return Layer("none")
    if kind == "state":
        return Layer("state", state=_state(config))
    if kind == "mla":
        indexer = config.number("index_head_dim", default=0)
        return Layer(
            "mla",
            kv_heads=1,
            k_dim=config.number("kv_lora_rank") + config.number("qk_rope_head_dim", default=0),
            extra_bytes=indexer + indexer // 128 * INDEXER_SCALE_BYTES,
        )
    heads = config.number("num_attention_heads", "n_head")
    kv_heads = config.number(
        "n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num", default=heads
    )
    if not heads or not kv_heads:
        raise InputError(f"{config.file}: a model without attention heads")
    size = config.number("head_dim", default=0) or config.number("hidden_size", "n_embd") // heads
    if not size:
        raise InputError(f"{config.file}: hidden_size is less than the number of heads, {heads}")
    window = {"sliding": "sliding_window", "chunked": "attention_chunk_size"}.get(kind)
    return Layer(
        kind,
        kv_heads,
        size,
        config.number("v_head_dim", default=size),
        config.number(window) if window else 0,
    )


def _state(config: Config) -> State:
    """The state of a Mamba, Mamba-2 or gated delta net layer."""
    data = config.data
    element = BYTES.get(str(data.get("torch_dtype") or data.get("dtype")), 2)
    element = min(element, 2)  # vLLM serves float32 checkpoints in 16 bits
    named = data.get("mamba_ssm_dtype") or data.get("mamba_ssm_cache_dtype")
    ssm_element = BYTES.get(str(named), element)
    if config.has("linear_num_value_heads"):  # gated delta net
        keys = config.number("linear_num_key_heads") * config.number("linear_key_head_dim")
        values = config.number("linear_num_value_heads") * config.number("linear_value_head_dim")
        tail = config.number("linear_conv_kernel_dim", default=4) - 1
        return State(
            (2 * keys + values) * tail * element + values * config.number("linear_key_head_dim") * ssm_element
        )
    size = config.number("mamba_d_state", "ssm_state_size", "state_size")
    tail = config.number("mamba_d_conv", "conv_kernel", "conv_kernel_size", default=4) - 1
    heads = config.number("mamba_n_heads", "mamba_num_heads", default=0)
    expand = config.number("mamba_expand", "expand", default=2)
    inner = expand * config.number("hidden_size")
    if not heads:  # Mamba 1: one state a channel, and no groups
        return State(inner * tail * element + inner * size * ssm_element)
    head = config.number("mamba_d_head", "mamba_head_dim", default=inner // heads)
    inner = heads * head
    groups = config.number("mamba_n_groups", "n_groups", default=1)
    return State(inner * tail * element + inner * size * ssm_element, groups, 2 * size * tail * element)


def weights_in(folder: Path) -> int:
    """Bytes of the weights in a model folder; 0 when there are none."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) or sum(
        file.stat().st_size for file in folder.glob("pytorch_model*.bin")
    )
