"""Scenarios: what they plan and claim, and what they do to a server of our own that is made like vLLM.

That server is two processes, as vLLM is: one answers HTTP, the other, the engine core, takes steps.
"""

from __future__ import annotations

import http.client
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from pace import Pace

from monitorgen.build import build
from monitorgen.errors import InputError
from monitorgen.profile import load_profile
from monitorgen.prove import traffic
from monitorgen.prove.disturb import Aborts, Disturbance, Hang, SlowMotion, Stall, sample_sum
from monitorgen.prove.load import LoadPlan
from monitorgen.prove.processes import ProcessError, child, free_port, poll_until
from monitorgen.prove.traffic import BEYOND, PROVOKING, SCENARIOS, SERVER, Scenario, run_scenarios
from monitorgen.prove.vllm_server import VllmServer

BLOCK = 128  # tokens of a KV cache block, bytes of these prompts
STEPS = ("vllm:iteration_tokens_total_count",)
LIKE_VLLM = """
import json, multiprocessing, pathlib, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

def engine(steps):
    pathlib.Path("/proc/self/comm").write_text("VLLM::EngineCore")
    while True:
        time.sleep(0.005)
        steps.value += 1

class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        page = "vllm:iteration_tokens_total_count{model_name=\\"tiny\\"} %d\\n" % steps.value
        page += "vllm:num_requests_running 3.0\\nvllm:num_requests_waiting{engine=\\"0\\"} 4.0\\n"
        page += "vllm:num_requests_waiting_by_reason 99\\n"
        page += "calls %d\\n" % len(calls)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(page.encode())

    def do_POST(self):
        if not self.path.startswith("/v1/"):
            calls.append(self.path)
            self.send_response(200 if "--dev" in sys.argv else 404)
            self.end_headers()
            return
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(body["max_tokens"]):
                before = steps.value
                while steps.value == before:
                    time.sleep(0.002)
                self.wfile.write(b'data: {"choices":[{"text":"a"}]}\\n\\n')
                self.wfile.flush()
            self.wfile.write(b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\\n\\n')
        except OSError:
            return

    def log_message(self, *_):
        return

if __name__ == "__main__":
    calls = []
    context = multiprocessing.get_context("fork")
    steps = context.Value("q", 0)
    context.Process(target=engine, args=(steps,), daemon=True).start()
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer)
    server.daemon_threads = True
    server.serve_forever()
"""
needs_proc = pytest.mark.skipif(not Path("/proc/self/comm").exists(), reason="finds processes in /proc")
QUICK = LoadPlan(
    seconds=1.2, rate=50, burst_every=0, disconnect_share=0, invalid_share=0, max_tokens=(3,), drain=2
)


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[VllmServer]:
    """A server that is made like vLLM; `--dev` gives it the operator's endpoints."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    argv = [sys.executable, "-c", LIKE_VLLM, str(port), *getattr(request, "param", ["--dev"])]
    with child(argv, name="like vLLM", log=tmp_path / "log") as process:

        def steps() -> bool:
            try:
                return sample_sum(url, STEPS) > 0
            except ProcessError:
                return False

        process.wait_until(steps, timeout=60, what="taking steps")
        yield VllmServer(url, f"127.0.0.1:{port}", "tiny", "0", 0.0, process)


def scenario(name: str, disturbance: Disturbance | None = None, **changes: object) -> Scenario:
    return Scenario(name, "", replace(QUICK, **changes), disturbance)  # type: ignore[arg-type]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> dict[str, Scenario]:
    """The scenarios by name, for the test's own."""
    mine: dict[str, Scenario] = {}
    monkeypatch.setattr(traffic, "SCENARIOS", mine)
    return mine


def moves_on(server: VllmServer) -> bool:
    before = sample_sum(server.url, STEPS)
    return poll_until(
        lambda: sample_sum(server.url, STEPS) > before, timeout=60, pause=threading.Event().wait
    )


