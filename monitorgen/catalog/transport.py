"""Getting a `/metrics` page: from a URL as a scrape would, or from a file, down to text or one error."""

from __future__ import annotations

import http.client
import io
import re
import time
import zlib
from dataclasses import dataclass
from email.message import Message
from gzip import GzipFile
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from monitorgen.catalog.exposition import Exposed, parse
from monitorgen.errors import InputError

LIMIT = 64 * 2**20  # bytes of text; the largest page that we recorded has 85 kB
ACCEPT = (
    "text/plain;version=0.0.4,text/plain;version=1.0.0;escaping=underscores;q=0.9,"
    "application/openmetrics-text;version=1.0.0;q=0.8,*/*;q=0.1"
)
if TYPE_CHECKING:
    from urllib.request import HTTPRedirectHandler

_ASK = "ask for text: send 'Accept: text/plain;version=0.0.4', or record it with curl"
_MAX_REDIRECTS = 5
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Page:
    """The body of a page and what the server said about it."""

    source: str
    body: bytes
    content_type: str = ""
    encoding: str = ""


def read(source: str, *, timeout: float = 10.0, limit: int = LIMIT) -> tuple[Exposed, ...]:
    """The families that a URL or a file exposes. `timeout` (seconds) holds for the whole answer."""
    page = fetch(source, timeout, limit) if is_url(source) else open_file(source, limit)
    return parse_page(page, limit)


def parse_page(page: Page, limit: int = LIMIT) -> tuple[Exposed, ...]:
    """The families of a page: gzip is undone, protobuf refused, the format chosen by the content type."""
    kind = page.content_type.partition(";")[0].strip().lower()
    if "protobuf" in kind or kind == "application/octet-stream":
        raise InputError(f"{page.source} answers in protobuf ({kind})", hint=_ASK)
    if kind == "text/html":
        raise InputError(f"{page.source} answers with a web page", hint="the path is usually /metrics")
    text = decode(page, limit)
    openmetrics = {"application/openmetrics-text": True, "text/plain": False}.get(kind)
    return parse(text, openmetrics=openmetrics, source=page.source)


def decode(page: Page, limit: int = LIMIT) -> str:
    """The text of a page, at most `limit` bytes of it, or InputError."""
    body, encoding = page.body, page.encoding.strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip"):
        raise InputError(f"{page.source} is encoded as {encoding}", hint="only gzip and plain text are read")
    if body.startswith(b"\x1f\x8b"):
        body = _gunzip(page.source, body, limit)
    elif encoding in ("gzip", "x-gzip") and body:
        raise InputError(f"{page.source} says that it is gzip, and is not")
    if len(body) > limit:
        raise InputError(f"{page.source} is larger than {_size(limit)}")
    if looks_like_protobuf(body):
        raise InputError(f"{page.source} is protobuf, not text", hint=_ASK)
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise InputError(f"{page.source} is not UTF-8 text (line {line})", hint=_ASK) from error


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count and count % 2**20 == 0 else f"{count} bytes"


def _gunzip(source: str, body: bytes, limit: int) -> bytes:
    try:
        with GzipFile(fileobj=io.BytesIO(body)) as unpacked:
            return unpacked.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{source} is broken gzip: {error}") from error


_FIELDS = b"\x12\x18\x22\x2a"  # MetricFamily: help, type, metric, unit
_PROTO_NAME = re.compile(rb"[a-zA-Z_:][a-zA-Z0-9_:]*")


def looks_like_protobuf(body: bytes) -> bool:
    """Whether the body starts like a length-delimited MetricFamily: its length, its name, its next field."""
    for at in range(1, 5):
        if body[at : at + 1] != b"\x0a" or len(body) < at + 3:
            continue
        name = body[at + 2 : at + 2 + body[at + 1]]
        following = body[at + 2 + len(name) : at + 3 + len(name)]
        if _PROTO_NAME.fullmatch(name) and following and following in _FIELDS:
            return True
    return False


def open_file(source: str, limit: int = LIMIT) -> Page:
    """The page in a file."""
    try:
        with Path(source).open("rb") as file:
            return Page(source, file.read(limit + 1))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"cannot read {source}: {reason}", hint="give a file or an http:// address"
        ) from error


def is_url(source: str) -> bool:
    """Whether a source is an address rather than a file."""
    return "://" in source


def fetch(source: str, timeout: float = 10.0, limit: int = LIMIT) -> Page:
    """GET a page as Prometheus would: no proxies, few redirects, one time limit, one size limit."""
    from urllib.error import HTTPError, URLError
    from urllib.request import ProxyHandler, Request, build_opener

    address = _address(source)
    deadline = time.monotonic() + timeout
    opener = build_opener(ProxyHandler({}), _redirects())
    headers = {"Accept": ACCEPT, "Accept-Encoding": "gzip", "User-Agent": "monitorgen"}
    try:
        request = Request(address, headers=headers)
        with opener.open(request, timeout=timeout) as answer:
            body = read_body(answer, deadline, limit, source)
            said: Message = answer.headers
    except HTTPError as error:
        raise _refused(source, error.code) from error
    except URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise _late(source, timeout) from error
        raise InputError(f"cannot reach {source}: {error.reason}", hint="is the server up?") from error
    except TimeoutError as error:
        raise _late(source, timeout) from error
    except (http.client.HTTPException, OSError, ValueError) as error:
        raise InputError(f"{source} does not answer in HTTP: {error or type(error).__name__}") from error
    return Page(source, body, said.get("Content-Type", ""), said.get("Content-Encoding", ""))


def _address(source: str) -> str:
    try:
        parts = urlsplit(source)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"{source!r} is not an address: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(f"{source!r} is not an http:// or https:// address")
    return source if parts.path.strip("/") else parts._replace(path="/metrics").geturl()


def read_body(answer: IO[bytes], deadline: float, limit: int, source: str) -> bytes:
    """The body of an answer. `TimeoutError` past the deadline (monotonic seconds), InputError past the limit.

    A server that drips never trips the socket's own timeout, so time is watched here too.
    """
    chunks: list[bytes] = []
    size = 0
    read = getattr(answer, "read1", answer.read)
    while chunk := read(_CHUNK):
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            raise InputError(f"{source} is larger than {_size(limit)}")
        if time.monotonic() > deadline:
            raise TimeoutError
    return b"".join(chunks)


def _refused(source: str, code: int) -> InputError:
    if 300 <= code < 400:
        return InputError(f"{source} answers {code}", hint="it redirects in circles, or away from http")
    phrase = http.client.responses.get(code, "")
    return InputError(f"{source} answers {code} {phrase}".rstrip(), hint="the path is usually /metrics")


def _late(source: str, timeout: float) -> InputError:
    return InputError(f"{source} did not answer within {timeout:g} s", hint="raise --timeout")


def _redirects() -> HTTPRedirectHandler:
    from urllib.request import HTTPRedirectHandler

    class Redirects(HTTPRedirectHandler):
        max_redirections = _MAX_REDIRECTS
        max_repeats = 2

    return Redirects()
