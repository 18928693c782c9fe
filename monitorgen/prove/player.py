"""An exporter that plays a scenario: targets whose families do what they are told, now this, now that.

It stands in for an engine where a condition cannot be made with a real one. What it serves is a made-up
course of values, and every proof that rests on it says so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler

from monitorgen.catalog import Family
from monitorgen.prove.course import SAMPLE_INTERVAL
from monitorgen.prove.local_server import LocalServer, SilentHandler
from monitorgen.prove.world import (
    Counter,
    Drive,
    Gauge,
    Gone,
    Histogram,
    Target,
    Where,
    bucket_weights,
    label_sets,
    matches,
)

UP = "up"  # no family of a page: it says whether the scrape succeeds
TOGGLE = 4 * SAMPLE_INTERVAL  # seconds, unscaled, after which a toggling gauge changes


@dataclass(frozen=True, slots=True)
class _Series:
    """One series of a family: its labels on the page, and what matchers see of it."""

    text: str
    labels: Mapping[str, str]


class Player:
    """What one target exports. `drives` may be changed at any time; counters go on from where they stand.

    `factor` is the time scale: gauges that toggle do so that much quicker, rates stay a second's.
    """

    def __init__(
        self,
        target: Target,
        families: Mapping[str, Family],
        drives: Mapping[str, Drive],
        also: Mapping[str, list[Where]] | None = None,
        *,
        factor: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.target = target
        self.families = {name: family for name, family in families.items() if name != UP}
        self._drives = dict(drives)
        self._factor = factor
        self._clock = clock
        self._start = self._last = clock()
        self._lock = threading.Lock()
        wanted = also or {}
        self._series = {
            name: _series(family, target, wanted.get(name, ())) for name, family in self.families.items()
        }
        self._totals: dict[tuple[str, str], float] = {}

    @property
    def up(self) -> bool:
        """Whether a scrape succeeds."""
        drive = self._drives.get(UP)
        return not (isinstance(drive, Gauge) and drive.value == 0)

    @property
    def listed(self) -> bool:
        """Whether service discovery knows the target."""
        return not isinstance(self._drives.get(UP), Gone)

    def drive(self, drives: Mapping[str, Drive]) -> None:
        """From now on, do this; what is not named keeps on as it was."""
        with self._lock:
            self._advance()
            self._drives.update(drives)

    def page(self) -> str:
        """The exposition of this moment."""
        with self._lock:
            self._advance()
            lines: list[str] = []
            for name, family in self.families.items():
                drive = self._drives.get(name, Gone())
                if not isinstance(drive, Gone):
                    lines.append(f"# TYPE {_declared(family)} {family.type}")
                    lines += self._lines(family, drive)
            return "\n".join(lines) + "\n"

    def _advance(self) -> None:
        now = self._clock()
        seconds, self._last = now - self._last, now
        for name in self.families:
            drive = self._drives.get(name)
            if isinstance(drive, Counter):
                self._count(name, drive, seconds)
            elif isinstance(drive, Histogram):
                self._observe(name, drive, seconds)

    def _count(self, name: str, drive: Counter, seconds: float) -> None:
        inside = [one for one in self._series[name] if matches(one.labels, drive.where)]
        outside = [one for one in self._series[name] if not matches(one.labels, drive.where)]
        for group, share in ((inside, drive.share), (outside, 1.0 - drive.share)):
            for one in group:
                self._grow(name, one.text, drive.rate * seconds * share / len(group))

    def _observe(self, name: str, drive: Histogram, seconds: float) -> None:
        edges, series = self.families[name].edges, self._series[name]
        observed = drive.rate * seconds / len(series)
        mean = drive.value if drive.mean is None else drive.mean
        for one in series:
            running = 0.0
            for number, weight in enumerate(bucket_weights(edges, drive)):
                running += weight * observed
                self._grow(f"{name}_bucket", f"{number} {one.text}", running)
            self._grow(f"{name}_sum", one.text, running * mean)

    def _grow(self, name: str, key: str, by: float) -> None:
        self._totals[name, key] = self._totals.get((name, key), 0.0) + by

    def _lines(self, family: Family, drive: Drive) -> Iterable[str]:
        name = family.name
        for number, one in enumerate(self._series[name]):
            if isinstance(drive, Gauge):
                yield f"{name}{_braced(one.text)} {self._reading(drive, one.labels, first=number == 0)!r}"
            elif isinstance(drive, Counter):
                yield f"{name}{_braced(one.text)} {self._totals.get((name, one.text), 0.0)!r}"
            else:
                yield from self._histogram_lines(family, one.text)

    def _histogram_lines(self, family: Family, text: str) -> Iterable[str]:
        name, comma = family.name, "," if text else ""
        count = 0.0
        for number, edge in enumerate((*(repr(float(edge)) for edge in family.edges), "+Inf")):
            count = self._totals.get((f"{name}_bucket", f"{number} {text}"), 0.0)
            yield f'{name}_bucket{{{text}{comma}le="{edge}"}} {count!r}'
        yield f"{name}_count{_braced(text)} {count!r}"
        yield f"{name}_sum{_braced(text)} {self._totals.get((f'{name}_sum', text), 0.0)!r}"

    def _reading(self, drive: Gauge, labels: Mapping[str, str], *, first: bool) -> float:
        """A gauge's value; of several series the first carries it: sum, max and single reads agree on it."""
        on = matches(labels, drive.where) if drive.where else first
        if drive.toggle:
            turn = int((self._last - self._start) * self._factor / TOGGLE) % 2
            on = on != bool(turn)
        return drive.value if on else 0.0


class PlayerServer(LocalServer):
    """Serves players at `http://127.0.0.1:PORT/NUMBER/metrics` inside the `with` block."""

    def __init__(self, players: Sequence[Player]) -> None:
        self.players = tuple(players)
        super().__init__(_handler(self.players), name="scenario")

    def path(self, number: int) -> str:
        """The metrics path of a player."""
        return f"/{number}/metrics"

    def discovered(self, job: str, leave_out: Container[int] = ()) -> list[dict[str, object]]:
        """The targets of a job as file-based service discovery lists them; those that are gone are not.

        Nor are those whose `id` is to be left out.
        """
        return [
            {
                "targets": [self.target],
                "labels": {**labels, "__metrics_path__": self.path(number)},
            }
            for number, player in enumerate(self.players)
            if (labels := dict(player.target.labels)).pop("job") == job
            and player.listed
            and id(player) not in leave_out
        ]


def _handler(players: Sequence[Player]) -> type[BaseHTTPRequestHandler]:
    pages = {f"/{number}/metrics": player for number, player in enumerate(players)}

    class Handler(SilentHandler):
        """Answers for every player."""

        protocol_version = "HTTP/1.1"  # connections are kept: there may be hundred scrapes a second

        def do_GET(self) -> None:
            """Send the page of this moment, or refuse where the target is to be down."""
            player = pages.get(self.path.partition("?")[0])
            if player is None or not player.up:
                self.send_error(404 if player is None else 503)
                return
            self.send_text(player.page())

    return Handler


def _series(family: Family, target: Target, also: Iterable[Where]) -> tuple[_Series, ...]:
    """The series of a family on a target, as its page has them: without the labels that a scrape adds."""
    found = []
    for labels in label_sets(family, target, also):
        own = {name: labels[name] for name in family.labels}
        text = ",".join(f'{name}="{_escaped(value)}"' for name, value in own.items())
        found.append(_Series(text, labels))
    return tuple(found)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _braced(text: str) -> str:
    return f"{{{text}}}" if text else ""


def _declared(family: Family) -> str:
    return family.name
