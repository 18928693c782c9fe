"""YAML that remembers where everything stands: plain data plus the origin of every key and value.

Only the plain core of YAML is taken: no aliases, anchors, tags or duplicate keys. Those are where
"billion laughs" and silent overwrites come from, and no profile needs them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from monitorgen.bundle import Origin
from monitorgen.catalog.yamltree import gave_up_on_depth
from monitorgen.errors import InputError

KeyPath: TypeAlias = tuple[str | int, ...]
MAX_BYTES = 500_000
MAX_DEPTH = 40

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class Document:
    """The data of one YAML file, and an origin for each path in it."""

    data: Any
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    file: str = ""
    removed: dict[KeyPath, Origin] = field(default_factory=dict)  # what a null took away, and where it stands

    def origin(self, path: KeyPath) -> Origin:
        """The origin of `path`, or of its nearest parent."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.origins:
                return self.origins[path[:end]]
        return Origin(file=self.file)


def read_document(path: Path, *, name: str = "") -> Document:
    """Read a YAML file. Raises InputError for what cannot be read as plain YAML in UTF-8."""
    shown = name or str(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {shown}: {error.strerror or error}") from error
    return parse_document(raw, shown)


def parse_document(raw: bytes, name: str) -> Document:
    """Parse YAML bytes; `name` is the file's name in messages."""
    if len(raw) > MAX_BYTES:
        raise InputError(f"{name} has {len(raw):,} bytes; a profile has at most {MAX_BYTES:,}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        column = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
        raise InputError(
            f"byte 0x{raw[error.start]:02x} is not UTF-8",
            origin=Origin(name, line, column),
            hint="save the file as UTF-8",
        ) from error
    document = Document(data=None, file=name)
    _refuse_characters(text, name)
    try:
        _refuse_events(text, name, _LOADER)
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        if gave_up_on_depth(error):
            _refuse_events(text, name, yaml.SafeLoader)
        mark = error.problem_mark or error.context_mark
        origin = Origin(name, mark.line + 1, mark.column + 1) if mark else Origin(name)
        raise InputError(_yaml_problem(error, text), origin=origin) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"not valid YAML: {error}", origin=Origin(name)) from error
    if node is not None:
        document.data = _build(node, (), document)
    return document


def _refuse_characters(text: str, name: str) -> None:
    """Refuse what YAML cannot hold (NUL, control characters), with its place."""
    match = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if match is not None:
        before = text[: match.start()]
        origin = Origin(name, before.count("\n") + 1, match.start() - (before.rfind("\n") + 1) + 1)
        raise InputError(
            f"the character {match.group()!r} is not allowed", origin=origin, hint="remove it, or escape it"
        )


def _yaml_problem(error: yaml.MarkedYAMLError, text: str) -> str:
    """What is wrong, in the parser's words; a tab is called a tab."""
    mark = error.problem_mark
    if mark is not None and "cannot start any token" in str(error.problem):
        at = text.splitlines()[mark.line : mark.line + 1]
        if at and at[0][mark.column : mark.column + 1] == "\t":
            return "not valid YAML: a tab; YAML is indented with spaces"
    words = [str(error.problem or error)]
    if words[0].startswith("but ") and error.context:
        words.insert(0, str(error.context))
    return f"not valid YAML: {' '.join(words)}"


def _refuse_events(text: str, name: str, loader: Any) -> None:
    """Refuse what `_refuse_event` does, wherever it stands."""
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        depth = _refuse_event(event, name, depth)


def _refuse_event(event: Any, name: str, depth: int) -> int:
    """Refuse aliases, anchors, tags and deep nesting before anything is expanded; the new depth."""
    mark = event.start_mark
    origin = Origin(name, mark.line + 1, mark.column + 1) if mark else Origin(name)
    if isinstance(event, yaml.AliasEvent):
        raise InputError(
            f"the alias *{event.anchor} is not allowed", origin=origin, hint="write the value out"
        )
    if getattr(event, "anchor", None):
        raise InputError(
            f"the anchor &{event.anchor} is not allowed", origin=origin, hint="write the value out"
        )
    if getattr(event, "tag", None):
        shown = event.tag.replace("tag:yaml.org,2002:", "!!")
        raise InputError(f"the tag {shown} is not allowed", origin=origin, hint="write the plain value")
    if isinstance(event, yaml.CollectionStartEvent):
        depth += 1
        if depth > MAX_DEPTH:  # libyaml's composer recurses in C and would overflow the stack
            raise InputError(f"nested deeper than {MAX_DEPTH} levels", origin=origin)
    return depth - isinstance(event, yaml.CollectionEndEvent)


def _build(node: Any, path: KeyPath, document: Document) -> Any:
    mark = node.start_mark
    here = Origin(document.file, mark.line + 1, mark.column + 1, dotted(path))
    document.origins.setdefault(path, here)
    if isinstance(node, yaml.MappingNode):
        return _build_mapping(node, path, document)
    if isinstance(node, yaml.SequenceNode):
        return [_build(child, (*path, index), document) for index, child in enumerate(node.value)]
    return _scalar(node, here)


def _build_mapping(node: Any, path: KeyPath, document: Document) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        mark = key_node.start_mark
        here = Origin(document.file, mark.line + 1, mark.column + 1, dotted(path))
        if not isinstance(key_node, yaml.ScalarNode):
            raise InputError("a key must be a plain word", origin=here)
        key = key_node.value
        if key == "<<":
            raise InputError("the merge key << is not allowed", origin=here, hint="use extends:")
        if key in result:
            raise InputError(f"the key {key!r} stands here twice", origin=here, hint="remove one of them")
        document.origins[(*path, key)] = Origin(
            document.file, mark.line + 1, mark.column + 1, dotted((*path, key))
        )
        result[key] = _build(value_node, (*path, key), document)
    return result


def _scalar(node: Any, here: Origin) -> Any:
    """A scalar as YAML 1.2's core sees it: yes, on and 1:30 stay text; dates stay text."""
    kind = node.tag.rsplit(":", 1)[-1]
    text: str = node.value
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind == "int":
        try:
            return int(text.replace("_", ""), 10)
        except ValueError:
            return text
    if kind == "float":
        try:
            return float(text.replace("_", ""))
        except ValueError:
            if text.lower().lstrip("+-") in (".inf", ".nan"):
                raise InputError(f"{text} is not a number that can be used here", origin=here) from None
            return text
    return text


def dotted(path: KeyPath) -> str:
    """`signals.ttft.quantiles[0]` for ("signals", "ttft", "quantiles", 0)."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text


def merge(base: Document, child: Document) -> Document:
    """`child` laid over `base`: mappings merge, null removes a key, everything else replaces.

    Dashboard rows are the one list that merges: a row of the same title gets the child's panels added,
    a new row stands at the end. Raises InputError where null removes what is not there.
    """
    result = Document(data=None, origins=dict(base.origins), file=child.file, removed=dict(base.removed))
    result.data = _merge(base.data or {}, child.data or {}, (), result, child)
    return result


def _merge(base: Any, over: Any, path: KeyPath, result: Document, child: Document) -> Any:
    if isinstance(base, dict) and isinstance(over, dict):
        merged = dict(base)
        for key, value in over.items():
            at = (*path, key)
            if value is None and path:
                _remove(merged, key, at, result, child)
            elif key in base:
                merged[key] = _merge(base[key], value, at, result, child)
            else:
                merged[key] = value
                result.removed.pop(at, None)
                _copy_origins(result, child, value, at, at)
        return merged
    if path == ("dashboard",) and isinstance(base, list) and isinstance(over, list):
        return _merge_rows(base, over, result, child)
    for stale in _paths(base, path):
        result.origins.pop(stale, None)
    _copy_origins(result, child, over, path, path)
    return over


def _remove(merged: dict[str, Any], key: str, at: KeyPath, result: Document, child: Document) -> None:
    """Take away a key that the base has; a null for anything else is a slip of the pen."""
    if key not in merged:
        near = difflib.get_close_matches(key, merged, 1, 0.5)
        raise InputError(
            f"{dotted(at)} is empty, and there is nothing of that name to remove",
            origin=child.origin(at),
            hint=f"did you mean {near[0]!r}?" if near else "give it a value, or take the line out",
        )
    del merged[key]
    result.removed[at] = child.origin(at)


def _merge_rows(base: list[Any], over: list[Any], result: Document, child: Document) -> list[Any]:
    rows = [dict(row) if isinstance(row, dict) else row for row in base]
    titles = {str(row.get("row")): index for index, row in enumerate(rows) if isinstance(row, dict)}
    for number, row in enumerate(over):
        title = row.get("row") if isinstance(row, dict) else None
        index = titles.get(title) if isinstance(title, str) else None
        panels = row.get("panels") if isinstance(row, dict) else None
        plain = isinstance(panels, list) and set(row) == {"row", "panels"}
        if index is None or not plain or not isinstance(rows[index].get("panels"), list):
            _copy_origins(result, child, row, ("dashboard", number), ("dashboard", len(rows)))
            if isinstance(title, str):
                titles.setdefault(title, len(rows))
            rows.append(dict(row) if isinstance(row, dict) else row)
            continue
        start = len(rows[index]["panels"])
        rows[index]["panels"] = [*rows[index]["panels"], *(panels or ())]
        for offset, panel in enumerate(panels or ()):
            source = ("dashboard", number, "panels", offset)
            _copy_origins(result, child, panel, source, ("dashboard", index, "panels", start + offset))
    return rows


def _paths(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    """The paths of a value and of everything in it."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _paths(inner, (*path, index))


def _copy_origins(result: Document, child: Document, value: Any, source: KeyPath, target: KeyPath) -> None:
    for path in _paths(value, source):
        if path in child.origins:
            result.origins[(*target, *path[len(source) :])] = child.origins[path]
