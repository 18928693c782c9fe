"""Prometheus as a source of truth: a typed client of its HTTP API, and a server for the time of a proof.

The server listens on the loopback interface only, keeps its data in a folder that the caller gives, and runs
with flags that 2.42, 2.53 and 3.5 share.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from monitorgen.errors import InputError, MonitorgenError, ToolMissing
from monitorgen.prove.processes import LOOPBACK, Child, child, free_port

BINARY_VARIABLE = "MONITORGEN_PROMETHEUS"


class PrometheusError(MonitorgenError):
    """Prometheus could not be asked, or refused the question."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one series; `time` in seconds since the epoch."""

    labels: Mapping[str, str]
    time: float
    value: float


@dataclass(frozen=True, slots=True)
class Series:
    """The points (seconds since the epoch, value) of one series over a range."""

    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]

    @property
    def finite(self) -> tuple[tuple[float, float], ...]:
        """The points that are numbers: neither NaN nor infinite."""
        return tuple(point for point in self.points if math.isfinite(point[1]))


@dataclass(frozen=True, slots=True)
class RuleState:
    """How a loaded rule fares: `health` is ok, err or unknown; `last` is 0 before the first evaluation."""

    group: str
    name: str
    kind: Literal["recording", "alerting"]
    query: str
    health: str
    error: str
    state: str
    last: float
    seconds: float


@dataclass(frozen=True, slots=True)
class AlertState:
    """A pending or firing alert."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    state: str
    active_at: float
    value: float


@dataclass(frozen=True, slots=True)
class TargetState:
    """A scraped target: `health` is up, down or unknown."""

    job: str
    instance: str
    url: str
    health: str
    error: str


class PrometheusClient:
    """Asks a Prometheus at a URL; answers are typed. Every failure is a `PrometheusError`."""

    def __init__(self, url: str, timeout: float = 10.0) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InputError(f"{url!r} is no Prometheus address", hint="write it like http://127.0.0.1:9090")
        self.url = url.rstrip("/")
        self.timeout = timeout
        direct: dict[str, dict[str, str]] = {"proxies": {}} if _is_loopback(parts.hostname) else {}
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler(**direct))

    def query(self, expr: str, time: float | None = None) -> tuple[Sample, ...]:
        """The instant query's samples; a scalar is one sample without labels."""
        data = self._api("query", {"query": expr, **({} if time is None else {"time": repr(time)})})
        if data["resultType"] in ("scalar", "string"):
            at, value = data["result"]
            return (Sample({}, float(at), _number(value)),)
        if data["resultType"] == "matrix":
            raise PrometheusError(f"{expr} is a range, not an instant query")
        rows = [row for row in data["result"] if "value" in row]
        return tuple(Sample(row["metric"], float(row["value"][0]), _number(row["value"][1])) for row in rows)

    def query_range(self, expr: str, start: float, end: float, step: float) -> tuple[Series, ...]:
        """The range query's series, from `start` to `end` (seconds since the epoch) every `step` seconds."""
        asked = {"query": expr, "start": repr(start), "end": repr(end), "step": repr(step)}
        return tuple(
            Series(row["metric"], tuple((float(at), _number(value)) for at, value in row.get("values", ())))
            for row in self._api("query_range", asked)["result"]
        )

    def rules(self) -> tuple[RuleState, ...]:
        """Every loaded rule, in the order of its groups."""
        return tuple(
            RuleState(
                group=group["name"],
                name=rule["name"],
                kind=rule["type"],
                query=rule["query"],
                health=rule["health"],
                error=rule.get("lastError", ""),
                state=rule.get("state", ""),
                last=timestamp(rule.get("lastEvaluation", "")),
                seconds=float(rule.get("evaluationTime", 0.0)),
            )
            for group in self._api("rules")["groups"]
            for rule in group["rules"]
        )

    def alerts(self) -> tuple[AlertState, ...]:
        """The alerts that are pending or firing now."""
        return tuple(
            AlertState(
                labels=alert["labels"],
                annotations=alert["annotations"],
                state=alert["state"],
                active_at=timestamp(alert.get("activeAt", "")),
                value=_number(alert["value"]),
            )
            for alert in self._api("alerts")["alerts"]
        )

    def targets(self) -> tuple[TargetState, ...]:
        """The active targets."""
        return tuple(
            TargetState(
                job=target["labels"].get("job", ""),
                instance=target["labels"].get("instance", ""),
                url=target["scrapeUrl"],
                health=target["health"],
                error=target.get("lastError", ""),
            )
            for target in self._api("targets", {"state": "active"})["activeTargets"]
        )

    def names(self) -> frozenset[str]:
        """The names of all series that are stored."""
        return frozenset(str(name) for name in self._api("label/__name__/values"))

    def families(self) -> frozenset[str]:
        """The names of all families that targets declare, also those without any series."""
        return frozenset(str(name) for name in self._api("metadata"))

    def version(self) -> str:
        """The server's version, like `2.53.3`."""
        return str(self._api("status/buildinfo")["version"]).partition("+")[0]

    def ready(self) -> bool:
        """Whether the server answers queries by now."""
        with contextlib.suppress(PrometheusError):
            self._get(f"{self.url}/-/ready")
            return True
        return False

    def _api(self, path: str, parameters: Mapping[str, str] | None = None) -> Any:
        asked = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        try:
            answer = json.loads(self._get(f"{self.url}/api/v1/{path}{asked}"))
            if answer["status"] == "success":
                return answer["data"]
            raise PrometheusError(f"Prometheus refuses {path}: {answer.get('error', 'no reason given')}")
        except (ValueError, KeyError, TypeError) as error:
            raise PrometheusError(f"{self.url} does not answer like a Prometheus: {error}") from error

    def _get(self, url: str) -> bytes:
        try:
            with self._opener.open(url, timeout=self.timeout) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise PrometheusError(_refusal(error)) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise PrometheusError(f"Prometheus at {self.url} does not answer: {reason}") from error


