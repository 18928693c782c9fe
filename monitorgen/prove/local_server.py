"""HTTP servers of our own: they listen on the loopback interface only, and end with their block."""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from monitorgen.prove.processes import LOOPBACK

METRICS_PAGE = "text/plain; version=0.0.4; charset=utf-8"  # the content type of the text exposition format


class LocalServer:
    """Answers by `handler` inside the `with` block, each request in a thread; 0 takes a free port.

    Raises OSError where the port cannot be listened on.
    """

    def __init__(self, handler: type[BaseHTTPRequestHandler], *, name: str, port: int = 0) -> None:
        self._server = _Quiet((LOOPBACK, port), handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True, name=name
        )

    @property
    def target(self) -> str:
        """The `host:port` that it listens on."""
        return f"{LOOPBACK}:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)


class SilentHandler(BaseHTTPRequestHandler):
    """A handler that logs no request: scrapes come many times a second."""

    def send_text(self, text: str, kind: str = METRICS_PAGE, status: int = 200) -> None:
        """Send a whole answer."""
        body = text.encode(errors="replace")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Quiet(ThreadingHTTPServer):
    """A server that says nothing of clients that hang up: at the end of a proof all scrapers do."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Report what went wrong, unless the other side was merely gone."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]
