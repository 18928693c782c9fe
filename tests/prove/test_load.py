"""The load generator: what it plans, what it measures against a server of our own, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from monitorgen.errors import InputError
from monitorgen.prove.client import CUT
from monitorgen.prove.load import Arrival, LoadPlan, LoadReport, Outcome, loopback_address, run_load, send

REJECTED = 77  # asks a server of our own to reject within the stream
KINDS = {"completion", "chat", "disconnect", "bad_request", "unknown_model"}


def test_a_plan_is_repeatable_and_mixed() -> None:
    plan = LoadPlan(seconds=200, rate=5, burst_every=50, burst_size=7)
    arrivals = plan.arrivals()
    assert arrivals == plan.arrivals()
    assert arrivals != LoadPlan(seconds=200, rate=5, burst_every=50, burst_size=7, seed=8).arrivals()
    assert {a.kind for a in arrivals} == KINDS
    times = [a.at for a in arrivals]
    assert times == sorted(times)
    assert 0 < times[0] <= times[-1] < 200
    assert 850 < len(times) < 1200  # 200 s x 5/s, and three bursts of 7
    assert [times.count(at) for at in (50.0, 100.0, 150.0)] == [7, 7, 7]
    lengths = {len(a.prompt) for a in arrivals}
    assert {16, 60, 180, 420, 700, 200} == lengths  # 200: short prompts behind the shared prefix
    openings = [a.prompt[:192] for a in arrivals if len(a.prompt) >= 192]
    most = max(openings.count(opening) for opening in set(openings))
    assert 0.3 < most / len(arrivals) < 0.5


def test_a_plan_is_bounded_in_number() -> None:
    assert len(LoadPlan(seconds=60, rate=1000, max_requests=50).arrivals()) == 50


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"seconds": 1e5}, {"rate": 0}, {"max_in_flight": 0}])
def test_a_load_without_bounds_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="a load lasts"):
        LoadPlan(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("http://localhost:8000/v1", ("127.0.0.1", 8000)),
        ("http://127.8.0.1:1", ("127.8.0.1", 1)),
        ("http://[::1]:8000", ("::1", 8000)),
        ("http://10.0.0.1:8000", None),
        ("http://example.org:8000", None),
        ("http://127.0.0.1.example.org:80", None),
        ("https://127.0.0.1:8000", None),
        ("http://127.0.0.1", None),
        ("http://127.0.0.1:99999", None),
        ("", None),
    ],
)
def test_load_goes_to_loopback_only(url: str, address: tuple[str, int] | None) -> None:
    if address:
        assert loopback_address(url) == address
        return
    with pytest.raises(InputError, match="loopback only"):
        loopback_address(url)


class Model(BaseHTTPRequestHandler):
    """Streams as vLLM does: `max_tokens` chunks, 400 for a wrong number, 404 for another model."""

    seen: list[dict[str, object]]
    release: threading.Event

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append({"path": self.path, **body})
        if body["model"] != "tiny" or body["max_tokens"] < 1:
            self.send_error(404 if body["model"] != "tiny" else 400)
            return
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.stream(body["max_tokens"], chat="messages" in body)

    def stream(self, tokens: int, *, chat: bool) -> None:
        """Two tokens a chunk, then why it ended, then how many there were: as vLLM writes it."""
        if chat:
            self.say(
                '{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}'
            )
        if self.path.endswith("completions") and tokens == REJECTED:
            return self.say('{"error":{"message":"too busy","code":503}}')
        for left in range(tokens, 0, -1):
            end = '"length"' if left == 1 else "null"
            self.say(f'{{"choices":[{{"index":0,"text":"","finish_reason":{end}}}]}}')
        self.release.wait(600)
        self.say(f'{{"choices":[],"usage":{{"prompt_tokens":9,"completion_tokens":{2 * tokens}}}}}')
        self.say("[DONE]")

    def say(self, text: str) -> None:
        self.wfile.write(f"data: {text}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def model() -> Iterator[tuple[str, type[Model]]]:
    handler = type("Mine", (Model,), {"seen": [], "release": threading.Event()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler
    handler.release.set()
    server.shutdown()
    server.server_close()


def test_every_kind_is_sent_as_planned_and_measured(model: tuple[str, type[Model]]) -> None:
    url, handler = model
    handler.release.set()
    told: list[float] = []
    report = run_load(url, LoadPlan(seconds=0.6, rate=150, burst_every=0, seed=3), progress=told.append)
    assert set(report.kinds) == KINDS
    assert len(report.outcomes) + report.dropped == len(told)
    by_kind = {kind: {o.status for o in report.outcomes if o.kind == kind} for kind in KINDS}
    assert by_kind["bad_request"] == {400}
    assert by_kind["unknown_model"] == {404}
    assert by_kind["completion"] == by_kind["chat"] == by_kind["disconnect"] == {200}
    assert {o.chunks for o in report.outcomes if o.kind == "disconnect"} == {3}
    assert all(o.ttft is not None and o.ttft <= o.total for o in report.outcomes if o.status == 200)
    assert 0 < report.ttft(0.5) <= report.ttft(0.99) < 60
    assert not report.errors
    complete = [o for o in report.outcomes if o.kind in ("completion", "chat")]
    assert all(o.complete and o.finish == "length" for o in complete)
    assert all(o.generated_tokens == 2 * o.chunks and o.prompt_tokens == 9 for o in complete)
    assert all(len(o.gaps) == o.chunks - 1 and len(o.tokens_at) == o.chunks for o in complete)
    assert all(sum(o.gaps) + (o.ttft or 0) <= o.total for o in complete)
    assert not any(o.complete for o in report.outcomes if o.kind == "disconnect")
    assert not [body for body in handler.seen if "seed" in body]  # it kills some CPU servers
    assert {body["path"] for body in handler.seen} == {"/v1/completions", "/v1/chat/completions"}
    assert "200" in str(report)


def test_what_exceeds_the_concurrency_is_dropped(model: tuple[str, type[Model]]) -> None:
    url, handler = model
    plan = LoadPlan(
        seconds=0.3,
        rate=100,
        burst_every=0,
        max_in_flight=2,
        invalid_share=0,
        disconnect_share=0,
        max_tokens=(1,),
    )
    arrivals, told = len(plan.arrivals()), []

    def release_with_the_last(seconds: float) -> None:
        told.append(seconds)
        if len(told) == arrivals:  # by then both seats are taken, and answered too late for anybody else
            threading.Timer(0.2, handler.release.set).start()

    report = run_load(url, plan, progress=release_with_the_last)
    assert report.dropped == arrivals - 2
    assert len(report.outcomes) == 2


def test_a_load_can_be_stopped(model: tuple[str, type[Model]]) -> None:
    url, _ = model
    stop = threading.Event()
    stop.set()
    report = run_load(url, LoadPlan(seconds=3000, rate=1), stop=stop)
    assert report.outcomes == ()
    assert report.seconds < 60  # of 3000
    assert math.isnan(report.ttft(0.5))


def test_what_is_unanswered_after_the_drain_is_cut_off(model: tuple[str, type[Model]]) -> None:
    url, _ = model
    plan = LoadPlan(seconds=0.3, rate=30, burst_every=0, invalid_share=0, disconnect_share=0, drain=0.1)
    report = run_load(url, plan)  # nobody lets the server finish
    assert report.seconds < plan.request_timeout / 2
    assert report.outcomes
    assert {(o.error, o.complete, o.status) for o in report.outcomes} == {(CUT, False, 200)}


def test_clients_that_wait_to_be_let_in_are_cut_off_as_well() -> None:
    """A server that hangs accepts nobody: beyond its backlog, clients wait for the connection itself."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
        plan = LoadPlan(seconds=0.5, rate=60, burst_every=0, max_in_flight=20, drain=0.1)
        report = run_load(f"http://127.0.0.1:{deaf.getsockname()[1]}", plan)
    assert report.seconds < plan.request_timeout / 2
    assert len(report.outcomes) == 20
    assert {(o.status, o.error) for o in report.outcomes} == {(0, CUT)}


