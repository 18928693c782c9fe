"""Reading what a `/metrics` page says: Prometheus text 0.0.4 and 1.0.0, and OpenMetrics.

Families are named as PromQL selects them and typed by what the page declares, never by a suffix. The parser
of prometheus_client is not used: it renames counters, gives no line numbers, and takes minutes for hostile
lines. `transport` turns bytes into the text that is read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from monitorgen.bundle import Origin
from monitorgen.catalog.model import FamilyType
from monitorgen.errors import InputError


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample: the series' name and labels, and its value."""

    name: str
    labels: Mapping[str, str] = field(hash=False)
    value: float


@dataclass(frozen=True, slots=True)
class Exposed:
    """A family as a page exposes it; `samples` are without `_created`, which `created` stands for."""

    name: str
    type: FamilyType
    help: str
    samples: tuple[Sample, ...]
    created: bool = False


_SUFFIXES: dict[str, tuple[str, ...]] = {
    "counter": ("",),
    "gauge": ("",),
    "unknown": ("",),
    "info": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("", "_sum", "_count"),
}
_OPEN_SUFFIXES: dict[str, tuple[str, ...]] = {
    **_SUFFIXES,
    "counter": ("_total", ""),
    "info": ("_info", ""),
    "stateset": ("",),
    "gaugehistogram": ("_bucket", "_gsum", "_gcount"),
}
_CREATED = {"counter", "histogram", "summary"}

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_TEXT = r'"(?:[^"\\\n]|\\.)*"'
_META = re.compile(rf"#[ \t]+(HELP|TYPE|UNIT)[ \t]+({_NAME}|{_TEXT})(?:[ \t]+(.*))?", re.DOTALL)
_HEAD = re.compile(rf"[ \t]*({_NAME})?[ \t]*(\{{)?")
_LABEL = re.compile(rf"[ \t]*(?:([a-zA-Z_][a-zA-Z0-9_]*|{_TEXT})[ \t]*=[ \t]*)?({_TEXT})[ \t]*(,|(?=\}}))")
_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?[iI]nf(?:inity)?|[nN]a[nN]"
_TAIL = re.compile(rf"[ \t]*({_NUMBER})(?:[ \t]+[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)?[ \t]*(#.*)?", re.DOTALL)
_ESCAPED = re.compile(r'\\([\\"n])')


def parse(text: str, *, openmetrics: bool | None = None, source: str = "") -> tuple[Exposed, ...]:
    """The families of a page, in its order.

    `openmetrics` None: it is OpenMetrics if it ends with `# EOF`. Raises InputError with the number of the
    first line that is wrong; `source` is the name that the error shows.
    """
    if openmetrics is None:
        openmetrics = text.rstrip("\r\n").endswith("# EOF")
    reader = _Reader(openmetrics, source)
    for number, line in enumerate(text.split("\n"), start=1):
        reader.take(number, line.removesuffix("\r"))
    return tuple(reader.finish())


@dataclass(slots=True)
class _Open:
    """A family while its page is being read."""

    name: str
    type: str = "unknown"
    help: str = ""
    samples: list[Sample] = field(default_factory=list)
    created: bool = False


