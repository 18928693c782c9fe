"""How the scrapes of each source fared: up when it should be, and what it means when it was not."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from monitorgen import promql
from monitorgen.catalog.transport import LIMIT
from monitorgen.errors import MonitorgenError
from monitorgen.prove.processes import poll_until
from monitorgen.prove.prometheus import Prometheus, PrometheusError, TargetState
from monitorgen.prove.sources import Source

TOLERATED = 0.1  # the share of scrapes that may fail: a busy server is late now and then

# What Prometheus says of a failed scrape, 2.42 to 3.5, and what that means.
_MEANINGS = (
    (r"context deadline exceeded|Client\.Timeout", "it did not answer within the scrape interval of {every}"),
    (r"body size limit exceeded", "its page is larger than {limit}"),
    (r"connection refused", "nothing listens there (connection refused)"),
    (r"no such host|server misbehaving", "its name is not known"),
    (r"HTTP status (3\d\d)\b", "it redirects ({0}), which is not followed: give the final address"),
    (r"HTTP status (401|403)\b.*", "it refuses the credentials ({0})"),
    (r"HTTP status (\d+.*)", "it answers {0}"),
    (r"(?i)unsupported Content-Type \"?([^\" ]*)", "its content type is no metrics page's: {0}"),
    (r"(x509|tls): (.*)", "TLS: {1}"),
    (r"(.*(?:is not a valid start token|while parsing|^expected .*, got ).*)", "its page is malformed: {0}"),
    (r"connection reset|\bEOF\b", "it closes the connection before the page is whole"),
)


@dataclass(frozen=True, slots=True)
class Scrapes:
    """The scrapes of one source: how many there were and how many failed.

    `up` is the state at the end, `error` the last error if there is one by then, in words for people.
    """

    source: Source
    tried: int = 0
    failed: int = 0
    up: bool = False
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is up at the end and was so nearly always."""
        return self.up and self.failed <= TOLERATED * self.tried

    def __str__(self) -> str:
        where = f"{self.source.job} at {self.source.url}"
        counts = f"{self.failed} of {self.tried} scrapes failed"
        if self.up and not self.failed:
            return f"{where}: {self.tried} scrapes"
        if self.up:
            return f"{where}: {counts}" + (f", the last because {self.error}" if self.error else "")
        why = f": {self.error}" if self.error else ""
        if self.failed < self.tried:
            return f"{where} went away{why} ({counts})"
        return f"{where} cannot be scraped{why}"


def await_targets(
    server: Prometheus,
    sources: Sequence[Source],
    interval: float,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Wait until every source was scraped; what stays down is told, and left out if others are up.

    Raises `PrometheusError` if none is up, `ProcessError` if Prometheus dies.
    """

    def judged() -> bool:
        states = server.targets()
        return len(states) == len(sources) and all(state.health in ("up", "down") for state in states)

    def all_up() -> bool:
        server.check()
        return all(state.health == "up" for state in server.targets())

    server.child.wait_until(judged, timeout=60 + 3 * interval, what="scraping every source")
    if poll_until(all_up, timeout=max(3.0, 3 * interval), pause=threading.Event().wait, first=interval / 4):
        return
    states = server.targets()
    down = [
        Scrapes(one, 1, 1, False, _error(one, states, interval)) for one in sources if not _up(one, states)
    ]
    if len(down) == len(sources):
        raise PrometheusError("; ".join(map(str, down)))
    for one in down:
        progress(f"{one}; going on without it")


def look_back(
    server: Prometheus, sources: Sequence[Source], seconds: float, interval: float
) -> tuple[Scrapes, ...]:
    """How the scrapes of the last `seconds` fared, for each source."""
    window = promql.format_duration(max(1.0, round(seconds)))
    tried = _counts(server, f"count_over_time(up[{window}])")
    worked = _counts(server, f"sum_over_time(up[{window}])")
    states = server.targets()
    return tuple(
        Scrapes(
            source=source,
            tried=tried.get(_key(source), 0),
            failed=tried.get(_key(source), 0) - worked.get(_key(source), 0),
            up=_up(source, states),
            error=_error(source, states, interval),
        )
        for source in sources
    )


def explain(error: str, interval: float) -> str:
    """Prometheus' words for a failed scrape, as what it means; other words stay as they are."""
    every, limit = f"{interval:g} s", f"{LIMIT >> 20} MiB"
    for pattern, meaning in _MEANINGS:
        if found := re.search(pattern, error):
            return meaning.format(*found.groups(), every=every, limit=limit)
    return " ".join(error.split())


def _key(source: Source) -> tuple[str, str]:
    labels = dict(source.labels)
    return labels.get("job", source.job), labels.get("instance", source.target)


def _counts(server: Prometheus, query: str) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for sample in server.query(query):
        key = sample.labels.get("job", ""), sample.labels.get("instance", "")
        found[key] = found.get(key, 0) + round(sample.value)
    return found


def _state(source: Source, states: Sequence[TargetState]) -> TargetState | None:
    return next((state for state in states if (state.job, state.instance) == _key(source)), None)


def _up(source: Source, states: Sequence[TargetState]) -> bool:
    state = _state(source, states)
    return state is not None and state.health == "up"


def _error(source: Source, states: Sequence[TargetState], interval: float) -> str:
    state = _state(source, states)
    try:
        return source.access.redacted(explain(state.error, interval)) if state and state.error else ""
    except MonitorgenError:
        return ""
