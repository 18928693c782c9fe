"""Capturing from files and from real servers on the loopback."""

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as as_openmetrics

from monitorgen.catalog.capture import capture
from monitorgen.catalog.store import dumps
from monitorgen.catalog.transport import fetch, looks_like_protobuf
from monitorgen.errors import InputError

SCRAPES = Path(__file__).parents[1] / "fixtures" / "scrapes"
PAGE = b'# HELP up_total Ups.\n# TYPE up_total counter\nup_total{kind="x"} 1\n'
OPEN = b'# TYPE up counter\nup_total{kind="x"} 1\nup_created{kind="x"} 1\n# EOF\n'
# MetricFamily: name "up_total", type COUNTER, one metric with a counter of 1.0; then its length in front.
MESSAGE = b"\x0a\x08up_total\x18\x00\x22\x0d\x1a\x0b\x09\x00\x00\x00\x00\x00\x00\xf0\x3f\x00\x00"
PROTOBUF = bytes([len(MESSAGE)]) + MESSAGE

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def server(answer: Answer) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}"
        finally:
            running.shutdown()
            thread.join()


def says(body: bytes, *, status: int = 200, **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


def record(*sources: str, **options: object) -> object:
    return capture([*sources], engine="test", version="1.0", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "answer",
    [
        says(PAGE, Content_Type="text/plain; version=0.0.4; charset=utf-8"),
        says(PAGE, Content_Type="text/plain; version=1.0.0; escaping=underscores"),
        says(OPEN, Content_Type="application/openmetrics-text; version=1.0.0; charset=utf-8"),
        says(gzip.compress(PAGE), Content_Type="text/plain", Content_Encoding="gzip"),
        says(gzip.compress(OPEN), Content_Type="application/openmetrics-text", Content_Encoding="gzip"),
        says(gzip.compress(PAGE)),
        says(PAGE),
    ],
    ids=[
        "text-0.0.4",
        "text-1.0.0",
        "openmetrics",
        "gzip",
        "openmetrics-gzip",
        "gzip-unsaid",
        "nothing-said",
    ],
)
def test_a_server_is_recorded(answer: Answer) -> None:
    with server(answer) as url:
        found = record(f"{url}/metrics")
    (family,) = found.families.values()
    assert (family.name, family.type, family.labels) == ("up_total", "counter", ("kind",))
    assert dict(family.values) == {"kind": ("x",)}


def test_a_real_exporter_reads_the_same_in_both_formats(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    Counter("jobs", "Jobs.", ["kind"], registry=registry).labels("x").inc()
    (tmp_path / "a").write_bytes(generate_latest(registry))
    (tmp_path / "b").write_bytes(as_openmetrics(registry))
    one, other = (record(str(tmp_path / name)).families["jobs_total"] for name in "ab")
    assert one == other
    assert one.created


def test_what_is_asked_for() -> None:
    seen: dict[str, str] = {}

    def answer(request: BaseHTTPRequestHandler) -> None:
        seen.update(request.headers.items(), path=request.path)
        says(PAGE)(request)

    with server(answer) as url:
        fetch(url)
    assert seen["path"] == "/metrics"
    assert "text/plain;version=0.0.4" in seen["Accept"]
    assert "application/openmetrics-text" in seen["Accept"]
    assert "protobuf" not in seen["Accept"]
    assert seen["Accept-Encoding"] == "gzip"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (says(PROTOBUF, Content_Type="application/vnd.google.protobuf; proto=io.prometheus"), "protobuf"),
        (says(PROTOBUF, Content_Type="text/plain"), "protobuf, not text"),
        (says(gzip.compress(PROTOBUF)), "protobuf, not text"),
        (says(b"<html>", Content_Type="text/html"), "a web page"),
        (says(PAGE, Content_Encoding="br"), "encoded as br"),
        (says(PAGE, Content_Encoding="gzip"), "says that it is gzip, and is not"),
        (says(gzip.compress(PAGE)[:-9]), "broken gzip"),
        (says(gzip.compress(PAGE) + b"x" * 20), "broken gzip"),
        (says(b"a\nb", status=404), "answers 404"),
        (says(b"", status=500), "answers 500"),
        (says(b""), "no metrics in there"),
        (says(b"a 1\n" * 300_000), "larger than 1000000 bytes"),
        (says(gzip.compress(b"a 1\n" * 300_000)), "larger than 1000000 bytes"),
        (says(OPEN.removesuffix(b"# EOF\n"), Content_Type="application/openmetrics-text"), "cut short"),
        (says(b"a \xff\n"), "not UTF-8"),
        (says(b"a 1\nb x\n"), "/metrics:2:1"),
        (says(b"", status=302, Location="/metrics"), "answers 302"),
        (says(b"", status=302, Location="file:///etc/hostname"), "answers 302"),
        (says(b"", status=302, Location="http://[bad/"), "HTTP"),
    ],
)
def test_what_cannot_be_read_is_one_error(answer: Answer, message: str) -> None:
    with server(answer) as url, pytest.raises(InputError) as caught:
        record(f"{url}/metrics", limit=1_000_000, timeout=60.0)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_protobuf_is_refused_with_what_to_ask_for(tmp_path: Path) -> None:
    (tmp_path / "page").write_bytes(PROTOBUF)
    with pytest.raises(InputError, match=r"Accept: text/plain;version=0\.0\.4"):
        record(str(tmp_path / "page"))


