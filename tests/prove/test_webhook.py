"""The webhook at the end of an alert's way: it keeps what is right, and says what is wrong with the rest."""

from __future__ import annotations

import copy
import http.client
import json
import socket
import threading
import urllib.parse
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitorgen.errors import MonitorgenError
from monitorgen.prove.webhook import Delivery, WebhookReceiver, parse_notification

ALERT = {
    "status": "firing",
    "labels": {"alertname": "TTFTHigh", "severity": "warning", "model_name": "a/b"},
    "annotations": {"summary": 'First tokens of "a/b" come late: 1.2s'},
    "startsAt": "2024-05-01T10:00:00.123456789Z",
    "endsAt": "0001-01-01T00:00:00Z",
    "generatorURL": "http://prometheus:9090/graph",
    "fingerprint": "52a3b1c0d9e8f705",
}
PAYLOAD = {
    "version": "4",
    "groupKey": "{}:{}",
    "truncatedAlerts": 0,
    "status": "firing",
    "receiver": "notify",
    "groupLabels": {"alertname": "TTFTHigh"},
    "commonLabels": {},
    "commonAnnotations": {},
    "externalURL": "http://alertmanager:9093",
    "alerts": [ALERT],
}


def with_change(change: Callable[[dict[str, Any]], object]) -> bytes:
    payload = copy.deepcopy(PAYLOAD)
    change(payload)
    return json.dumps(payload).encode()


def send(webhook: WebhookReceiver, path: str, body: bytes, headers: dict[str, str] | None = None) -> int:
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(webhook.url).netloc, timeout=60)
    try:
        connection.request("POST", path, body, headers or {})
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_notification_is_kept_as_data() -> None:
    resolved = ALERT | {"status": "resolved", "endsAt": "2024-05-01T12:00:05.5+02:00"}
    body = with_change(lambda payload: payload["alerts"].append(resolved))
    with WebhookReceiver() as webhook:
        assert send(webhook, "/notify", body) == 200
        firing, gone = webhook.deliveries()
        assert webhook.errors() == ()
    assert (firing.receiver, firing.status, firing.name) == ("notify", "firing", "TTFTHigh")
    assert firing.labels == ALERT["labels"]
    assert firing.annotations == ALERT["annotations"]
    assert firing.group_labels == {"alertname": "TTFTHigh"}
    assert firing.starts_at == pytest.approx(1714557600.123456, abs=1e-6)
    assert firing.ends_at == 0.0
    assert firing.generator_url == "http://prometheus:9090/graph"
    assert firing.received > firing.starts_at
    assert (gone.status, gone.ends_at) == ("resolved", 1714557605.5)


MALFORMED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "Expecting value"),
    "no JSON": (b"<html>", "Expecting value"),
    "no UTF-8": (b'{"version": "\xff"}', "decode"),
    "too deep": (b"[" * 100_000, "nested too deeply"),
    "a list": (b"[]", "no object"),
    "another version": (with_change(lambda p: p.update(version="3")), "version is '3'"),
    "another receiver": (with_change(lambda p: p.update(receiver="page")), "'page' came to"),
    "alerts left out": (with_change(lambda p: p.update(truncatedAlerts=2)), "2 alerts were left out"),
    "no alerts": (with_change(lambda p: p.update(alerts=[])), "no alerts"),
    "alerts missing": (with_change(lambda p: p.pop("alerts")), "no alerts"),
    "an alert is a text": (with_change(lambda p: p.update(alerts=["x"])), "no object"),
    "no group labels": (with_change(lambda p: p.pop("groupLabels")), "groupLabels is None"),
    "no labels": (with_change(lambda p: p["alerts"][0].pop("labels")), "labels is None"),
    "a number as label": (with_change(lambda p: p["alerts"][0]["labels"].update(a=1)), "labels is"),
    "no name": (with_change(lambda p: p["alerts"][0]["labels"].pop("alertname")), "has no name"),
    "an odd status": (with_change(lambda p: p["alerts"][0].update(status="x")), "TTFTHigh is 'x'"),
    "an odd time": (with_change(lambda p: p["alerts"][0].update(startsAt="soon")), "soon"),
    "no end": (with_change(lambda p: p["alerts"][0].pop("endsAt")), "endsAt is None"),
    "the second is bad": (with_change(lambda p: p["alerts"].append({})), "labels is None"),
}


@pytest.mark.parametrize(("body", "wanted"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_body_is_an_error_and_nothing_of_it_is_kept(body: bytes, wanted: str) -> None:
    with WebhookReceiver() as webhook:
        assert send(webhook, "/notify", body) == 400
        (error,) = webhook.errors()
        assert webhook.deliveries() == ()
    assert error.path == "/notify"
    assert wanted in error.reason


@pytest.mark.parametrize(
    ("length", "wanted"),
    [("", "not stated"), ("-1", "not stated"), ("²", "not stated"), ("99999999", "99999999 bytes")],
    ids=["none", "negative", "no digit", "huge"],
)
def test_a_body_of_no_sane_length_is_not_read(length: str, wanted: str) -> None:
    with WebhookReceiver() as webhook, socket.create_connection(("127.0.0.1", port_of(webhook)), 10) as line:
        header = f"Content-Length: {length}\r\n" if length else ""
        line.sendall(f"POST /notify HTTP/1.0\r\n{header}\r\n".encode("latin-1"))
        assert line.recv(4096).startswith(b"HTTP/1.0 400")
        (error,) = webhook.errors()
    assert wanted in error.reason


def test_a_body_that_breaks_off_is_an_error() -> None:
    with WebhookReceiver() as webhook:
        with socket.create_connection(("127.0.0.1", port_of(webhook)), 10) as line:
            line.sendall(b"POST /notify HTTP/1.0\r\nContent-Length: 50\r\n\r\n{}")
            line.shutdown(socket.SHUT_WR)
            assert line.recv(4096).startswith(b"HTTP/1.0 400")
        (error,) = webhook.errors()
    assert error.reason == "the body ends after 2 of 50 bytes"


def test_waiting_ends_with_the_delivery_that_was_waited_for() -> None:
    found: list[Delivery | None] = []
    with WebhookReceiver() as webhook:
        waiting = threading.Thread(
            target=lambda: found.append(webhook.wait_for(lambda one: one.status == "resolved", 30))
        )
        waiting.start()
        send(webhook, "/notify", json.dumps(PAYLOAD).encode())
        send(webhook, "/notify", b"{}")
        assert not found
        body = with_change(lambda p: p["alerts"][0].update(status="resolved", endsAt=ALERT["startsAt"]))
        send(webhook, "/notify", body)
        waiting.join(60)
        assert found == [webhook.deliveries()[1]]
        assert webhook.wait_for(lambda one: one.receiver == "page", 0.01) is None


def test_it_closes_its_port_and_its_threads() -> None:
    before = threading.active_count()
    with WebhookReceiver() as webhook:
        send(webhook, "/notify", json.dumps(PAYLOAD).encode())
        port = port_of(webhook)
        with pytest.raises(
            MonitorgenError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"
        ):
            WebhookReceiver(port)
    assert threading.active_count() == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)
    assert len(webhook.deliveries()) == 1


@given(name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_any_receiver_name_comes_back_from_its_path(name: str) -> None:
    body = with_change(lambda payload: payload.update(receiver=name))
    (one,) = parse_notification(f"/{urllib.parse.quote(name, safe='')}", body, 1.0)
    assert one.receiver == name


def port_of(webhook: WebhookReceiver) -> int:
    port = urllib.parse.urlsplit(webhook.url).port
    assert port is not None
    return port
