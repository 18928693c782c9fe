"""The expressions in a user's rule files and dashboards, with the place of each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from monitorgen.bundle import Origin
from monitorgen.catalog.yamltree import at, compose, read_text
from monitorgen.errors import InputError

_LIMIT = 16 * 2**20  # bytes
# A variable wraps its expression in a function of Grafana.
_VARIABLE = re.compile(r"\s*(?:label_values\((.+),[^,{}]*\)|query_result\((.+)\))\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Expression:
    """A PromQL expression, the rule or panel that holds it, and where it stands."""

    text: str
    item: str
    origin: Origin


def read(path: Path) -> tuple[Expression, ...]:
    """The expressions of a rule file (YAML, also a PrometheusRule) or a dashboard (JSON), in their order."""
    text = read_text(path, _LIMIT)
    if path.suffix == ".json" or text.lstrip()[:1] == "{":
        return tuple(_dashboard(path, text))
    return tuple(_rules(path, text))


def _rules(path: Path, text: str) -> Iterator[Expression]:
    """Whatever has `expr` beside `alert` or `record`, at any depth, so that wrapped files are read too."""
    file = str(path)
    roots = compose(file, text, aliases=True)
    seen: set[int] = set()  # aliases lead to the same node: it is told once, and loops end
    stack: list[yaml.Node] = list(reversed(roots))
    while stack:
        node = stack.pop()
        if id(node) in seen or isinstance(node, yaml.ScalarNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            stack.extend(reversed(node.value))
            continue
        fields = {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}
        yield from _rule(file, fields)
        stack.extend(value for _, value in reversed(node.value))


def _rule(file: str, fields: dict[str, yaml.Node]) -> Iterator[Expression]:
    expr = fields.get("expr")
    if not isinstance(expr, yaml.ScalarNode):
        return
    for kind in ("alert", "record"):
        name = fields.get(kind)
        if isinstance(name, yaml.ScalarNode):
            yield Expression(expr.value, f"{kind}/{name.value}", at(file, expr.start_mark))


def _dashboard(path: Path, text: str) -> Iterator[Expression]:
    file = str(path)
    try:
        root = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", origin=Origin(file, error.lineno, error.colno)) from error
    except RecursionError as error:
        raise InputError("nested too deeply", origin=Origin(file)) from error
    at = 0
    for written, expr, item in _queries(root, ""):
        found = _find(text, written, at)
        at = max(at, found + 1)
        line = text.count("\n", 0, found) + 1 if found >= 0 else 0
        column = found - text.rfind("\n", 0, found) if found >= 0 else 0
        yield Expression(expr, item, Origin(file, line, column))


def _find(text: str, value: str, start: int) -> int:
    """Where a string stands in JSON text, looked for from `start` on first; -1 if nowhere."""
    spellings = [json.dumps(value, ensure_ascii=False), json.dumps(value)]
    places = [text.find(one, begin) for begin in (start, 0) for one in spellings]
    return next((place for place in places if place >= 0), -1)


def _queries(node: Any, title: str) -> Iterator[tuple[str, str, str]]:
    """(string as written, expression, item) of every target and variable below a node of a dashboard."""
    if isinstance(node, list):
        for item in node:
            yield from _queries(item, title)
    elif isinstance(node, dict):
        own = node.get("title")
        title = own if isinstance(own, str) and ("targets" in node or "panels" in node) else title
        for key, value in node.items():
            if key == "templating" and isinstance(value, dict):
                yield from _variables(value.get("list"))
            elif key == "expr" and isinstance(value, str) and value.strip():
                yield value, value, f"panel/{title}"
            else:
                yield from _queries(value, title)


def _variables(variables: Any) -> Iterator[tuple[str, str, str]]:
    for variable in variables if isinstance(variables, list) else ():
        query = variable.get("query") if isinstance(variable, dict) else None
        query = query.get("query") if isinstance(query, dict) else query
        if isinstance(query, str) and (found := _VARIABLE.fullmatch(query)):
            yield query, found[1] or found[2], f"variable/{variable.get('name', '')}"
