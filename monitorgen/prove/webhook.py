"""The far end of an alert's way: a webhook that keeps what Alertmanager delivers, as typed data."""

from __future__ import annotations

import json
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal, TypeAlias

from monitorgen.errors import MonitorgenError
from monitorgen.prove.local_server import LocalServer, SilentHandler
from monitorgen.prove.processes import LOOPBACK
from monitorgen.prove.prometheus import timestamp

PAYLOAD_VERSION = "4"  # of Alertmanager's webhook payload, since 0.7
_LARGEST = 16 * 1024 * 1024  # bytes of a body; a group of a thousand alerts is about one megabyte

Status: TypeAlias = Literal["firing", "resolved"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One alert of one notification. Times are seconds since the epoch; `ends_at` is 0 where none is set."""

    receiver: str
    status: Status
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    starts_at: float
    ends_at: float
    generator_url: str
    fingerprint: str
    group_labels: Mapping[str, str]
    received: float

    @property
    def name(self) -> str:
        """The alert's name."""
        return self.labels.get("alertname", "")


@dataclass(frozen=True, slots=True)
class Malformed:
    """A request that is no notification: where it was sent, and what is wrong with it."""

    path: str
    reason: str
    received: float


class WebhookReceiver(LocalServer):
    """A webhook on the loopback interface inside the `with` block; the path's one part names the receiver.

    It takes a free port, or `port`; a port that is taken is a `MonitorgenError`.
    """

    def __init__(self, port: int = 0) -> None:
        self._changed = threading.Condition()
        self._deliveries: list[Delivery] = []
        self._errors: list[Malformed] = []
        try:
            super().__init__(_handler(self), name="webhook", port=port)
        except OSError as error:
            where = f"{LOOPBACK}:{port}"
            raise MonitorgenError(f"the webhook cannot listen on {where}: {error.strerror}") from error

    @property
    def url(self) -> str:
        """The address to put before `/RECEIVER`."""
        return f"http://{self.target}"

    def deliveries(self) -> tuple[Delivery, ...]:
        """What was delivered so far, oldest first."""
        with self._changed:
            return tuple(self._deliveries)

    def errors(self) -> tuple[Malformed, ...]:
        """The requests that were answered 400, oldest first."""
        with self._changed:
            return tuple(self._errors)

    def wait_for(self, predicate: Callable[[Delivery], bool], timeout: float) -> Delivery | None:
        """The first delivery that fulfils the predicate, there already or within `timeout` seconds."""

        def first() -> Delivery | None:
            return next((one for one in self._deliveries if predicate(one)), None)

        with self._changed:
            self._changed.wait_for(lambda: first() is not None, timeout)
            return first()

    def take(self, path: str, body: bytes) -> str:
        """Keep the alerts of a notification that came to `path`; empty, or why it is malformed."""
        now = time.time()
        try:
            found, reason = parse_notification(path, body, now), ""
        except ValueError as error:
            found, reason = (), str(error)
        self._keep(found, [Malformed(path, reason, now)] if reason else [])
        return reason

    def refuse(self, path: str, reason: str) -> None:
        """Keep a request whose body was not even read."""
        self._keep((), [Malformed(path, reason, time.time())])

    def _keep(self, deliveries: tuple[Delivery, ...], errors: list[Malformed]) -> None:
        with self._changed:
            self._deliveries += deliveries
            self._errors += errors
            self._changed.notify_all()


def parse_notification(path: str, body: bytes, received: float) -> tuple[Delivery, ...]:
    """The alerts of a notification that came to `path`. ValueError says what is wrong with it.

    The payload is what Alertmanager documents for `webhook_config`, version 4.
    """
    receiver = urllib.parse.unquote(urllib.parse.urlsplit(path).path.removeprefix("/"), errors="strict")
    try:
        payload = json.loads(body)
    except RecursionError as error:
        raise ValueError("the body is nested too deeply") from error
    if not isinstance(payload, dict):
        raise ValueError("the body is no object")
    if payload.get("version") != PAYLOAD_VERSION:
        raise ValueError(f"version is {payload.get('version')!r}, not {PAYLOAD_VERSION!r}")
    if payload.get("receiver") != receiver:
        raise ValueError(f"the receiver {payload.get('receiver')!r} came to the path of {receiver!r}")
    if payload.get("truncatedAlerts"):
        raise ValueError(f"{payload['truncatedAlerts']} alerts were left out")
    alerts = payload.get("alerts")
    if not isinstance(alerts, list) or not alerts:
        raise ValueError("there are no alerts")
    group = _texts(payload, "groupLabels")
    return tuple(_delivery(alert, receiver, group, received) for alert in alerts)


def _delivery(alert: Any, receiver: str, group: Mapping[str, str], received: float) -> Delivery:
    if not isinstance(alert, dict):
        raise ValueError("an alert is no object")
    labels = _texts(alert, "labels")
    if not labels.get("alertname"):
        raise ValueError("an alert has no name")
    status: Status
    match alert.get("status"):
        case "firing" | "resolved" as status:
            pass
        case other:
            raise ValueError(f"the status of {labels['alertname']} is {other!r}")
    return Delivery(
        receiver=receiver,
        status=status,
        labels=labels,
        annotations=_texts(alert, "annotations"),
        starts_at=timestamp(_text(alert, "startsAt")),
        ends_at=timestamp(_text(alert, "endsAt")),
        generator_url=_text(alert, "generatorURL"),
        fingerprint=_text(alert, "fingerprint"),
        group_labels=group,
        received=received,
    )


def _text(tree: Mapping[str, Any], key: str) -> str:
    value = tree.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key} is {value!r}, not a text")
    return value


def _texts(tree: Mapping[str, Any], key: str) -> Mapping[str, str]:
    value = tree.get(key)
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(f"{key} is {value!r}, not names with texts")
    return value


def _handler(webhook: WebhookReceiver) -> type[BaseHTTPRequestHandler]:
    class Handler(SilentHandler):
        """Takes notifications."""

        timeout = 5.0  # seconds without a byte, after which a sender is given up

        def do_POST(self) -> None:
            """Keep the body's alerts: 200, or 400 and why."""
            reason = self._trouble()
            status, said = (400, reason) if reason else (200, "kept")
            self.send_text(said, "text/plain; charset=utf-8", status)

        def _trouble(self) -> str:
            """What is wrong with the request; empty where its alerts are kept."""
            length = self.headers.get("Content-Length", "")
            reason = ""
            if not (length.isascii() and length.isdigit()):
                reason = "the body's length is not stated"
            elif int(length) > _LARGEST:
                reason = f"the body has {length} bytes; {_LARGEST} are read"
            else:
                body = self._read(int(length))
                if len(body) == int(length):
                    return webhook.take(self.path, body)
                reason = f"the body ends after {len(body)} of {length} bytes"
            webhook.refuse(self.path, reason)
            return reason

        def _read(self, length: int) -> bytes:
            """The body, or as much of it as comes in time."""
            body = b""
            while len(body) < length:
                try:
                    more = self.rfile.read1(length - len(body))
                except TimeoutError:
                    break
                if not more:
                    break
                body += more
            return body

    return Handler