def test_what_is_provoked_is_an_alert_of_the_profile_and_nothing_is_forgotten() -> None:
    alerts = {rule.alert for rule in build(load_profile("optimized")).bundle.alerts}
    provoked = {alert for one in SCENARIOS.values() for alert in one.provokes}
    assert provoked | BEYOND.keys() == alerts
    assert not provoked & BEYOND.keys()
    assert len(provoked) >= 17
    assert not SCENARIOS["steady"].provokes
    fewest = [SCENARIOS[name] for entry in PROVOKING for name in entry.split("+")]
    assert {alert for one in fewest for alert in one.provokes} == provoked


def test_the_provoking_scenarios_fit_into_their_time() -> None:
    acts = [[SCENARIOS[name].plan for name in entry.split("+")] for entry in PROVOKING]
    assert sum(max(plan.seconds + plan.drain for plan in act) for act in acts) < 150
    assert all(one.plan.seconds <= 70 for one in SCENARIOS.values())


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_is_repeatable_and_fits_the_server(name: str) -> None:
    plan = SCENARIOS[name].plan
    arrivals = plan.arrivals()
    assert arrivals == plan.arrivals()
    assert arrivals
    longest = max(len(arrival.prompt) + arrival.max_tokens for arrival in arrivals)
    assert longest + SERVER.ngram < SERVER.max_model_len
    body = arrivals[0].message("tiny")[1]
    assert "seed" not in body  # it kills vLLM 0.32 on the CPU


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("cold_prefixes", 0.0, 0.04),
        ("overload", 0.0, 0.04),
        ("steady", 0.1, 0.9),
        ("shared_prefixes", 0.5, 1.0),
    ],
)
def test_prompts_share_as_many_blocks_as_meant(name: str, least: float, most: float) -> None:
    """The share of prompt tokens in whole blocks that some earlier prompt began with, too."""
    seen: set[str] = set()
    hits = total = 0
    for arrival in SCENARIOS[name].plan.arrivals():
        total += len(arrival.prompt)
        for end in range(BLOCK, len(arrival.prompt), BLOCK):
            hits += BLOCK * (arrival.prompt[:end] in seen)
            seen.add(arrival.prompt[:end])
    assert least <= hits / total <= most


def test_an_unknown_scenario_is_refused_before_anything_runs(known: dict[str, Scenario]) -> None:
    nowhere = VllmServer("http://127.0.0.1:1", "127.0.0.1:1", "tiny", "0", 0.0, None)  # type: ignore[arg-type]
    known["calm"] = scenario("calm")
    with pytest.raises(InputError, match=r"no scenario 'clam' .*calm"):
        run_scenarios(nowhere, ["calm", "calm+clam"])


@needs_proc
def test_scenarios_run_in_turn_and_together(server: VllmServer, known: dict[str, Scenario]) -> None:
    known |= {name: scenario(name, seconds=0.3, max_requests=4) for name in ("one", "two", "three")}
    told: set[str] = set()
    reports = run_scenarios(server, ["one+two", "three"], progress=lambda name, _: told.add(name))
    assert list(reports) == ["one", "two", "three"]
    assert told == {"one", "two", "three"}
    assert all(o.complete for report in reports.values() for o in report.outcomes)
    assert all(len(report.outcomes) == 4 for report in reports.values())


@needs_proc
def test_slow_motion_keeps_its_pace_and_then_lets_go(server: VllmServer, known: dict[str, Scenario]) -> None:
    known["slow"] = scenario("slow", SlowMotion(seconds=1.2, step=0.2), max_tokens=(50,), drain=0.1)
    before, began = sample_sum(server.url, STEPS), time.monotonic()
    run_scenarios(server, ["slow"])
    # 1.2 s are 6 steps of 0.2 s, and some more before the first and after the last; at full speed, 200/s
    assert 3 <= sample_sum(server.url, STEPS) - before < 80 * (time.monotonic() - began)
    assert moves_on(server)


@needs_proc
def test_a_stalled_engine_takes_no_step_but_its_metrics_answer(server: VllmServer) -> None:
    over = threading.Event()
    stall = threading.Thread(target=Stall(seconds=300, active=7).run, args=(server, over))
    stall.start()

    def still() -> bool:
        before = sample_sum(server.url, STEPS)
        over.wait(0.05)  # ten steps' time
        return sample_sum(server.url, STEPS) == before

    assert poll_until(still, timeout=60, pause=over.wait)
    over.set()
    stall.join(60)
    assert not stall.is_alive()
    assert moves_on(server)


