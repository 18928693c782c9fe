"""What a live proof asks: a query for each recording rule and the queries of panels, read from files.

The files are read as Prometheus and Grafana will read them, not as the bundle that they came from, so that a
mistake of the writer is part of what is proven.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from monitorgen import promql
from monitorgen.bundle import Origin, Pairs
from monitorgen.errors import InputError

FIXED_VARIABLES = ("custom", "constant", "interval", "textbox")  # their value is in the dashboard itself


@dataclass(frozen=True, slots=True)
class Question:
    """One query of one item.

    `rule` is the expression behind a recorded name, empty for panels. `variables` are values of the
    dashboard's own variables; `instant` asks for now instead of a range. `legend` and `unit` are those of a
    panel, as Grafana has them.
    """

    item: str
    expr: str
    ref: str = ""
    rule: str = ""
    instant: bool = False
    variables: Pairs = ()
    legend: str = ""
    unit: str = ""

    def query(self, interval: float) -> str:
        """The query as Grafana would send it to a server that is scraped every `interval` seconds.

        `$__rate_interval` is four intervals, `$job` and its like match everything.
        """
        values = {**_built_in(interval), **dict(self.variables)}

        def put(found: re.Match[str]) -> str:
            return values.get(found[1] or found[2], found[0])

        return promql.grafana_substitute(re.sub(r"\$(?:(\w+)|\{(\w+)(?::\w+)?\})", put, self.expr))


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be proven: rule files as loaded (name -> text), the questions, and what is recorded.

    `recorded` maps each recorded name to the expressions of the rules that record it.
    """

    rule_files: Mapping[str, str] = field(hash=False)
    questions: tuple[Question, ...]
    recorded: Mapping[str, tuple[str, ...]] = field(hash=False)


def subject_of_files(rule_files: Sequence[Path], dashboards: Sequence[Path] = ()) -> Subject:
    """The subject of written files. Raises `InputError` for what is not a rule file or a dashboard."""
    texts: dict[str, str] = {}
    questions: list[Question] = []
    recorded: dict[str, tuple[str, ...]] = {}
    for index, path in enumerate(rule_files):
        text = _text(path)
        texts[f"rules/{index:02d}-{path.name}"] = text
        for name, expr, labels in _recording_rules(text, path):
            recorded[name] = (*recorded.get(name, ()), expr)
            questions.append(Question(f"record/{name}", _selector(name, labels), rule=expr))
    for path in dashboards:
        questions += _panel_questions(_text(path), path)
    return Subject(texts, tuple(dict.fromkeys(questions)), recorded)


def subject_of_folder(folder: Path) -> Subject:
    """The subject of a written bundle: its `rules/*.yaml` and `dashboards/*.json`, at any depth."""
    rules = sorted(folder.rglob("rules/*.y*ml"))
    if not rules:
        raise InputError(
            "there is no rule file", origin=Origin(str(folder)), hint="expected rules/*.yaml in it"
        )
    return subject_of_files(rules, sorted(folder.rglob("dashboards/*.json")))


def _recording_rules(text: str, path: Path) -> Iterator[tuple[str, str, Mapping[str, str]]]:
    """Name, expression and static labels of each recording rule."""
    try:
        loaded = yaml.safe_load(text)
        for group in loaded["groups"]:
            for rule in group.get("rules") or ():
                if "record" in rule:
                    yield str(rule["record"]), str(rule["expr"]), rule.get("labels") or {}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"this is no rule file: {_line(error)}", origin=Origin(str(path))) from error


def _panel_questions(text: str, path: Path) -> Iterator[Question]:
    """A question for each visible Prometheus query of a dashboard, panels in rows included."""
    try:
        board = json.loads(text)
        board = board.get("dashboard", board)  # as Grafana's API wraps it
        uid = str(board.get("uid") or path.stem)
        variables = tuple(sorted(_variables(board)))
        for panel in _panels(board):
            for number, target in enumerate(panel.get("targets") or ()):
                if target.get("hide") or not target.get("expr"):
                    continue
                yield Question(
                    item=f"panel/{uid}/{panel.get('title', '')}",
                    expr=str(target["expr"]),
                    ref=str(target.get("refId") or chr(ord("A") + number % 26)),
                    instant=bool(target.get("instant")) and not target.get("range"),
                    variables=variables,
                    legend=str(target.get("legendFormat") or ""),
                    unit=_unit(panel),
                )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"this is no dashboard: {_line(error)}", origin=Origin(str(path))) from error


def _unit(panel: Mapping[str, Any]) -> str:
    """The unit of a panel's values; a heatmap shows counts, whatever its buckets are of."""
    if panel.get("type") == "heatmap":
        return ""
    return str(((panel.get("fieldConfig") or {}).get("defaults") or {}).get("unit") or "")


def _panels(board: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for holder in (board, *(board.get("rows") or ())):
        for panel in holder.get("panels") or ():
            yield panel
            yield from panel.get("panels") or ()


def _variables(board: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The variables whose value the dashboard fixes: their current value, else their first option."""
    for variable in (board.get("templating") or {}).get("list") or ():
        if variable.get("type") not in FIXED_VARIABLES:
            continue
        value = (variable.get("current") or {}).get("value")
        value = value[0] if isinstance(value, list) and value else value
        if not isinstance(value, str) or value in ("", "$__all"):
            value = str(variable.get("query") or "").split(",")[0].strip()
        if value and not value.startswith("$"):
            yield str(variable["name"]), value


def _built_in(interval: float) -> Mapping[str, str]:
    """Grafana's own variables for a dashboard that looks at the time of a proof."""
    rate = 4 * interval
    seconds = {"__interval": interval, "__rate_interval": rate, "__range": max(60.0, rate)}
    return {
        **{name: promql.format_duration(value) for name, value in seconds.items()},
        **{f"{name}_ms": f"{value * 1000:.0f}" for name, value in seconds.items()},
        "__range_s": f"{seconds['__range']:.0f}",
    }


def _selector(name: str, labels: Mapping[str, object]) -> str:
    matchers = ",".join(f"{label}={json.dumps(str(value))}" for label, value in sorted(labels.items()))
    return f"{name}{{{matchers}}}" if matchers else name


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"it cannot be read: {error}", origin=Origin(str(path))) from error


def _line(error: Exception) -> str:
    """An error in one line; a missing key by its name."""
    said = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return " ".join(said.split())
