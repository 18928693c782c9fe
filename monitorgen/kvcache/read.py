"""A model from a file or folder, or from a few numbers on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from monitorgen.errors import InputError
from monitorgen.kvcache.layers import Layer, State
from monitorgen.kvcache.plan import Model


def read_model(path: Path) -> Model:
    """A model folder, a config.json as on Hugging Face, or a YAML file of ours, told apart by its name."""
    if not path.exists():
        raise InputError(
            f"no file or folder {path}", hint="a model folder, a config.json, or a YAML file of layers"
        )
    if path.suffix in (".yaml", ".yml"):
        from monitorgen.kvcache.shapefile import read_shape

        return read_shape(path)
    from monitorgen.kvcache.huggingface import read_config

    return read_config(path)


@dataclass(frozen=True, slots=True)
class Numbers:
    """What the flags say about a model; 0 where they say nothing."""

    layers: int = 0
    hidden: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    v_head_dim: int = 0
    mla_dim: int = 0
    window: int = 0
    sliding_layers: int = 0
    state_layers: int = 0
    state_bytes: int = 0


def flat_model(numbers: Numbers) -> Model:
    """The model of these numbers. Raises InputError for numbers that do not make one."""
    n = numbers
    if not n.layers:
        raise InputError("--layers is missing", hint="or --config with a model folder or config.json")
    if n.sliding_layers and not n.window:
        raise InputError("--sliding-layers needs --window, the tokens that they see")
    if bool(n.state_layers) != bool(n.state_bytes):
        raise InputError("--state-layers and --state-bytes go together")
    sliding = n.sliding_layers or (n.layers - n.state_layers if n.window else 0)
    full = n.layers - sliding - n.state_layers
    if full < 0:
        raise InputError(
            f"{n.sliding_layers} sliding and {n.state_layers} state layers are more than {n.layers}"
        )
    kinds = {
        "full": (full, _attention(n) if full or sliding else Layer("none")),
        "sliding": (sliding, _attention(n, n.window) if sliding else Layer("none")),
        "state": (n.state_layers, Layer("state", state=State(n.state_bytes))),
    }
    return Model(even_layers([(count, layer) for count, layer in kinds.values() if count]))


def _attention(n: Numbers, window: int = 0) -> Layer:
    if n.mla_dim:
        if window or n.kv_heads or n.head_dim or n.v_head_dim or n.hidden:
            raise InputError(
                "--mla-dim is all of a layer", hint="no heads, no --hidden and no window beside it"
            )
        return Layer("mla", 1, n.mla_dim)
    if n.heads and n.hidden % n.heads:
        raise InputError(f"--hidden {n.hidden} is no multiple of --heads {n.heads}")
    size = n.head_dim or (n.hidden // n.heads if n.heads else 0)
    if not size and not n.kv_heads:
        if not n.hidden:
            raise InputError("--kv-heads with --head-dim is missing, or --hidden, or --mla-dim")
        # Every query head has its own K and V: together they are as wide as the hidden state.
        return Layer("sliding" if window else "full", 1, n.hidden, n.hidden, window)
    if not size:
        raise InputError("--kv-heads needs --head-dim", hint="or --hidden with --heads, which gives it")
    heads = n.kv_heads or n.heads
    if not heads:
        raise InputError("--head-dim needs --kv-heads")
    if n.heads and n.heads % heads:
        raise InputError(f"--kv-heads {heads} does not divide --heads {n.heads}")
    return Layer("sliding" if window else "full", heads, size, n.v_head_dim or size, window)


def even_layers(kinds: list[tuple[int, Layer]]) -> tuple[Layer, ...]:
    """`count` layers of each kind, spread evenly over the depth, as hybrid models have them."""
    places = [
        ((turn + 0.5) / count, kind, layer)
        for kind, (count, layer) in enumerate(kinds)
        for turn in range(count)
    ]
    return tuple(layer for _, _, layer in sorted(places, key=lambda place: place[:2]))
