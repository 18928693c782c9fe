"""What pydantic says of a profile, in words for the person who wrote it, with the place and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from monitorgen.errors import InputError
from monitorgen.profile.model import Profile
from monitorgen.profile.source import Document, KeyPath, dotted


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint: the nearest of the known words, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, 1, 0.5)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names[:30])}"


def explain(error: ValidationError, document: Document) -> InputError:
    """pydantic's complaint that says most, as one sentence with a place."""
    found: dict[KeyPath, ErrorDetails] = {}
    for detail in sorted(error.errors(), key=_weight):
        path = _real_path(detail["loc"], document)
        if not any(path[: len(other)] == other or other[: len(path)] == path for other in found):
            found[path] = detail
    path, first = min(found.items(), key=lambda item: _weight(item[1]))
    message, hint = _sentence(path, first, document)
    if len(found) > 1:
        message += f" [and {len(found) - 1} more place{'s' * (len(found) > 2)}]"
    return InputError(message, origin=document.origin(path), hint=hint)


def _weight(detail: ErrorDetails) -> tuple[int, int]:
    """Small for what a person should hear first.

    A misspelt key also leaves one missing; and of a union's branches, the one that fits the shape of what was
    written tells more than "should be text".
    """
    kind = detail["type"]
    order = 0 if kind == "extra_forbidden" else 1 if kind not in _EXPECTED else 2
    if kind == "string_type" and isinstance(detail["input"], dict | list):
        order = 3
    return order, -len(detail["loc"])


_EXPECTED = {
    "dict_type": "a mapping of keys",
    "model_type": "a mapping of keys",
    "list_type": "a list",
    "string_type": "text",
    "float_type": "a number",
    "int_type": "a whole number",
    "bool_type": "true or false",
}


def _sentence(path: KeyPath, detail: ErrorDetails, document: Document) -> tuple[str, str]:
    """What is wrong with the value at `path`, and what to do."""
    kind, value = detail["type"], detail["input"]
    key = _shown(path, document)
    if kind == "extra_forbidden":
        return f"unknown key {key!r}", did_you_mean(str(path[-1]), _known_keys(path))
    if kind == "missing":
        return f"{_shown(path[:-1], document)} lacks the key {str(path[-1])!r}", _sibling(path, document)
    if value is None:
        return f"{key} is empty", "give it a value, or take the line out"
    if kind == "value_error":
        return f"{key}: {detail['ctx']['error']}", ""
    if kind == "literal_error":
        return f"{key} is {value!r}", f"it is one of {detail['ctx']['expected']}"
    if kind in _EXPECTED:
        quoted = kind == "string_type" and isinstance(value, int | float)
        hint = f'write it in quotes: "{value}"' if quoted and not isinstance(value, bool) else ""
        return f"{key} must be {_EXPECTED[kind]}, not {_short(value)}", hint
    message = detail["msg"].partition(" ")[2].replace(" after validation", "")
    return f"{key} {message}, not {_short(value)}", ""


def _shown(path: KeyPath, document: Document) -> str:
    """The path as the person's own file has it: rows that were merged have other numbers there."""
    for end in range(len(path), 0, -1):
        origin = document.origins.get(path[:end])
        if origin is not None and origin.path:
            rest = dotted(path[end:])
            return origin.path + (f".{rest}" if rest and not rest.startswith("[") else rest)
    return dotted(path)


def _sibling(path: KeyPath, document: Document) -> str:
    """For `signals.tftt lacks the key help`: the neighbour that may be meant."""
    if len(path) != 3 or not isinstance(path[1], str):
        return ""
    names = [name for name in document.data.get(path[0]) or {} if name != path[1]]
    near = difflib.get_close_matches(path[1], names, 1, 0.7)
    return f"or did you mean {near[0]!r}?" if near else ""


def _real_path(loc: tuple[str | int, ...], document: Document) -> KeyPath:
    """pydantic's location without the names of a union's branches, of validators and of `[key]`."""
    path: KeyPath = ()
    node: Any = document.data
    for number, part in enumerate(loc):
        missing = number == len(loc) - 1 and isinstance(node, dict) and not _is_branch(str(part))
        if isinstance(node, dict) and part in node:
            node = node[str(part)]
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
        elif not missing:
            continue
        path = (*path, part)
    return path


def _is_branch(part: str) -> bool:
    branches = ("str", "float", "int", "PanelSpec", "Count")
    return part in branches or "[" in part or part.startswith("function-")


def _known_keys(path: KeyPath) -> list[str]:
    """The keys that are allowed where `path` stands."""
    kind: Any = Profile
    for part in path[:-1]:
        kind = _step(kind, part)
    model = _model_in(kind)
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


def _step(kind: Any, part: str | int) -> Any:
    """The annotation of what stands at `part` in a value of annotation `kind`, or None."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return next((f.annotation for n, f in kind.model_fields.items() if part in (n, f.alias)), None)
    inner, origin = get_args(kind), get_origin(kind)
    if origin is dict:
        return inner[1]
    if origin is list:
        return inner[0] if isinstance(part, int) else None
    return next((found for one in inner if (found := _step(one, part)) is not None), None)


def _model_in(annotation: Any) -> Any:
    """The model that an annotation holds: `dict[str, Signal]` -> Signal."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in reversed(get_args(annotation)):
        found = _model_in(inner)
        if found is not None:
            return found
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
