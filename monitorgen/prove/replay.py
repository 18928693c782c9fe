"""Plays recorded scrapes back over HTTP, at real pace: an engine that cannot be run here, seen as it was.

Between two recordings, counters and histograms grow in a straight line; after the last one the same growth
comes again, so they never fall. Gauges show what was recorded, in turn. Nothing is invented: a family that no
recording holds is not there, and a series appears when its first recording is under way.
"""

from __future__ import annotations

import gzip
import re
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from monitorgen.bundle import Origin
from monitorgen.errors import InputError
from monitorgen.prove.local_server import LocalServer, SilentHandler

GZIP = b"\x1f\x8b"
_SAMPLE = re.compile(r'([a-zA-Z_:][\w:]*(?:\{(?:[^"}]|"(?:\\.|[^"\\])*")*\})?)\s+(\S+)')
_CUMULATIVE = {
    "counter": ("", "_total"),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("_sum", "_count"),
}


@dataclass(slots=True)
class _Track:
    """One series through all recordings: the value's text in each, None where the series was missing."""

    cumulative: bool
    texts: list[str | None]
    values: list[float] = field(default_factory=list)  # cumulative ones only, made to never fall

    def level(self, position: float) -> str | None:
        """The value at a position in recordings (0 is the first), None where the series is not there yet."""
        segments = len(self.texts) - 1
        cycle, within = divmod(position, segments)
        index = min(int(within), segments - 1)
        if not self.cumulative:
            return self._recorded(index + (within - index >= 0.5), repeats=cycle > 0)
        if not cycle and all(text is None for text in self.texts[: index + 2]):
            return None
        before, after = self.values[index], self.values[index + 1]
        growth = self.values[-1] - self.values[0]
        return repr(cycle * growth + before + (within - index) * (after - before))

    def _recorded(self, index: int, *, repeats: bool) -> str | None:
        """A gauge's text, else its last one before: once there, a series stays."""
        older = self.texts[index::-1] + (self.texts[:index:-1] if repeats else [])
        return next((text for text in older if text is not None), None)


@dataclass(slots=True)
class _Family:
    """A family of the page: its HELP and TYPE lines, and its series in order."""

    type: str = "untyped"
    header: list[str] = field(default_factory=list)
    tracks: dict[str, _Track] = field(default_factory=dict)


class Replay:
    """The course of an engine's metrics, made from recordings in the order in which they were taken.

    `step` is the time between two recordings, in seconds. Raises `InputError` for fewer than two recordings,
    or for one without samples.
    """

    def __init__(self, recordings: Sequence[str], *, step: float = 15.0, name: str = "") -> None:
        if len(recordings) < 2:
            raise InputError(
                "a replay needs two recordings at least", hint="give scrapes of one server, oldest first"
            )
        if step <= 0:
            raise InputError(f"the time between recordings must be above 0 s, not {step}")
        self.step = step
        self._families: dict[str, _Family] = {}
        for index, text in reversed(
            list(enumerate(recordings))
        ):  # the last one is the fullest: it sets the order
            if not self._read(text, index, len(recordings)):
                raise InputError(
                    "the recording holds no samples", origin=Origin(name or f"recording {index + 1}")
                )
        for family in self._families.values():
            for track in family.tracks.values():
                _never_fall(track)

    @classmethod
    def from_files(cls, paths: Sequence[Path], *, step: float = 15.0) -> Replay:
        """A replay of scrape files, plain or gzipped, oldest first."""
        texts = []
        for path in paths:
            try:
                raw = path.read_bytes()
                texts.append((gzip.decompress(raw) if raw[:2] == GZIP else raw).decode())
            except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
                raise InputError(
                    f"the recording cannot be read: {error}", origin=Origin(str(path))
                ) from error
        return cls(texts, step=step, name=", ".join(path.name for path in paths))

    def page(self, elapsed: float) -> str:
        """What `/metrics` says `elapsed` seconds after the start."""
        position = max(elapsed, 0.0) / self.step
        lines: list[str] = []
        for family in self._families.values():
            lines += family.header
            for series, track in family.tracks.items():
                value = track.level(position)
                if value is not None:
                    lines.append(f"{series} {value}")
        return "\n".join(lines) + "\n"

    def _read(self, text: str, index: int, count: int) -> int:
        """Add one recording; the number of its samples."""
        family, name, samples = _Family(), "", 0
        for line in text.splitlines():
            if line.startswith(("# HELP ", "# TYPE ")):
                _, word, name, *rest = line.split(" ", 3)
                family = self._families.setdefault(name, _Family())
                if word == "TYPE":
                    family.type = rest[0].strip() if rest else "untyped"
                if not any(known.startswith(f"# {word} ") for known in family.header):
                    family.header.append(line)
                continue
            found = _SAMPLE.match(line)
            if not found:
                continue
            samples += 1
            series, value = found.groups()
            metric = series.partition("{")[0]
            if not metric.startswith(name) or not name:
                name, family = metric, self._families.setdefault(metric, _Family())
            cumulative = metric in {name + suffix for suffix in _CUMULATIVE.get(family.type, ())}
            track = family.tracks.setdefault(series, _Track(cumulative, [None] * count))
            track.texts[index] = value
        return samples


class ReplayServer(LocalServer):
    """Serves a replay at `http://127.0.0.1:PORT/metrics` inside the `with` block; its time starts there."""

    def __init__(self, replay: Replay, *, clock: Callable[[], float] = time.monotonic) -> None:
        start = clock()
        super().__init__(_handler(lambda: replay.page(clock() - start)), name="replay")

    @property
    def url(self) -> str:
        """The address of the metrics page."""
        return f"http://{self.target}/metrics"


def _handler(page: Callable[[], str]) -> type[BaseHTTPRequestHandler]:
    class Handler(SilentHandler):
        """Answers `/metrics`."""

        def do_GET(self) -> None:
            """Send the page of this moment."""
            if self.path.partition("?")[0] != "/metrics":
                self.send_error(404)
                return
            self.send_text(page())

    return Handler


def _never_fall(track: _Track) -> None:
    """Fill a cumulative track's values: 0 where a recording lacks it, a reset counts as no growth."""
    if not track.cumulative:
        return
    level, last = 0.0, 0.0
    for index, text in enumerate(track.texts):
        value = float(text) if text is not None else last
        level = value if index == 0 else level + max(0.0, value - last)
        last = value
        track.values.append(level)
