"""A model's shape as a person writes it: a short YAML file, checked, with the line in every error.

name: gemma-like
repeat: 8
layers:
  - {kind: sliding, count: 5, kv_heads: 8, head_dim: 128, window: 1024}
  - {kind: full, kv_heads: 8, head_dim: 128}
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from monitorgen.errors import InputError
from monitorgen.kvcache.layers import Layer, State
from monitorgen.kvcache.plan import Model
from monitorgen.kvcache.sizes import parse_size
from monitorgen.profile.source import read_document

NEEDS = {
    "full": ("kv_heads", "head_dim"),
    "sliding": ("kv_heads", "head_dim", "window"),
    "chunked": ("kv_heads", "head_dim", "window"),
    "mla": ("latent",),
    "state": ("state_bytes",),
    "none": (),
}
_Count = Annotated[int, Field(ge=1, le=10_000, strict=True)]
_Size = Annotated[int, Field(ge=1, le=1 << 20, strict=True)]
_Window = Annotated[int, Field(ge=1, le=1 << 32, strict=True)]


def _bytes(value: Any) -> Any:
    return parse_size(value) if isinstance(value, str) else value


class _Layers(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["full", "sliding", "chunked", "mla", "state", "none"]
    count: _Count = 1
    kv_heads: _Size | None = None
    head_dim: _Size | None = None
    v_head_dim: _Size | None = None
    window: _Window | None = None
    latent: _Size | None = None
    state_bytes: Annotated[int, BeforeValidator(_bytes), Field(ge=1, le=1 << 40)] | None = None

    @model_validator(mode="after")
    def _complete(self) -> _Layers:
        needed = NEEDS[self.kind]
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"a layer of kind {self.kind} needs {name}")
        taken = {"kind", "count", *needed, *(["v_head_dim"] if "head_dim" in needed else [])}
        for name in sorted(self.model_fields_set - taken):
            raise ValueError(f"a layer of kind {self.kind} has no {name}")
        return self


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = ""
    max_tokens: Annotated[int, Field(ge=1, le=1 << 32, strict=True)] | None = None
    weights: Annotated[int, BeforeValidator(_bytes), Field(ge=0, le=1 << 50)] = 0
    repeat: _Count = 1
    layers: Annotated[list[_Layers], Field(min_length=1, max_length=1000)]


def read_shape(path: Path) -> Model:
    """The model in a YAML file. Raises InputError with line and column for whatever is wrong with it."""
    document = read_document(path)
    try:
        shape = _Shape.model_validate(document.data)
    except ValidationError as error:
        first = min(error.errors(), key=lambda told: told["type"] != "extra_forbidden")
        at = tuple(first["loc"])
        raise InputError(_said(first), origin=document.origin(at), hint=_hint(first)) from None
    once = [layer for row in shape.layers for layer in [_layer(row)] * row.count]
    if len(once) * shape.repeat > 10_000:
        raise InputError(f"{path}: {len(once) * shape.repeat:,} layers are more than any model has")
    return Model(
        tuple(once * shape.repeat),
        name=shape.name or path.stem,
        max_tokens=shape.max_tokens or 0,
        weight_bytes=shape.weights,
    )


def _layer(row: _Layers) -> Layer:
    if row.kind == "state":
        return Layer("state", state=State(row.state_bytes or 0))
    if row.kind == "mla":
        return Layer("mla", 1, row.latent or 0)
    size = row.head_dim or 0
    return Layer(row.kind, row.kv_heads or 0, size, row.v_head_dim or size, row.window or 0)


def _said(error: ErrorDetails) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "the file"
    if error["type"] == "extra_forbidden":
        return f"unknown key {where!r}"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}"


def _hint(error: ErrorDetails) -> str:
    if error["type"] != "extra_forbidden":
        return ""
    known = _Layers.model_fields if len(error["loc"]) > 1 else _Shape.model_fields
    near = get_close_matches(str(error["loc"][-1]), known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"keys are {', '.join(known)}"
