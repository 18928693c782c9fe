"""YAML as nodes that know their place, for files that people give us."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from monitorgen.bundle import Origin
from monitorgen.errors import InputError

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DEPTH = 64


def read_text(path: Path, limit: int) -> str:
    """The text of a file of at most `limit` bytes, or InputError."""
    try:
        with path.open("rb") as file:
            body = file.read(limit + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot read {path}: {reason}") from error
    if len(body) > limit:
        raise InputError(f"{path} is larger than {limit} bytes")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise InputError("not UTF-8 text", origin=Origin(str(path), line, 1)) from error


def compose(file: str, text: str, *, aliases: bool = False, depth: int = _DEPTH) -> list[yaml.Node]:
    """The root nodes of all documents. InputError for what is not YAML, nested too deeply, or has aliases."""
    try:
        _check(file, text, aliases, depth)
        return [root for root in yaml.compose_all(text, Loader=_Loader) if root is not None]
    except yaml.MarkedYAMLError as error:
        if gave_up_on_depth(error):
            _check(file, text, aliases, depth, yaml.SafeLoader)
        mark = error.problem_mark or error.context_mark
        raise InputError(f"not YAML: {error.problem or error.context}", origin=at(file, mark)) from error
    except yaml.YAMLError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"not YAML: {reason}", origin=Origin(file)) from error


def gave_up_on_depth(error: yaml.MarkedYAMLError) -> bool:
    """Whether libyaml (0.2.6 and later) gave up at a thousand levels.

    It reads that far ahead before it hands out the first level that is one too many for us. PyYAML's own
    parser (`yaml.SafeLoader`) does not, so a second look with it finds the place. It is slow, but ends there.
    """
    return "nesting depth" in str(error.problem)


def _check(file: str, text: str, aliases: bool, depth: int, loader: Any = _Loader) -> None:
    """Look at the events first: composing recurses, and in libyaml a deep file ends the process."""
    level = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.CollectionStartEvent):
            level += 1
            if level > depth:
                raise InputError("nested too deeply", origin=at(file, event.start_mark))
        elif isinstance(event, yaml.CollectionEndEvent):
            level -= 1
        if not aliases and getattr(event, "anchor", None) is not None:
            raise InputError("anchors and aliases are not read", origin=at(file, event.start_mark))


def at(file: str, mark: Any) -> Origin:
    """The place of a mark."""
    return Origin(file, mark.line + 1, mark.column + 1) if mark is not None else Origin(file)