@needs_proc
def test_a_load_that_never_gets_so_big_is_an_error_not_a_wait(server: VllmServer) -> None:
    with pytest.raises(ProcessError, match="never 8 requests"):
        Stall(seconds=0.2, active=8).run(server, threading.Event())


@needs_proc
def test_the_operator_aborts_and_resumes(server: VllmServer, known: dict[str, Scenario]) -> None:
    known["aborts"] = scenario("aborts", Aborts(seconds=0.9, every=0.2))
    run_scenarios(server, ["aborts"])
    calls = sample_sum(server.url, ("calls",))
    assert calls >= 4
    assert calls % 2 == 0  # never paused without being resumed


@needs_proc
@pytest.mark.parametrize("server", [[]], indirect=True)
def test_what_cannot_be_done_ends_the_load_and_is_said(
    server: VllmServer, known: dict[str, Scenario]
) -> None:
    known["aborts"] = scenario("aborts", Aborts(seconds=600, every=0.1), seconds=600)
    known["beside"] = scenario("beside", seconds=600)
    start = time.monotonic()
    with pytest.raises(ProcessError, match=r"HTTP 404 .*VLLM_SERVER_DEV_MODE"):
        run_scenarios(server, ["aborts+beside"])
    assert time.monotonic() - start < 120  # of ten minutes


@needs_proc
def test_a_server_that_hangs_answers_later(server: VllmServer) -> None:
    over = threading.Event()
    hang = threading.Thread(target=Hang(seconds=300).run, args=(server, over))
    hang.start()

    def silent() -> bool:
        connection = http.client.HTTPConnection(*server.target.split(":"), timeout=0.2)
        try:
            connection.request("GET", "/metrics")
            connection.getresponse()
        except TimeoutError:
            return True
        finally:
            connection.close()
        return False

    assert poll_until(silent, timeout=60, pause=over.wait)
    over.set()
    hang.join(60)
    assert moves_on(server)


@needs_proc
@pytest.mark.parametrize("disturbance", [None, Stall(60), SlowMotion(60, 5.0), Aborts(60, 50.0), Hang(60)])
def test_stop_ends_everything_within_a_second(
    server: VllmServer, known: dict[str, Scenario], disturbance: Disturbance | None
) -> None:
    known["long"] = scenario("long", disturbance, seconds=60, max_tokens=(900,))
    stop = threading.Event()
    stopped: list[float] = []

    def halt(_: str, seconds: float) -> None:
        if seconds > 0.4 and not stopped:
            stopped.append(pace.seconds)
            stop.set()

    with Pace() as pace:
        reports = run_scenarios(server, ["long", "long"], stop=stop, progress=halt)
    assert pace.seconds - stopped[0] < 1.5  # and a half for a busy machine
    assert reports["long"].outcomes
    assert not any(outcome.complete for outcome in reports["long"].outcomes)
    assert moves_on(server)


@needs_proc
def test_a_server_that_died_is_told(server: VllmServer, known: dict[str, Scenario]) -> None:
    known |= {"one": scenario("one", seconds=0.2), "two": scenario("two", seconds=60)}
    server.child.stop()
    with pytest.raises(ProcessError, match="like vLLM was ended by SIGTERM"):
        run_scenarios(server, ["one", "two"])


def test_in_slow_motion_some_answer_ends_in_every_window() -> None:
    """The first dozen have the seats; their lengths leave no five seconds, a window, without an end."""
    one = SCENARIOS["slow_motion"]
    assert isinstance(one.disturbance, SlowMotion)
    lengths = sorted(arrival.max_tokens for arrival in one.plan.arrivals()[: SERVER.max_num_seqs])
    gaps = [after - before for before, after in pairwise(lengths)]
    assert max(gaps) * one.disturbance.step < 5.0
    assert (
        lengths[-1] - lengths[0]
    ) * one.disturbance.step > 10.0  # the longest hold, 10 minutes in quick motion
