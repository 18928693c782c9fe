"""Catalog files that people write or capture: any YAML, checked, with the line in every error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from monitorgen.bundle import Origin
from monitorgen.catalog.model import Catalog, FamilyOrigin, FamilyType
from monitorgen.catalog.store import from_plain
from monitorgen.catalog.units import UNITS
from monitorgen.catalog.versions import is_version
from monitorgen.catalog.yamltree import at, compose, read_text
from monitorgen.errors import InputError

_LIMIT = 4 * 2**20  # bytes; our largest catalog has 33 kB
_DEPTH = 8

_Name = Annotated[str, Field(pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]*$")]
_Label = Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")]


class _FamilyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: FamilyType
    unit: str = ""
    help: str = ""
    labels: list[_Label] = []
    values: dict[_Label, list[str]] = {}
    buckets: list[Annotated[float, Field(allow_inf_nan=False)]] = []
    origin: FamilyOrigin = "wire"
    needs: str = ""
    created: bool = False


class _CatalogFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    engine: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
    version: str
    provenance: str = ""
    recorded: bool = False
    families: dict[_Name, _FamilyFile]


def read(path: Path) -> Catalog:
    """The catalog in a file. InputError with line and column for whatever is wrong with it."""
    file = str(path)
    root = _root(file, read_text(path, _LIMIT))
    plain = _plain(root, file)
    try:
        checked = _CatalogFile.model_validate(plain)
    except ValidationError as error:
        # A misspelt key also leaves one missing: the misspelling is what to tell.
        first = min(error.errors(), key=lambda told: told["type"] != "extra_forbidden")
        raise _told(file, root, first) from None
    if not is_version(checked.version):
        raise InputError(
            f"{checked.version!r} is not a version",
            origin=_place(file, root, ["version"]),
            hint="write numbers and dots, such as 0.32.0",
        )
    for name, family in checked.families.items():
        _check(name, family, file, root)
    return from_plain(checked.model_dump())


def _check(name: str, family: _FamilyFile, file: str, root: yaml.Node) -> None:
    if family.unit and family.unit not in UNITS:
        near = get_close_matches(family.unit, UNITS, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"units are {', '.join(UNITS)}"
        origin = _place(file, root, ["families", name, "unit"])
        raise InputError(f"unknown unit {family.unit!r}", origin=origin, hint=hint)
    if family.buckets and family.type != "histogram":
        origin = _place(file, root, ["families", name, "buckets"])
        raise InputError(f"{name} is a {family.type}: only histograms have buckets", origin=origin)
    if any(low >= high for low, high in zip(family.buckets, family.buckets[1:], strict=False)):
        origin = _place(file, root, ["families", name, "buckets"])
        raise InputError(f"the edges of {name} do not ascend", origin=origin)
    stray = sorted(family.values.keys() - {*family.labels, "quantile"})
    if stray:
        origin = _place(file, root, ["families", name, "values", stray[0]])
        raise InputError(f"{name} has values of {stray[0]!r}, which is not among its labels", origin=origin)


def _root(file: str, text: str) -> yaml.Node:
    roots = compose(file, text, depth=_DEPTH)
    if len(roots) != 1 or not isinstance(roots[0], yaml.MappingNode):
        raise InputError(
            "a catalog is a mapping with engine, version and families", origin=Origin(file, 1, 1)
        )
    return roots[0]


def _plain(node: yaml.Node, file: str) -> Any:
    """The data with every scalar as it is written: `version: 0.30` stays 0.30."""
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, file) for item in node.value]
    if not isinstance(node, yaml.MappingNode):
        return None if node.tag.endswith(":null") else node.value
    found: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise InputError("a key must be plain text", origin=at(file, key.start_mark))
        if key.value in found:
            raise InputError(f"{key.value!r} is given twice", origin=at(file, key.start_mark))
        found[key.value] = _plain(value, file)
    return found


def _told(file: str, root: yaml.Node, error: ErrorDetails) -> InputError:
    """The first thing that is wrong, in words for the person who wrote the file."""
    keys = [str(part) for part in error["loc"] if part != "[key]"]
    origin = _place(file, root, keys)
    name = keys[-1] if keys else "the file"
    match error["type"]:
        case "missing":
            return InputError(f"{name!r} is missing", origin=origin)
        case "extra_forbidden":
            known = list(_FamilyFile.model_fields if len(keys) > 1 else _CatalogFile.model_fields)
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"keys are {', '.join(known)}"
            return InputError(f"unknown key {name!r}", origin=origin, hint=hint)
        case "string_pattern_mismatch":
            return InputError(f"{str(error['input'])!r} is not a valid name", origin=origin)
        case _:
            said = error["msg"].removeprefix("Input ")
            return InputError(f"{'.'.join(keys)} {said}, not {_short(error['input'])}", origin=origin)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 50 else f"{text[:47]}..."


def _place(file: str, root: yaml.Node, keys: Sequence[str]) -> Origin:
    """Where the deepest part of a path of keys stands."""
    node, mark = root, root.start_mark
    for key in keys:
        step = next(((m, n) for name, m, n in _children(node) if name == key), None)
        if step is None:
            break
        mark, node = step
    return at(file, mark)


def _children(node: yaml.Node) -> Iterator[tuple[str, Any, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield str(key.value), key.start_mark, value
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield str(index), item.start_mark, item
