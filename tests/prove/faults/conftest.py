"""A server with every fault that an endpoint can have, and a check that a test leaves nothing behind."""

from __future__ import annotations

import itertools
import ssl
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from monitorgen.prove.processes import poll_until

TLS = Path(__file__).parents[2] / "fixtures" / "tls"
TEXT = "text/plain; version=0.0.4; charset=utf-8"
RUN = "MONITORGEN_TEST_RUN"  # every process that a test starts inherits it


class Request:
    """One request on its way: its number (from 0), what was sent with it, and how to answer."""

    def __init__(self, handler: BaseHTTPRequestHandler, number: int, server: FaultServer) -> None:
        self.handler, self.number, self.server = handler, number, server
        self.path = handler.path
        self.headers = handler.headers

    def send(self, body: str | bytes, status: int = 200, kind: str | None = TEXT, **headers: str) -> None:
        """A whole answer; `headers` are written with - for _."""
        raw = body.encode() if isinstance(body, str) else body
        self.start(status, kind, **{"Content_Length": str(len(raw)), **headers})
        self.handler.wfile.write(raw)

    def start(self, status: int = 200, kind: str | None = TEXT, **headers: str) -> None:
        self.handler.send_response(status)
        if kind is not None:
            self.handler.send_header("Content-Type", kind)
        for name, value in headers.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.end_headers()

    def write(self, body: bytes) -> None:
        self.handler.wfile.write(body)


Fault = Callable[[Request], None]


class FaultServer:
    """Answers every GET with `fault` until the block ends; counts them, and the bytes of endless pages."""

    def __init__(self, fault: Fault, tls: str = "", *, wants_client: bool = False) -> None:
        self.fault, self.count, self.sent = fault, 0, 0
        self.seen: list[str] = []  # the Authorization headers
        self.methods: set[str] = set()
        self.ended = threading.Event()  # what is slow wakes when the test is over
        self.began = time.monotonic()
        self._numbers = itertools.count()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.scheme = "http"
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(TLS / f"{tls}.pem", TLS / f"{tls}.key")
            if wants_client:
                context.load_verify_locations(TLS / "ca.pem")
                context.verify_mode = ssl.CERT_REQUIRED
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.target}/metrics"

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def next(self) -> int:
        self.count += 1
        return next(self._numbers)

    def stop(self) -> None:
        """From now on nothing listens here."""
        if not self.ended.is_set():
            self.ended.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(5.0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients that go away in the middle are what is tested."""


def _handler(server: FaultServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            server.methods.add(self.command)
            server.seen.append(self.headers.get("Authorization", ""))
            server.fault(Request(self, server.next(), server))

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


def serving() -> Iterator[Callable[..., FaultServer]]:
    servers: list[FaultServer] = []

    def start(fault: Fault, tls: str = "", *, wants_client: bool = False) -> FaultServer:
        servers.append(FaultServer(fault, tls, wants_client=wants_client))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def serve() -> Iterator[Callable[..., FaultServer]]:
    """Starts servers that end with the test: `serve(fault, tls="server", wants_client=True)`."""
    yield from serving()


@pytest.fixture(scope="module")
def serve_all() -> Iterator[Callable[..., FaultServer]]:
    """Starts servers that end with the module."""
    yield from serving()


@pytest.fixture(scope="session")
def tls() -> Path:
    """The folder of certificates for tests."""
    return TLS


def processes_of(mark: str) -> list[str]:
    """The command lines of running processes (no zombies) that inherited a mark, by /proc."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            marked = f"{RUN}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if marked and state != "Z":
            found.append(command)
    return found


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go during a test; afterwards it must be empty, and no process may be left."""
    folder, mark = tmp_path_factory.mktemp("temporary"), uuid.uuid4().hex
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)  # it is remembered
    monkeypatch.setenv(RUN, mark)
    yield folder
    if Path("/proc/self/environ").exists():
        poll_until(lambda: not processes_of(mark), timeout=60, pause=threading.Event().wait)
        assert processes_of(mark) == []
    assert [str(path.relative_to(folder)) for path in folder.rglob("*")] == []