class Prometheus(PrometheusClient):
    """A Prometheus of our own, alive inside the `with` block.

    `config` is the text of prometheus.yml; `files` (relative path -> text) are written beside it, so that its
    `rule_files` can name them. `tsdb` is a data folder that exists already; without it a new one is made.
    """

    def __init__(
        self,
        config: str,
        *,
        workdir: Path,
        files: Mapping[str, str] | None = None,
        binary: Path | None = None,
        tsdb: Path | None = None,
        flags: tuple[str, ...] = (),
        start_timeout: float = 30.0,
    ) -> None:
        port = free_port()
        super().__init__(f"http://{LOOPBACK}:{port}")
        self.binary = binary or find_prometheus()
        self.workdir = workdir.absolute()
        self.tsdb = (tsdb or workdir / "tsdb").absolute()
        self._files = {"prometheus.yml": config, **(files or {})}
        self._flags = (f"--web.listen-address={LOOPBACK}:{port}", *flags)
        self._timeout = start_timeout
        self._stack = contextlib.ExitStack()
        self._child: Child | None = None

    @property
    def child(self) -> Child:
        """The running process; raises `PrometheusError` outside of the `with` block."""
        if self._child is None:
            raise PrometheusError("Prometheus is not running")
        return self._child

    def __enter__(self) -> Prometheus:
        for name, text in self._files.items():
            path = self.workdir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        argv: list[str | Path] = [
            self.binary,
            f"--config.file={self.workdir / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.tsdb}",
            "--storage.tsdb.retention.time=10y",  # synthetic blocks may lie far back
            "--log.level=warn",
            *self._flags,
        ]
        with contextlib.ExitStack() as stack:
            log = self.workdir / "prometheus.log"
            started = stack.enter_context(child(argv, name="prometheus", log=log, cwd=self.workdir))
            started.wait_until(self.ready, timeout=self._timeout, what="getting ready")
            self._child, self._stack = started, stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child = None
        self._stack.close()


def find_prometheus() -> Path:
    """The Prometheus to run: the environment's choice, else the one on PATH. Raises `ToolMissing`."""
    hint = f"install Prometheus, or set {BINARY_VARIABLE} to its path"
    chosen = os.environ.get(BINARY_VARIABLE, "")
    found = shutil.which(chosen or "prometheus")
    if found is None:
        where = f"{chosen} (from {BINARY_VARIABLE}) cannot be run" if chosen else "prometheus is not on PATH"
        raise ToolMissing(where, hint=hint)
    return Path(found)


def _is_loopback(host: str | None) -> bool:
    """Whether a proxy from the environment must be left out of the way."""
    return host in (LOOPBACK, "localhost", "::1")


def _refusal(error: urllib.error.HTTPError) -> str:
    """Prometheus' own words for a refused question, else the HTTP status."""
    try:
        said = str(json.loads(error.read())["error"])
    except (ValueError, KeyError, TypeError, OSError):
        said = f"HTTP {error.code}"
    return f"Prometheus refuses: {said}"


def _number(text: str) -> float:
    """A sample value; Prometheus writes NaN, +Inf and -Inf as Python reads them."""
    return float(text)


def timestamp(text: str) -> float:
    """An RFC 3339 time in seconds since the epoch; 0 for Go's zero time and for nothing."""
    if not text or text.startswith("0001-"):
        return 0.0
    moment, _, rest = text.replace("Z", "+00:00").partition(".")
    if rest:  # Go writes nanoseconds, Python reads microseconds
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        moment += f".{digits[:6]:0<6}{rest[len(digits) :]}"
    return datetime.fromisoformat(moment).timestamp()