def test_a_load_that_fails_does_not_wait_for_its_answers(model: tuple[str, type[Model]]) -> None:
    url, _ = model

    def fail(seconds: float) -> None:
        if seconds > 0.2:
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_load(url, LoadPlan(seconds=60, rate=30, invalid_share=0), progress=fail)
    assert time.monotonic() - start < 30  # of 60


def test_an_error_within_the_stream_is_no_token(model: tuple[str, type[Model]]) -> None:
    url, handler = model
    handler.release.set()
    outcome = send(loopback_address(url), Arrival(0.0, "chat", "x", REJECTED), "tiny", 5.0)
    assert (outcome.status, outcome.ttft, outcome.chunks, outcome.error) == (200, None, 0, "too busy")
    assert not outcome.complete


def test_a_request_says_how_random_and_how_long_it_is() -> None:
    plan = LoadPlan(seconds=50, rate=5, temperature=0.9, chat_temperature=0.1, ignore_eos=True)
    bodies = [arrival.message("m")[1] for arrival in plan.arrivals()]
    assert {("messages" in body, body["temperature"]) for body in bodies} == {(True, 0.1), (False, 0.9)}
    assert all(body["ignore_eos"] for body in bodies)
    assert all(body["stream_options"] == {"include_usage": True} for body in bodies)


def test_a_server_that_is_gone_is_an_outcome_not_an_exception() -> None:
    outcome = send(("127.0.0.1", 1), Arrival(0.0, "completion", "x", 4), "tiny", 2.0)
    assert (outcome.status, outcome.ttft, outcome.chunks) == (0, None, 0)
    assert "refused" in outcome.error


def test_quantiles_are_of_what_was_read_to_the_end() -> None:
    outcomes = [Outcome("completion", 200, t / 10, float(t), 1) for t in range(1, 12)]
    outcomes += [Outcome("disconnect", 200, 0.1, 99.0, 3), Outcome("bad_request", 400, None, 99.0, 0)]
    report = LoadReport(tuple(outcomes), 0, 1.0)
    assert report.e2e(0.5) == 6.0
    assert report.e2e(0.9) == pytest.approx(10.0)
    assert report.statuses == {200: 12, 400: 1}
