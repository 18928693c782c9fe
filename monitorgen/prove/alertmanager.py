"""Alertmanager for the time of a proof: the server, a typed client, and a routing config fit for a proof."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import yaml

from monitorgen.errors import InputError, MonitorgenError, ToolMissing
from monitorgen.promql import format_duration, parse_duration
from monitorgen.prove.processes import LOOPBACK, Child, ProcessError, child, free_port
from monitorgen.prove.prometheus import OWN_TIMEOUT, timestamp

BINARY_VARIABLE = "MONITORGEN_ALERTMANAGER"
PROGRAMS = ("alertmanager", "prometheus-alertmanager")  # everybody's name of it, and Debian's
# Seconds: what durations are divided down to at most. An alert that nobody ends counts as resolved after
# `resolve_timeout`, which must not come before its group was told that it fires.
SHORTEST, SHORTEST_RESOLVE = 0.1, 5.0
# What Alertmanager takes where the config is silent (its documentation of `route` and `global`).
_ROUTE_DEFAULTS = {"group_wait": "30s", "group_interval": "5m", "repeat_interval": "4h"}
_RESOLVE_DEFAULT = "5m"
_PORT_TRIES = 3  # a free port may be taken by somebody else before the server listens on it
_PORT_TAKEN = "address already in use"


class AlertmanagerError(MonitorgenError):
    """Alertmanager could not be asked, or refused what was sent."""


@dataclass(frozen=True, slots=True)
class HeldAlert:
    """An alert that Alertmanager holds. Times are seconds since the epoch.

    `state` is `unprocessed` until it was looked at; `suppressed` is inhibited (`inhibited_by` holds
    fingerprints) or silenced.
    """

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    receivers: tuple[str, ...]
    state: Literal["unprocessed", "active", "suppressed"]
    inhibited_by: tuple[str, ...]
    silenced_by: tuple[str, ...]
    fingerprint: str
    starts_at: float
    ends_at: float
    generator_url: str

    @property
    def name(self) -> str:
        """The alert's name."""
        return self.labels.get("alertname", "")