@pytest.mark.parametrize("text", [PAGE, OPEN, b"", b"\n\n\n# TYPE a gauge\na 1\n", b"a 1\nb 2\n"])
def test_text_is_not_taken_for_protobuf(text: bytes) -> None:
    assert not looks_like_protobuf(text)


def test_a_redirect_is_followed_a_circle_is_not() -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        if request.path == "/old":
            says(b"", status=301, Location="/metrics")(request)
        elif request.path == "/metrics":
            says(PAGE)(request)
        else:
            number = int(request.path.removeprefix("/round/"))
            says(b"", status=302, Location=f"/round/{number + 1}")(request)

    with server(answer) as url:
        assert "up_total" in record(f"{url}/old").families
        with pytest.raises(InputError, match="answers 302"):
            record(f"{url}/round/0")


@pytest.mark.parametrize("drip", [False, True], ids=["silent", "dripping"])
def test_a_slow_server_is_given_up(drip: bool) -> None:
    done = threading.Event()

    def answer(request: BaseHTTPRequestHandler) -> None:
        if not drip:
            done.wait(60)
            return
        request.send_response(200)
        request.end_headers()
        while not done.wait(0.02):
            request.wfile.write(b"# tick\n")

    with server(answer) as url:
        try:
            with pytest.raises(InputError, match=r"did not answer within 0\.2 s"):
                record(f"{url}/metrics", timeout=0.2)
        finally:
            done.set()


def test_a_server_that_is_not_there_and_one_that_speaks_no_http() -> None:
    with server(says(PAGE)) as url:
        pass
    with pytest.raises(InputError, match="cannot reach"):
        record(url)

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"\x00\x01\x02 hello\r\n\r\n")

    with server(answer) as url, pytest.raises(InputError, match="does not answer in HTTP"):
        record(url)


@pytest.mark.parametrize(
    "source",
    [
        "ftp://x/metrics",
        "file:///etc/hostname",
        "http://",
        "http://x:y/",
        "http://[::1/",
        "nowhere",
        "a\0b",
        ".",
    ],
)
def test_sources_that_are_none(source: str) -> None:
    with pytest.raises(InputError):
        record(source)


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_several_pages_are_merged(tmp_path: Path) -> None:
    before = write(tmp_path, "t0", "# TYPE a_total counter\n# TYPE b gauge\nb 1\n")
    after = write(
        tmp_path,
        "t1",
        '# HELP a_total Help.\n# TYPE a_total counter\na_total{kind="y",model_name="m"} 1\n'
        '# TYPE a_created gauge\na_created{kind="y",model_name="m"} 1\n'
        '# TYPE h histogram\nh_bucket{le="0.5"} 1\nh_bucket{le="1e-05"} 0\nh_bucket{le="+Inf"} 1\n'
        "h_sum 1\nh_count 1\n",
    )
    last = write(tmp_path, "t2", '# TYPE a_total counter\na_total{kind="x",model_name="n"} 1\n')
    found = record(before, after, last, needs={"h*": "--hist"})
    counter = found.families["a_total"]
    assert counter.labels == ("kind", "model_name")
    assert dict(counter.values) == {"kind": ("x", "y")}
    assert (counter.help, counter.created, counter.needs) == ("Help.", True, "")
    assert found.families["h"].buckets == (0.00001, 0.5)
    assert found.families["h"].needs == "--hist"
    assert found.families["b"].needs == "seen in 1 of 3 scrapes"
    assert '"recorded": true' in dumps(found)


def test_labels_with_many_values_and_info_metrics_keep_no_values(tmp_path: Path) -> None:
    lines = "".join(f'a{{user="{number}",kind="x"}} 1\n' for number in range(30))
    found = record(write(tmp_path, "p", f'{lines}b_info{{v="1"}} 1\n'))
    assert dict(found.families["a"].values) == {"kind": ("x",)}
    assert dict(found.families["b_info"].values) == {}
    assert found.families["b_info"].labels == ("v",)


def test_a_family_with_two_types_is_refused(tmp_path: Path) -> None:
    pages = [write(tmp_path, kind, f"# TYPE a {kind}\na 1\n") for kind in ("gauge", "counter")]
    with pytest.raises(InputError, match="a has several types: counter, gauge"):
        record(*pages)


def test_needs_for_a_family_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="which no page exposes"):
        record(write(tmp_path, "p", "a 1\n"), needs={"b": "--flag"})


def test_several_api_servers_expose_no_created() -> None:
    """The pages of one server have `_created`; without those lines nothing claims it."""
    text = gzip.decompress((SCRAPES / "vllm-0.32.0.t2.prom.gz").read_bytes()).decode()
    kept = "\n".join(line for line in text.split("\n") if "_created" not in line)

    def answer(request: BaseHTTPRequestHandler) -> None:
        says(kept.encode(), Content_Type="text/plain; version=0.0.4")(request)

    with server(answer) as url:
        found = record(url)
    assert not any(family.created for family in found.families.values())
    assert found.families["vllm:iteration_tokens_total"].type == "histogram"
