"""Mistakes in the written rule files, found in the parsed YAML."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mutate_expressions import variants
from mutation import GONE, Mutation, edits

Path = tuple[str | int, ...]
_HUMANIZERS = {
    "humanizeDuration": ("humanize", "humanizePercentage"),
    "humanizePercentage": ("humanize", "humanizeDuration"),
    "humanize": ("humanizeDuration", "humanize1024"),
}
_SEVERITIES = {"critical": "warning", "warning": "critical", "info": "warning"}


def rule_mutations(file: str, tree: Any) -> Iterator[Mutation]:
    """Every mutation of a rule file."""
    for number, group in enumerate(tree["groups"]):
        at: Path = ("groups", number)
        yield from edits("group interval", "", file, (*at, "interval"), [(group["name"], "30m")])
        for index, rule in enumerate(group["rules"]):
            where = (*at, "rules", index)
            item = item_of(rule)
            yield Mutation("rule deleted", item, "deleted", file, where, GONE)
            twice = [*group["rules"][: index + 1], rule, *group["rules"][index + 1 :]]
            yield Mutation("rule repeated", item, "repeated", file, (*at, "rules"), twice)
            for kind, note, text in variants(rule["expr"]):
                yield Mutation(kind, item, note, file, (*where, "expr"), text)
            neighbour = group["rules"][index - 1]
            yield from _pasted(item, file, where, rule, neighbour)
            yield from (
                _recording(item, file, where, rule) if "record" in rule else _alert(item, file, where, rule)
            )


def item_of(rule: dict[str, Any]) -> str:
    """The item's id, as ledgers have it."""
    if "record" in rule:
        return f"record/{rule['record']}"
    return f"alert/{rule['alert']}/{rule['labels']['severity']}"


def _pasted(item: str, file: str, where: Path, rule: Any, neighbour: Any) -> Iterator[Mutation]:
    """The expression of the rule before it: copied, and not adapted."""
    if neighbour is not rule:
        note = f"that of {item_of(neighbour)}"
        yield from edits("expression pasted", item, file, (*where, "expr"), [(note, neighbour["expr"])])


def _recording(item: str, file: str, where: Path, rule: dict[str, Any]) -> Iterator[Mutation]:
    name = rule["record"]
    changed = [("misspelt", name[:-1]), ("without its level", name.split(":", 1)[-1])]
    other = name.replace("p90", "p95").replace("rate5m", "rate1m").replace("_5m", "_1m")
    if other != name:
        changed.append((f"as {other}", other))
    yield from edits("recorded name changed", item, file, (*where, "record"), changed)
    yield from edits("label put on a recording", item, file, (*where, "labels"), [("job", {"job": "vllm-2"})])


def _alert(item: str, file: str, where: Path, rule: dict[str, Any]) -> Iterator[Mutation]:
    yield from edits("alert renamed", item, file, (*where, "alert"), [("misspelt", rule["alert"][:-1])])
    yield from edits("`for` changed", item, file, (*where, "for"), _holds(rule["for"]))
    severity = rule["labels"]["severity"]
    labels: Path = (*where, "labels", "severity")
    others = [(f"to {new}", new) for new in (_SEVERITIES[severity], "page")]
    yield from edits("severity changed", item, file, labels, [*others, ("removed", GONE)])
    for name, text in rule["annotations"].items():
        at: Path = (*where, "annotations", name)
        yield from edits("annotation removed", item, file, at, [(name, GONE)])
        if name == "runbook_url":
            yield from edits("runbook changed", item, file, at, _runbooks(text))
        else:
            yield from _templates(item, file, at, text)


def _holds(text: str) -> list[tuple[str, Any]]:
    number, unit = int(text[:-1]), text[-1]
    seconds = number * {"m": 60, "h": 3600}[unit]
    slipped = {"m": f"{number}s", "h": f"{number}m"}[unit]
    new = (f"{seconds * 2}s", f"{seconds // 2}s", f"{seconds * 3 // 2}s", slipped)
    return [*((f"{text} to {one}", one) for one in new), ("removed", GONE)]


def _runbooks(text: str) -> list[tuple[str, Any]]:
    return [
        ("another page", text + "2"),
        ("the folder only", text.rsplit("/", 1)[0]),
        ("another host", text.replace("://", "://old.")),
    ]


def _templates(item: str, file: str, at: Path, text: str) -> Iterator[Mutation]:
    name = at[-1]
    for match in re.finditer(r"\{\{ (.*?) \}\}", text):
        inner = match[1]

        def put(new: str, match: re.Match[str] = match) -> str:
            return text[: match.start()] + new + text[match.end() :]

        note = f"{name}: {inner}"
        for kind, new in _actions(inner):
            yield Mutation(kind, item, f"{note} to {new}", file, at, put(new))
    word = re.search(r"\b[a-z]{2,} (?=[a-z{(])", text)
    assert word is not None, f"{item} has no word to misspell in its {name}"
    misspelt = text[: word.start()] + text[word.start() + 1 :]
    yield Mutation("annotation misspelt", item, f"{name}: {word[0].strip()}", file, at, misspelt)


def _actions(inner: str) -> Iterator[tuple[str, str]]:
    yield "template brace broken", f"{{ {inner} }}}}"
    yield "template brace broken", f"{{{{ {inner} }}"
    yield "template brace broken", f"{{ {inner} }}"
    if inner.startswith("$labels."):
        label = inner.removeprefix("$labels.")
        yield "template label renamed", f"{{{{ $labels.{label}s }}}}"
        yield "template label renamed", f"{{{{ $label.{label} }}}}"
        return
    head, _, humanizer = inner.partition(" | ")
    for new in _HUMANIZERS[humanizer]:
        yield "humanizer changed", f"{{{{ {head} | {new} }}}}"
    yield "humanizer changed", f"{{{{ {head} }}}}"
    yield "template value renamed", f"{{{{ $values | {humanizer} }}}}"