@dataclass(frozen=True, slots=True)
class PostedAlert:
    """An alert to send, as Prometheus would. `ends_at` (epoch seconds) resolves it; 0 leaves it firing."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    starts_at: float
    ends_at: float = 0.0
    generator_url: str = ""


class AlertmanagerClient:
    """Asks an Alertmanager at a URL by its API v2. Every failure is an `AlertmanagerError`."""

    def __init__(self, url: str, timeout: float = 10.0) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InputError(
                f"{url!r} is no Alertmanager address", hint="write it like http://127.0.0.1:9093"
            )
        self.url = url.rstrip("/")
        self.timeout = timeout
        local = parts.hostname in (LOOPBACK, "localhost", "::1")
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({} if local else None))

    def alerts(self) -> tuple[HeldAlert, ...]:
        """The alerts that fire now, suppressed ones too, sorted by their labels."""
        found = self._api("alerts", _held)
        return tuple(sorted(found, key=lambda alert: sorted(alert.labels.items())))

    def post(self, alerts: Iterable[PostedAlert]) -> None:
        """Send alerts; what was sent before with the same labels is replaced."""
        body = [
            {
                "labels": dict(alert.labels),
                "annotations": dict(alert.annotations),
                "startsAt": _rfc3339(alert.starts_at),
                **({"endsAt": _rfc3339(alert.ends_at)} if alert.ends_at else {}),
                "generatorURL": alert.generator_url,
            }
            for alert in alerts
        ]
        self._get("/api/v2/alerts", json.dumps(body).encode())

    def receivers(self) -> tuple[str, ...]:
        """The receivers of the loaded config, in its order."""
        return tuple(self._api("receivers", lambda rows: [str(row["name"]) for row in rows]))

    def version(self) -> str:
        """The server's version, like `0.25.0`."""
        said = self._api("status", lambda tree: str(tree["versionInfo"]["version"]))
        return str(said).partition("+")[0]

    def ready(self) -> bool:
        """Whether the server takes alerts by now."""
        with contextlib.suppress(AlertmanagerError):
            self._get("/-/ready")
            return True
        return False

    def _api(self, path: str, read: Any) -> Any:
        """What `read` makes of the API's answer."""
        text = self._get(f"/api/v2/{path}")
        try:
            return read(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AlertmanagerError(f"{self.url} does not answer like an Alertmanager: {error}") from error

    def _get(self, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(
            self.url + path, data=body, headers={"Content-Type": "application/json"}
        )
        try:
            with self._opener.open(request, timeout=self.timeout) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise AlertmanagerError(f"Alertmanager refuses: {_refusal(error)}") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise AlertmanagerError(f"Alertmanager at {self.url} does not answer: {reason}") from error


class Alertmanager(AlertmanagerClient):
    """An Alertmanager of our own, alive inside the `with` block.

    `config` is the text of its configuration. It keeps its data in `workdir`, listens on the loopback
    interface only (a free port, or `port`) and opens no port for a cluster. `url` and `target` hold inside
    the block. Entering raises `ProcessError` with its own words where it refuses the config or the port.
    """

    def __init__(
        self,
        config: str,
        *,
        workdir: Path,
        binary: Path | None = None,
        port: int = 0,
        flags: tuple[str, ...] = (),
        start_timeout: float = 90.0,
    ) -> None:
        self._port = port
        super().__init__(f"http://{LOOPBACK}:{port or free_port()}", timeout=OWN_TIMEOUT)
        self.binary = binary or find_alertmanager()
        self.workdir = workdir.absolute()
        self._config = config
        self._flags = flags
        self._timeout = start_timeout
        self._stack = contextlib.ExitStack()
        self._child: Child | None = None

    @property
    def target(self) -> str:
        """The `host:port` that a Prometheus sends alerts to."""
        return urllib.parse.urlsplit(self.url).netloc

    @property
    def child(self) -> Child:
        """The running process; raises `AlertmanagerError` outside of the `with` block."""
        if self._child is None:
            raise AlertmanagerError("Alertmanager is not running")
        return self._child

    def __enter__(self) -> Alertmanager:
        self.workdir.mkdir(parents=True, exist_ok=True)
        (self.workdir / "alertmanager.yaml").write_text(self._config, encoding="utf-8")
        if self._port:
            _check_free(self._port)
        for left in reversed(range(_PORT_TRIES)):
            try:
                self._start()
                break
            except ProcessError as error:
                if self._port or not left or _PORT_TAKEN not in error.message:
                    raise
                self.url = f"http://{LOOPBACK}:{free_port()}"
        return self

    def _start(self) -> None:
        argv: list[str | Path] = [
            self.binary,
            f"--config.file={self.workdir / 'alertmanager.yaml'}",
            f"--storage.path={self.workdir / 'alertmanager'}",
            f"--web.listen-address={self.target}",
            "--cluster.listen-address=",  # empty: no gossip, and no port for it
            "--log.level=warn",
            *self._flags,
        ]
        with contextlib.ExitStack() as stack:
            log = self.workdir / "alertmanager.log"
            started = stack.enter_context(child(argv, name="alertmanager", log=log, cwd=self.workdir))
            started.wait_until(self.ready, timeout=self._timeout, what="getting ready")
            self._child, self._stack = started, stack.pop_all()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child = None
        self._stack.close()


def find_alertmanager() -> Path:
    """The Alertmanager to run: the environment's choice, else the one on PATH. Raises `ToolMissing`."""
    chosen = os.environ.get(BINARY_VARIABLE, "")
    found = next((path for name in ([chosen] if chosen else PROGRAMS) if (path := shutil.which(name))), None)
    if found is None:
        where = (
            f"{chosen} (from {BINARY_VARIABLE}) cannot be run" if chosen else "alertmanager is not on PATH"
        )
        raise ToolMissing(where, hint=f"install Alertmanager, or set {BINARY_VARIABLE} to its path")
    return Path(found)


def _check_free(port: int) -> None:
    """Raise `AlertmanagerError` where a program listens on the port; it would answer in place of ours."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as Go does: closed connections do not count
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            where = f"{LOOPBACK}:{port}"
            raise AlertmanagerError(f"Alertmanager cannot listen on {where}: {error.strerror}") from error


def for_proof(config: str, webhook_url: str, scale: float) -> str:
    """The config with its routes kept, every receiver a webhook of ours, and durations divided by `scale`.

    A receiver's alerts go to `webhook_url/RECEIVER`, also when they resolve. No integration, template or
    global setting of the config is kept, so that a proof reaches nobody else. No duration falls below
    `SHORTEST` (`resolve_timeout`: `SHORTEST_RESOLVE`).
    Raises `InputError` where the config is not one, or `scale` is not positive.
    """
    if not scale > 0:
        raise InputError(f"the time scale {scale:g} is not above 0")
    tree = _tree(config)
    for key, value in _ROUTE_DEFAULTS.items():
        tree["route"].setdefault(key, value)
    _divide(tree["route"], scale)
    stated = tree.get("global") or {}
    settings = {"resolve_timeout": stated.get("resolve_timeout", _RESOLVE_DEFAULT)}
    _divide(settings, scale)
    receivers = []
    for receiver in tree["receivers"]:
        url = f"{webhook_url.rstrip('/')}/{urllib.parse.quote(receiver['name'], safe='')}"
        webhook = {"url": url, "send_resolved": True, "max_alerts": 0}
        receivers.append({"name": receiver["name"], "webhook_configs": [webhook]})
    kept = {key: value for key, value in tree.items() if key not in ("global", "templates", "receivers")}
    proof = {"global": settings, **kept, "receivers": receivers}
    return yaml.safe_dump(proof, sort_keys=False, allow_unicode=True)


def _tree(config: str) -> dict[str, Any]:
    """The config as a tree that has a route and named receivers."""
    try:
        tree = yaml.safe_load(config)
    except yaml.YAMLError as error:
        raise InputError(f"the Alertmanager config is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("route"), dict):
        raise InputError("the Alertmanager config has no route")
    receivers = tree.get("receivers")
    named = isinstance(receivers, list) and all(
        isinstance(one, dict) and isinstance(one.get("name"), str) for one in receivers
    )
    if not named:
        raise InputError("the Alertmanager config has no list of named receivers")
    return tree


def _divide(route: dict[str, Any], scale: float) -> None:
    """Divide the durations of a route and of the routes inside it, in place."""
    floors = {**dict.fromkeys(_ROUTE_DEFAULTS, SHORTEST), "resolve_timeout": SHORTEST_RESOLVE}
    for key, floor in floors.items():
        if key in route:
            try:
                seconds = parse_duration(str(route[key]))
            except ValueError as error:
                raise InputError(f"the Alertmanager config's {key}: {error}") from error
            route[key] = format_duration(max(seconds / scale, floor))
    for inner in route.get("routes") or ():
        _divide(inner, scale)


def _held(rows: list[dict[str, Any]]) -> tuple[HeldAlert, ...]:
    return tuple(
        HeldAlert(
            labels=row["labels"],
            annotations=row["annotations"],
            receivers=tuple(str(receiver["name"]) for receiver in row["receivers"]),
            state=row["status"]["state"],
            inhibited_by=tuple(row["status"]["inhibitedBy"]),
            silenced_by=tuple(row["status"]["silencedBy"]),
            fingerprint=row["fingerprint"],
            starts_at=timestamp(row["startsAt"]),
            ends_at=timestamp(row["endsAt"]),
            generator_url=row.get("generatorURL", ""),
        )
        for row in rows
    )


def _refusal(error: urllib.error.HTTPError) -> str:
    """Alertmanager's own words, which are a JSON text or an object with a message, else the HTTP status."""
    try:
        said = json.loads(error.read())
        return str(said["message"] if isinstance(said, dict) else said)
    except (ValueError, KeyError, OSError):
        return f"HTTP {error.code}"


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
