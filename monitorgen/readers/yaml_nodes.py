"""YAML as nodes that know their place; what makes YAML dangerous or ambiguous is refused.

Aliases (a few lines of them make gigabytes), duplicate keys (parsers disagree which one holds), tags and
deep nesting are errors. Scalars are read as text: what a rule file means by `1`, its reader decides. The tree
is built from the parser's events, so nothing here recurses.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from monitorgen.bundle import Origin
from monitorgen.catalog.yamltree import gave_up_on_depth
from monitorgen.errors import InputError
from monitorgen.readers.source import Source

try:
    from yaml import CSafeLoader as _Loader
except ImportError:  # pragma: no cover - PyYAML without libyaml
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_DEEPEST = 64


@dataclass(slots=True, eq=False)
class YamlNode:
    """A node of a file, with accessors that check the shape and say what was expected where."""

    kind: Literal["scalar", "list", "mapping"]
    origin: Origin
    scalar: str = ""
    is_null: bool = False
    children: list[YamlNode] = field(default_factory=list)  # of a list, or the values of a mapping
    key: YamlNode | None = None  # the key that this node is the value of

    @property
    def is_mapping(self) -> bool:
        """Whether this is a mapping."""
        return self.kind == "mapping"

    def error(self, message: str, hint: str = "") -> InputError:
        """An error that points here."""
        return InputError(message, origin=self.origin, hint=hint)

    def text(self) -> str:
        """A scalar's text; nothing is the empty text."""
        if self.kind != "scalar":
            raise self.error(f"{self.origin.path or 'this'}: a single value is expected")
        return "" if self.is_null else self.scalar

    def fields(self) -> dict[str, YamlNode]:
        """A mapping's values by key; nothing is the empty mapping."""
        if not self.is_mapping and not self.is_null:
            raise self.error(f"{self.origin.path or 'the file'}: a mapping (`key: value`) is expected")
        return {value.key.scalar: value for value in self.children if value.key is not None}

    def items(self) -> list[YamlNode]:
        """A list's items; nothing is the empty list."""
        if self.kind != "list" and not self.is_null:
            raise self.error(f"{self.origin.path or 'this'}: a list (`- item`) is expected")
        return self.children

    def texts(self) -> dict[str, str]:
        """A mapping of scalars, as texts."""
        return {key: value.text() for key, value in self.fields().items()}


def only(fields: Mapping[str, YamlNode], allowed: Iterable[str], what: str) -> None:
    """InputError for the first key that `what` does not have; the nearest one is offered."""
    known = sorted(allowed)
    for key, value in fields.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise (value.key or value).error(f"{what} has no key {key!r}", hint)


def documents(source: Source) -> list[YamlNode]:
    """The documents of a file. InputError with line and column for anything that is not plain YAML."""
    try:
        return _roots(source, _Loader)
    except yaml.MarkedYAMLError as error:
        if gave_up_on_depth(error):
            _roots(source, yaml.SafeLoader)
        mark = error.problem_mark or error.context_mark
        place = _place(source, mark) if mark else Origin(source.name)
        raise InputError(f"is not YAML: {error.problem or error.context}", origin=place) from error
    except yaml.YAMLError as error:
        offset = getattr(error, "position", None)
        place = source.at(offset) if isinstance(offset, int) else Origin(source.name)
        raise InputError(f"is not YAML: {getattr(error, 'reason', error)}", origin=place) from error


def _roots(source: Source, loader: Any) -> list[YamlNode]:
    builder = _Builder(source)
    for event in yaml.parse(source.text, Loader=loader):
        builder.take(event)
    return builder.roots


def _place(source: Source, mark: Any, path: str = "") -> Origin:
    """A mark of the parser's as a place; its marks at the end of the file can be one line too far."""
    lines = source.text.count("\n") + 1
    if mark.line >= lines:
        return source.at(len(source.text), path)
    return Origin(source.name, mark.line + 1, mark.column + 1, path)


class _Builder:
    """Puts nodes together from events."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.roots: list[YamlNode] = []
        self._open: list[YamlNode] = []
        self._keys: list[dict[str, YamlNode]] = []  # the keys so far of each open collection
        self._key: list[YamlNode | None] = []  # the key of each open collection that waits for its value

    def take(self, event: Any) -> None:
        """Add what an event says; InputError for what is refused."""
        if isinstance(event, yaml.AliasEvent):
            place = _place(self.source, event.start_mark)
            hint = "write the value out where it is used"
            raise InputError("YAML aliases (`*name`) are refused", origin=place, hint=hint)
        if isinstance(event, yaml.CollectionEndEvent):
            self._open.pop()
            self._keys.pop()
            self._key.pop()
        elif isinstance(event, yaml.NodeEvent):
            self._add(event)

    def _add(self, event: Any) -> None:
        node = self._node(event)
        if event.tag not in (None, "!"):
            raise node.error(f"the YAML tag {event.tag!r} is refused", "write plain YAML")
        if len(self._open) >= _DEEPEST:
            raise node.error("is nested too deeply")
        if not self._open:
            self.roots.append(node)
        elif self._open[-1].kind == "list":
            self._open[-1].children.append(node)
        elif self._key[-1] is None:
            self._take_key(node)
        else:
            node.key, self._key[-1] = self._key[-1], None
            self._open[-1].children.append(node)
        if node.kind != "scalar":
            self._open.append(node)
            self._keys.append({})
            self._key.append(None)

    def _take_key(self, node: YamlNode) -> None:
        name = node.text()
        if name in self._keys[-1]:
            raise node.error(f"the key {name!r} stands here twice", "remove one")
        self._keys[-1][name] = node
        self._key[-1] = node

    def _node(self, event: Any) -> YamlNode:
        origin = _place(self.source, event.start_mark, self._path())
        if isinstance(event, yaml.ScalarEvent):
            null = not event.style and event.value in _NULLS
            return YamlNode("scalar", origin, scalar=event.value, is_null=null)
        kind: Literal["list", "mapping"] = "list" if isinstance(event, yaml.SequenceStartEvent) else "mapping"
        return YamlNode(kind, origin)

    def _path(self) -> str:
        """The path of the node that comes next."""
        if not self._open:
            return ""
        parent = self._open[-1]
        if parent.kind == "list":
            return f"{parent.origin.path}[{len(parent.children)}]"
        key = self._key[-1]
        return ".".join(part for part in (parent.origin.path, key.scalar if key else "") if part)
