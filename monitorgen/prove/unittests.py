"""promtool unit tests as data, and as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from json.encoder import encode_basestring

from monitorgen.prove.course import SAMPLE_INTERVAL, Course, Run
from monitorgen.prove.meaning import Vector
from monitorgen.prove.world import Labels


@dataclass(frozen=True, slots=True)
class Ask:
    """`expr` at `time` must yield exactly `expect`. `item` is what is proven, `claim` what holds then."""

    item: str
    claim: str
    time: float
    expr: str
    expect: tuple[tuple[Labels, float], ...]
    name: str = ""  # the metric name that the answer carries, if any
    query: str = (
        ""  # for a panel: which of its queries is asked (its ref id); `expr` is filled in at run time
    )
    variables: tuple[tuple[str, str], ...] = ()
    scale: float = 0.0  # what values are multiplied by before they are rounded; 0: they are asked as they are


@dataclass(frozen=True, slots=True)
class Fires:
    """The alert fires at `time` for exactly these label sets, with these annotations."""

    item: str
    claim: str
    time: float
    alert: str
    expect: tuple[tuple[Labels, Labels], ...]


@dataclass(slots=True)
class UnitTest:
    """One scenario: courses, and what must hold over them. `step` is the evaluation interval in seconds."""

    name: str
    step: float
    courses: list[Course]
    asks: list[Ask] = field(default_factory=list)
    fires: list[Fires] = field(default_factory=list)

    @property
    def items(self) -> set[str]:
        """The items that the test proves something of."""
        return {ask.item for ask in self.asks} | {fire.item for fire in self.fires}


def scaled(vector: Vector) -> tuple[float, tuple[tuple[Labels, float], ...]]:
    """Values as whole numbers of about seven digits, since promtool compares floats bit by bit.

    The scale that they were multiplied by, and the samples.
    """
    finite = {key: value for key, value in vector.items() if not math.isnan(value)}
    largest = max((abs(v) for v in finite.values()), default=0.0)
    digits = 6 - math.floor(math.log10(largest)) if largest > 0 else 6
    for shift in range(4):
        scale = 10.0 ** (digits - shift)
        if all(abs(v * scale % 1 - 0.5) > 1e-3 for v in finite.values()):
            break
    # Half way cases round up in PromQL's round().
    samples = tuple(sorted((key, float(math.floor(v * scale + 0.5))) for key, v in finite.items()))
    return scale, samples


def ask_value(item: str, claim: str, time: float, expr: str, vector: Vector) -> Ask:
    """An Ask for the values of an expression, to seven digits."""
    scale, samples = scaled(vector)
    return Ask(item, claim, time, expr, samples, scale=scale if samples else 0.0)


def notation(course: Course) -> str:
    """Samples in promtool's notation, runs of equal steps folded: `0+13x20 _x3 5x7`."""
    parts: list[str] = []
    runs = course.runs
    index = offset = 0  # the next sample: `offset` into run `index`
    while index < len(runs):
        run = runs[index]
        first = run.at(offset)
        if first is None:
            parts.append("_" if run.count == 1 else f"_x{run.count}")
            index, offset = index + 1, 0
            continue
        after = runs[index + 1].first if index + 1 < len(runs) else None
        if run.count - offset > 2 and after != first + run.step * (run.count - offset):
            parts.append(f"{number(first)}+{number(run.step)}x{run.count - offset - 1}")
            index, offset = index + 1, 0
            continue
        step, length, following = _longest(runs, index, offset)
        if length <= 1:
            # Two numbers are no run: the second may begin one.
            parts.append(number(first))
            index, offset = (index, offset + 1) if offset + 1 < run.count else (index + 1, 0)
            continue
        parts.append(f"{number(first)}{'+' if step >= 0 else '-'}{number(abs(step))}x{length}")
        index, offset = following
    return " ".join(parts)


def _longest(runs: list[Run], index: int, offset: int) -> tuple[float, int, tuple[int, int]]:
    """The step from a sample to the next, how many follow in it, and the place of the first that does not."""
    run = runs[index]
    first, left = run.at(offset), run.count - offset - 1
    assert first is not None
    step = run.step
    if not left:
        after = runs[index + 1].first if index + 1 < len(runs) else None
        if after is None:
            return 0.0, 0, (index + 1, 0)
        step = after - first
    length, last, index = left, first + step * left, index + 1
    while index < len(runs):
        run = runs[index]
        if run.first is None or run.first != last + step:
            break
        if run.count > 1 and run.step != step:
            return step, length + 1, (index, 1)
        length, last, index = length + run.count, run.first + step * (run.count - 1), index + 1
    return step, length, (index, 0)


