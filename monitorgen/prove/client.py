"""One request to an OpenAI-compatible server on loopback, and what its client saw of the streamed answer.

The client measures for itself: it takes nothing from the server but the bytes of the stream and, in its last
chunk, the server's count of tokens. Times are of a monotonic clock, from just before the request is sent.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import socket
import threading
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, Literal, TypeAlias

from monitorgen.errors import InputError

Kind: TypeAlias = Literal["completion", "chat", "disconnect", "bad_request", "unknown_model"]
DISCONNECT_AFTER = 3  # chunks that a client reads before it hangs up
CUT = "cut off by the end of the load"
_DATA = b"data: {"
_TELLING = (b'"usage":{', b'"error":', b'"finish_reason":"')  # chunks worth parsing; the others only count
_OPENING = b'"role":"assistant"'  # a chat's opening chunk, sent together with the first token's


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request to send: `at` seconds after the start."""

    at: float
    kind: Kind
    prompt: str
    max_tokens: int
    temperature: float = 0.0
    ignore_eos: bool = False

    def message(self, model: str) -> tuple[str, Mapping[str, object]]:
        """The path and the JSON body."""
        body: dict[str, object] = {"model": model, "max_tokens": self.max_tokens, "stream": True}
        body |= {"temperature": self.temperature, "stream_options": {"include_usage": True}}
        if self.ignore_eos or self.kind == "disconnect":
            body["ignore_eos"] = True
        if self.kind == "chat":
            return "/v1/chat/completions", body | {"messages": [{"role": "user", "content": self.prompt}]}
        if self.kind == "bad_request":
            body["max_tokens"] = -1
        if self.kind == "unknown_model":
            body["model"] = f"{model}-that-is-not-here"
        return "/v1/completions", body | {"prompt": self.prompt}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one request. Times are seconds from sending; `ttft` is None where no token came.

    `status` is the HTTP status, 0 where there was no answer; `error` then says why, or names the error that
    was streamed. `prompt_tokens` and `generated_tokens` are None where the stream did not end with them.
    `gaps` are the seconds between one chunk with tokens and the next; `finish` is the reason of the end.
    `sent` is when it was sent, in seconds since the epoch.
    """

    kind: Kind
    status: int
    ttft: float | None
    total: float
    chunks: int
    error: str = ""
    prompt_tokens: int | None = None
    generated_tokens: int | None = None
    gaps: tuple[float, ...] = ()
    finish: str = ""
    sent: float = 0.0

    @property
    def tokens_at(self) -> tuple[float, ...]:
        """When each chunk with tokens came, in seconds since the epoch."""
        if self.ttft is None:
            return ()
        return tuple(accumulate(self.gaps, initial=self.sent + self.ttft))

    @property
    def complete(self) -> bool:
        """Whether the answer was read to its end, with the count of its tokens."""
        return (
            self.status == 200 and self.generated_tokens is not None and bool(self.chunks) and not self.error
        )


class Wires:
    """The open connections of a load, so that all of them can be cut at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._cut = False

    @property
    def is_cut(self) -> bool:
        """Whether the connections were cut."""
        return self._cut

    def add(self, wire: socket.socket) -> None:
        """Keep a connection; one that comes after the cut is cut at once."""
        with self._lock:
            self._open.add(wire)
            if self._cut:
                _shut(wire)

    def remove(self, wire: socket.socket) -> None:
        """Forget a connection that was closed."""
        with self._lock:
            self._open.discard(wire)

    def cut(self) -> None:
        """Shut every connection down: whoever reads from one wakes up."""
        with self._lock:
            self._cut = True
            for wire in self._open:
                _shut(wire)


def send(
    address: tuple[str, int], arrival: Arrival, model: str, timeout: float, wires: Wires | None = None
) -> Outcome:
    """Send one request and read its stream; never raises for what the server or the network does."""
    path, body = arrival.message(model)
    wires = wires or Wires()
    reading = _Reading(arrival.kind, time.monotonic())
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    wire = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    wire.settimeout(timeout)
    wires.add(wire)  # before it is connected: a server that hangs lets clients wait for that, too
    try:
        if not wires.is_cut:
            wire.connect(address)
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sock = wire
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        reading.status = answer.status
        for line in answer:
            if line.startswith(_DATA) and reading.chunk(line):
                break
            if time.monotonic() - reading.start > timeout:
                raise TimeoutError(f"still streaming after {timeout:.0f} s")
    except (OSError, ValueError, http.client.HTTPException) as error:
        reading.error = f"{error!r}"
    finally:
        wires.remove(wire)
        with contextlib.suppress(OSError):
            connection.close()
        wire.close()
    outcome = reading.outcome()
    return replace(outcome, error=CUT) if wires.is_cut and not outcome.complete else outcome


class _Reading:
    """What was read of one stream so far."""

    def __init__(self, kind: Kind, start: float) -> None:
        self.kind, self.start = kind, start
        self.sent = time.time()
        self.status = 0
        self.error = self.finish = ""
        self.times: list[float] = []
        self.usage: Mapping[str, Any] = {}

    def chunk(self, line: bytes) -> bool:
        """Take one chunk in; whether the client hangs up after it."""
        if _OPENING in line:
            return False
        told = json.loads(line[len(_DATA) - 1 :]) if any(mark in line for mark in _TELLING) else {}
        self.usage = told.get("usage") or self.usage
        if "error" in told:
            self.error = str(told["error"].get("message", told["error"]))
            return False
        choices = told.get("choices")
        if choices == [] and self.usage:
            return False
        self.times.append(time.monotonic() - self.start)
        if choices:
            self.finish = str(choices[0].get("finish_reason") or self.finish)
        return self.kind == "disconnect" and len(self.times) >= DISCONNECT_AFTER

    def outcome(self) -> Outcome:
        """The measures of the whole."""
        return Outcome(
            kind=self.kind,
            status=self.status,
            ttft=self.times[0] if self.times else None,
            total=time.monotonic() - self.start,
            chunks=len(self.times),
            error=self.error,
            prompt_tokens=self.usage.get("prompt_tokens"),
            generated_tokens=self.usage.get("completion_tokens"),
            gaps=tuple(after - before for before, after in pairwise(self.times)),
            finish=self.finish,
            sent=self.sent,
        )


def loopback_address(url: str) -> tuple[str, int]:
    """Host and port of a URL; raises `InputError` unless it is an address of this machine's loopback."""
    parts = urllib.parse.urlsplit(url)
    host = "127.0.0.1" if parts.hostname == "localhost" else (parts.hostname or "")
    try:
        loopback = ipaddress.ip_address(host).is_loopback
        port = parts.port
    except ValueError:
        loopback, port = False, None
    if not loopback or port is None or parts.scheme != "http":
        raise InputError(f"load goes to loopback only, not to {url!r}", hint="use http://127.0.0.1:PORT")
    return host, port


def _shut(wire: socket.socket) -> None:
    with contextlib.suppress(OSError):
        wire.shutdown(socket.SHUT_RDWR)