class _Reader:
    def __init__(self, openmetrics: bool, source: str) -> None:
        self.openmetrics, self.source = openmetrics, source
        self.suffixes = _OPEN_SUFFIXES if openmetrics else _SUFFIXES
        self.families: dict[str, _Open] = {}
        self.typed: set[str] = set()
        self.owner: dict[str, _Open] = {}  # a series' name -> the family that declared it
        self.created: dict[str, _Open] = {}  # OpenMetrics: the name of a `_created` sample -> its family
        self.number, self.ended = 0, False

    def fail(self, message: str) -> InputError:
        return InputError(message, origin=Origin(self.source, self.number, 1))

    def take(self, number: int, line: str) -> None:
        self.number = number
        if not line.strip(" \t"):
            return
        if self.ended:
            raise self.fail("there is text after # EOF")
        if not line.startswith("#"):
            self.sample(line)
        elif self.openmetrics and line == "# EOF":
            self.ended = True
        else:
            self.comment(line)

    def comment(self, line: str) -> None:
        found = _META.fullmatch(line)
        if found is None:
            if re.match(r"#[ \t]+(HELP|TYPE)[ \t]", line):
                raise self.fail(f"{_short(line)} names no metric")
            return
        keyword, name, rest = found[1], _name(found[2]), found[3] or ""
        family = self.families.setdefault(name, _Open(name))
        if keyword == "HELP":
            family.help = family.help or _unescape(rest)
        elif keyword == "TYPE":
            self.declare(family, rest.strip(" \t"))

    def declare(self, family: _Open, kind: str) -> None:
        kind = "unknown" if kind == "untyped" else kind
        if kind not in self.suffixes:
            raise self.fail(f"{kind or 'nothing'!r} is no metric type: {', '.join(sorted(self.suffixes))}")
        if family.name in self.typed and family.type != kind:
            raise self.fail(f"{family.name} is declared as {family.type} and again as {kind}")
        self.typed.add(family.name)
        family.type = kind
        for suffix in self.suffixes[kind]:
            self.owner.setdefault(family.name + suffix, family)
        self.owner[family.name + self.suffixes[kind][0]] = family
        if self.openmetrics and kind in _CREATED:
            self.created[
                f"{family.name.removesuffix('_total') if kind == 'counter' else family.name}_created"
            ] = family

    def sample(self, line: str) -> None:
        name, labels, at = self.series(line)
        tail = _TAIL.fullmatch(line, at)
        if tail is None or (tail[2] and not self.openmetrics):
            raise self.fail(f"{_short(line)}: expected a value after the series, then at most a timestamp")
        family = self.owner.get(name)
        if family is None and name in self.created:
            self.created[name].created = True
            return
        if family is None:
            family = self.families.setdefault(name, _Open(name))
            self.owner[name] = family
        if family.type == "histogram" and name == f"{family.name}_bucket":
            self.check_edge(labels)
        family.samples.append(Sample(name, labels, float(tail[1])))

    def check_edge(self, labels: Mapping[str, str]) -> None:
        if re.fullmatch(_NUMBER, labels.get("le", "")) is None:
            raise self.fail(f"a histogram bucket has the edge {labels.get('le')!r}; le must be a number")

    def series(self, line: str) -> tuple[str, dict[str, str], int]:
        """The name and the labels at the start of a line, and where they end."""
        head = _HEAD.match(line)
        if head is None or not (head[1] or head[2]):
            raise self.fail(f"{_short(line)} is no sample")
        name, at = head[1] or "", head.end()
        if not head[2]:
            if line[head.end(1) : head.end(1) + 1] not in (" ", "\t"):
                raise self.fail(f"{_short(line)} is no sample")
            return name, {}, head.end(1)
        labels: dict[str, str] = {}
        while line[at:].lstrip(" \t")[:1] != "}":
            found = _LABEL.match(line, at)
            if found is None:
                raise self.fail(f"the labels are broken at {_short(line[at:])}")
            at = found.end()
            if found[1] is None:
                name = self.quoted_name(name, found[2])
            else:
                self.add_label(labels, _name(found[1]), _unescape(found[2][1:-1]))
        if not name:
            raise self.fail(f"{_short(line)} has no name")
        return name, labels, line.index("}", at) + 1

    def quoted_name(self, name: str, text: str) -> str:
        """A name inside the braces, as text 1.0.0 writes names that are not plain ASCII words."""
        if name or not _name(text):
            raise self.fail("a quoted name stands where a label should")
        return _name(text)

    def add_label(self, labels: dict[str, str], label: str, value: str) -> None:
        if label in labels:
            raise self.fail(f"label {label} is given twice")
        labels[label] = value

    def finish(self) -> Iterable[Exposed]:
        if self.openmetrics and not self.ended:
            raise self.fail("the page is cut short: OpenMetrics ends with # EOF")
        folded = {} if self.openmetrics else self.fold_created()
        for name, family in self.families.items():
            if name not in folded:
                yield from self.close(family)

    def fold_created(self) -> dict[str, _Open]:
        """Python's client exposes the time of creation as a gauge of its own: it belongs to its family."""
        folded: dict[str, _Open] = {}
        for name, gauge in self.families.items():
            base = name.removesuffix("_created")
            if base != name and gauge.type == "gauge":
                for owner in (self.families.get(base), self.families.get(f"{base}_total")):
                    if owner is not None and owner.type in _CREATED and name not in folded:
                        owner.created = True
                        folded[name] = gauge
        return folded

    def close(self, family: _Open) -> Iterable[Exposed]:
        match family.type:
            case "counter" if self.openmetrics:
                name = f"{family.name.removesuffix('_total')}_total"
            case "info" if self.openmetrics:
                name = f"{family.name.removesuffix('_info')}_info"
            case "gaugehistogram":
                # PromQL sees plain gauges: a histogram's `_sum` and `_count` do not exist.
                for suffix in _OPEN_SUFFIXES["gaugehistogram"]:
                    mine = tuple(s for s in family.samples if s.name == family.name + suffix)
                    yield Exposed(family.name + suffix, "gauge", family.help, mine)
                return
            case _:
                name = family.name
        kind: FamilyType = "gauge" if family.type == "stateset" else family.type  # type: ignore[assignment]
        if self.openmetrics and family.type in ("counter", "info"):
            bare = {sample.name for sample in family.samples}
            name = bare.pop() if len(bare) == 1 else name
        if family.type != "unknown" or family.samples:
            yield Exposed(name, kind, family.help, tuple(family.samples), family.created)


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    return _ESCAPED.sub(lambda found: "\n" if found[1] == "n" else found[1], text)


def _name(text: str) -> str:
    return _unescape(text[1:-1]) if text.startswith('"') else text


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