def number(value: float) -> str:
    """A number that reads back as the same float."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def series_text(name: str, labels: Mapping[str, str] | Labels) -> str:
    """`name{a="b"}`."""
    items = sorted(labels.items() if isinstance(labels, Mapping) else labels)
    return f"{name}{{{', '.join([f'{key}={encode_basestring(value)}' for key, value in items])}}}"


def quoted(text: str) -> str:
    """A double-quoted string that YAML, JSON and PromQL read alike."""
    return encode_basestring(text)


def clock(seconds: float) -> str:
    """A time as promtool reads it: `10m`, `5m30s`."""
    total = round(seconds)
    minutes, rest = divmod(total, 60)
    return f"{minutes}m{rest}s" if minutes and rest else f"{minutes}m" if minutes else f"{rest}s"


def substituted(expr: str, variables: Mapping[str, str]) -> str:
    """A panel's query as Grafana would send it, with `variables` chosen."""
    expr = expr.replace("$__rate_interval", "1m")
    for name in sorted(variables, key=len, reverse=True):
        expr = expr.replace(f"${name}", variables[name].replace("\\", "\\\\").replace('"', '\\"'))
    return expr


HEADER = """\
# Generated by monitorgen: change the profile, not this file. Run it with `promtool test rules`.
# Samples come every 13s, so that no window's edge falls on one (Prometheus 2 and 3 differ there).
# Values are asked for as rounded multiples, since promtool compares floats bit by bit.
"""


def render_file(
    tests: Iterable[UnitTest], rule_files: Iterable[str], groups: Iterable[str], step: float
) -> str:
    """A unit test file of tests that share an evaluation interval; strings are JSON's, as YAML reads them.

    `groups` are the rule groups in the order of evaluation: left to itself, promtool takes any.
    """
    lines = [HEADER, f"rule_files: [{', '.join(quoted(f) for f in rule_files)}]\n"]
    lines.append(f"group_eval_order: [{', '.join(quoted(group) for group in groups)}]\n")
    lines.append(f"evaluation_interval: {clock(step)}\ntests:\n")
    for test in tests:
        lines.append(f"- name: {quoted(test.name)}\n  interval: {clock(SAMPLE_INTERVAL)}\n")
        lines.append("  input_series:\n" if test.courses else "  input_series: []\n")
        for course in test.courses:
            lines.append(
                f"  - series: {quoted(series_text(course.name, course.key))}\n"
                f"    values: {quoted(notation(course))}\n"
            )
        if test.fires:
            lines.append("  alert_rule_test:\n")
            lines += [_fires_text(fire) for fire in sorted(test.fires, key=lambda f: f.time)]
        if test.asks:
            lines.append("  promql_expr_test:\n")
            lines += [_ask_text(ask) for ask in sorted(test.asks, key=lambda a: (a.time, a.item))]
    return "".join(lines)


def asked_expr(ask: Ask) -> str:
    """The expression as it stands in the test."""
    return f"round({ask.scale:g} * ({ask.expr}))" if ask.scale else ask.expr


def _ask_text(ask: Ask) -> str:
    lines = [
        f"  # {ask.item}: {ask.claim}\n",
        f"  - expr: {quoted(asked_expr(ask))}\n    eval_time: {clock(ask.time)}\n",
    ]
    lines.append("    exp_samples:\n" if ask.expect else "    exp_samples: []\n")
    for labels, value in ask.expect:
        lines.append(f"    - labels: {quoted(series_text(ask.name, labels))}\n      value: {number(value)}\n")
    return "".join(lines)


def _fires_text(fire: Fires) -> str:
    lines = [f"  # {fire.item}: {fire.claim}\n"]
    lines.append(f"  - eval_time: {clock(fire.time)}\n    alertname: {fire.alert}\n")
    lines.append("    exp_alerts:\n" if fire.expect else "    exp_alerts: []\n")
    for labels, texts in fire.expect:
        lines.append(f"    - exp_labels: {_mapping(labels)}\n      exp_annotations: {_mapping(texts)}\n")
    return "".join(lines)


def _mapping(pairs: Labels) -> str:
    return f"{{{', '.join(f'{quoted(key)}: {quoted(value)}' for key, value in pairs)}}}"
