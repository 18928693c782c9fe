"""A typed client of Prometheus' HTTP API, which Mimir, Thanos and VictoriaMetrics have too."""

from __future__ import annotations

import contextlib
import json
import math
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from monitorgen.errors import InputError, MonitorgenError
from monitorgen.prove.access import CREDENTIAL_OPTIONS, NO_ACCESS, Access, NoPageError, get, shown
from monitorgen.prove.processes import LOOPBACK

_HINTS = {
    401: f"give {CREDENTIAL_OPTIONS}, or --tenant to Mimir",
    404: "Mimir has its API below /prometheus, a VictoriaMetrics cluster below /select/0/prometheus",
}
_HINTS[400] = _HINTS[404]  # as VictoriaMetrics says that it has no such path
NAMES_AT_ONCE = 40  # keeps a question's address below 4 kB, which every proxy takes


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
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    holds: float = 0.0  # seconds that an alert's condition must hold: its `for`


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
    """Asks whatever has Prometheus' HTTP API at a URL; answers are typed, failures are `PrometheusError`s.

    `url` is what comes before `/api/v1`; `access` holds credentials and TLS options. `warnings` collects what
    servers remark on their answers, such as that a part of the data could not be reached.
    """

    def __init__(self, url: str, timeout: float = 10.0, access: Access = NO_ACCESS) -> None:
        self.url = _base(url)
        self.timeout = timeout
        self.access = access
        self.warnings: dict[str, None] = {}
        self._proxies = not _is_loopback(urllib.parse.urlsplit(self.url).hostname)

    def query(self, expr: str, time: float | None = None) -> tuple[Sample, ...]:
        """The instant query's samples; a scalar is one sample without labels."""
        data = self.api("query", {"query": expr, **({} if time is None else {"time": repr(time)})})
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
            for row in self.api("query_range", asked)["result"]
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
                labels=rule.get("labels") or {},
                holds=float(rule.get("duration", 0.0)),
            )
            for group in self.api("rules")["groups"]
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
            for alert in self.api("alerts")["alerts"]
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
            for target in self.api("targets", {"state": "active"})["activeTargets"]
        )

    def names(self, among: Iterable[str] = (), since: float | None = None) -> frozenset[str]:
        """The names of the stored series: all, or which `among` some have samples after `since`."""
        wanted, found = sorted(among), set[str]()
        start = {} if since is None else {"start": repr(since)}
        if not wanted:
            return frozenset(str(name) for name in self.api("label/__name__/values", start))
        for at in range(0, len(wanted), NAMES_AT_ONCE):
            either = "|".join(wanted[at : at + NAMES_AT_ONCE])
            asked = {"match[]": f'{{__name__=~"{either}"}}', **start}
            found.update(str(name) for name in self.api("label/__name__/values", asked))
        return frozenset(found)

    def families(self) -> frozenset[str]:
        """The names of all families that targets declare, also those without any series."""
        return frozenset(str(name) for name in self.api("metadata"))

    def version(self) -> str:
        """The server's version, like `2.53.3`."""
        return str(self.api("status/buildinfo")["version"]).partition("+")[0]

    def ready(self) -> bool:
        """Whether the server answers queries by now."""
        with contextlib.suppress(PrometheusError):
            self._get(f"{self.url}/-/ready")
            return True
        return False

    def api(self, path: str, parameters: Mapping[str, str] | None = None) -> Any:
        """What the server answers below `/api/v1`, as plain data. Raises `PrometheusError`."""
        asked = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        body = self._get(f"{self.url}/api/v1/{path}{asked}")
        if body.lstrip()[:1] == b"<":
            raise PrometheusError(
                f"{self.url} answers with a web page, not with Prometheus' API",
                hint="is it Grafana, or a page to log in?",
            )
        try:
            answer = json.loads(body)
            if answer["status"] == "success":
                said = answer.get("warnings") or ()
                self.warnings.update(dict.fromkeys(self.access.redacted(str(text)) for text in said))
                return answer["data"]
            raise PrometheusError(f"Prometheus refuses {path}: {answer.get('error', 'no reason given')}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PrometheusError(f"{self.url} does not answer like a Prometheus: {error}") from error

    def _get(self, url: str) -> bytes:
        try:
            return get(url, self.access, timeout=self.timeout, proxies=self._proxies).body
        except NoPageError as error:
            said = _refusal(error.body)
            if said:
                raise PrometheusError(f"Prometheus refuses: {self.access.redacted(said)}") from error
            known = error.status == 401 and self.access.secret_file  # its own words name the file
            hint = error.hint if known else _HINTS.get(error.status, error.hint)
            raise PrometheusError(error.message, hint=hint) from error


def _base(url: str) -> str:
    """A server's address up to `/api/v1`. Raises `InputError` for no address, or one with credentials."""
    hint = "write it like http://127.0.0.1:9090"
    if "@" in url:
        raise InputError(f"the address {shown(url)} holds credentials", hint=f"give {CREDENTIAL_OPTIONS}")
    try:
        parts = urllib.parse.urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and url.isprintable()
    except ValueError:
        valid = False
    if not valid or " " in url:
        raise InputError(f"{shown(url)!r} is no Prometheus address", hint=hint)
    if parts.query or parts.fragment:
        raise InputError(f"{shown(url)}: the address has more than a path", hint=hint)
    return url.rstrip("/").removesuffix("/api/v1").rstrip("/")


def _is_loopback(host: str | None) -> bool:
    """Whether a proxy from the environment must be left out of the way."""
    return host in (LOOPBACK, "localhost", "::1")


def _refusal(body: bytes) -> str:
    """Prometheus' own words for a refused question; empty if it is not Prometheus that speaks."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return ""


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
