"""The Prometheus client and the server for proofs, on every Prometheus of this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from monitorgen.errors import InputError, MonitorgenError, ToolMissing
from monitorgen.prove.prometheus import (
    Prometheus,
    PrometheusClient,
    PrometheusError,
    Series,
    find_prometheus,
    timestamp,
)

CONFIG = """
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [rules/*.yaml]
scrape_configs:
  - {job_name: gone, static_configs: [{targets: ["127.0.0.1:1"]}]}
"""
RULES = """
groups:
  - name: g
    rules:
      - {record: "level:two:sum", expr: vector(1) + 1, labels: {kind: x}}
      - alert: Gone
        expr: label_replace(vector(0), "job", "gone", "", "")
        labels: {severity: warning}
        annotations: {summary: "{{ $labels.job }} is gone"}
      - {alert: Calm, expr: vector(0) == 7}
"""


def test_a_real_server_answers_typed(prometheus: Path, tmp_path: Path) -> None:
    with Prometheus(CONFIG, workdir=tmp_path, files={"rules/a.yaml": RULES}, binary=prometheus) as server:
        server.child.wait_until(lambda: bool(server.query("level:two:sum")), timeout=60, what="a recording")
        server.child.wait_until(lambda: bool(server.alerts()), timeout=60, what="an alert")
        (sample,) = server.query("level:two:sum")
        assert sample.value == 2.0
        assert sample.labels["kind"] == "x"
        (series,) = server.query_range("vector(3)", sample.time - 4, sample.time, 2)
        assert [value for _, value in series.points] == [3.0, 3.0, 3.0]
        assert server.query("1 / 0")[0].value == float("inf")
        states = {rule.name: rule for rule in server.rules()}
        assert states["level:two:sum"].kind == "recording"
        assert states["Gone"].state == "firing"
        assert states["Calm"].state == "inactive"
        assert all(rule.health == "ok" and rule.last > 1.6e9 for rule in states.values())
        (alert,) = server.alerts()
        assert (alert.annotations["summary"], alert.value) == ("gone is gone", 0.0)
        assert "level:two:sum" in server.names()
        assert server.version().split(".")[0] in ("2", "3")
        with pytest.raises(PrometheusError, match="parse error"):
            server.query("sum(")
        with pytest.raises(PrometheusError, match="is a range"):
            server.query("up[1m]")
        process = server.child.process
    assert process.poll() is not None
    with pytest.raises(PrometheusError, match="nothing listens there"):
        server.query("up")


def test_targets_tell_why_they_are_down(one_prometheus: Path, tmp_path: Path) -> None:
    """Slow by nature: a Prometheus looks at its targets after five seconds."""
    with Prometheus(CONFIG, workdir=tmp_path, files={"rules/a.yaml": RULES}, binary=one_prometheus) as server:

        def scraped() -> bool:
            return any(target.health == "down" for target in server.targets())

        server.child.wait_until(scraped, timeout=60, what="a scrape")
        (target,) = server.targets()
        assert (target.job, target.instance) == ("gone", "127.0.0.1:1")
        assert "refused" in target.error


@pytest.mark.parametrize(
    ("config", "rules", "wanted"),
    [
        ("nonsense: 1", RULES, "nonsense not found"),
        (CONFIG, "groups: [{name: g, rules: [{record: a}]}]", "field .expr. must be set"),
    ],
    ids=["config", "rules"],
)
def test_a_refused_file_is_told_in_the_servers_words(
    config: str, rules: str, wanted: str, one_prometheus: Path, tmp_path: Path
) -> None:
    server = Prometheus(config, workdir=tmp_path, files={"rules/a.yaml": rules}, binary=one_prometheus)
    with pytest.raises(MonitorgenError, match=wanted), server:
        pytest.fail("it must not start")
    with pytest.raises(PrometheusError, match="not running"):
        _ = server.child.alive


@pytest.fixture
def answering() -> Iterator[tuple[str, dict[str, tuple[int, str]]]]:
    """A server that gives one prepared answer: its URL, and the answer to set."""
    answer: dict[str, tuple[int, str]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer["next"]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", answer
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "wanted"),
    [
        (200, "<html>", "answers with a web page, not with Prometheus' API"),
        (200, "[]", "does not answer like a Prometheus"),
        (200, '{"status": "error", "error": "too much"}', "too much"),
        (422, '{"status": "error", "error": "bad query"}', "Prometheus refuses: bad query"),
        (502, "<html>", "answers 502 Bad Gateway"),
    ],
)
def test_every_strange_answer_is_one_error(
    status: int, body: str, wanted: str, answering: tuple[str, dict[str, tuple[int, str]]]
) -> None:
    url, answer = answering
    answer["next"] = (status, body)
    with pytest.raises(PrometheusError, match=wanted):
        PrometheusClient(url + "/").query("up")


def test_native_histograms_are_left_out(answering: tuple[str, dict[str, tuple[int, str]]]) -> None:
    url, answer = answering
    rows = [{"metric": {"a": "1"}, "value": [5, "NaN"]}, {"metric": {}, "histogram": [5, {}]}]
    answer["next"] = (
        200,
        json.dumps({"status": "success", "data": {"resultType": "vector", "result": rows}}),
    )
    (sample,) = PrometheusClient(url).query("x")
    assert sample.labels == {"a": "1"}
    assert sample.value != sample.value


@pytest.mark.parametrize("url", ["", "localhost:9090", "ftp://x", "http://"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="no Prometheus address"):
        PrometheusClient(url)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 0.0),
        ("0001-01-01T00:00:00Z", 0.0),
        ("1970-01-01T00:00:01Z", 1.0),
        ("1970-01-01T00:00:01.5Z", 1.5),
        ("1970-01-01T02:00:01.250000999+02:00", 1.25),
        ("1970-01-01T00:00:00.123456789-00:00", 0.123456),
    ],
)
def test_times_as_go_writes_them(text: str, seconds: float) -> None:
    assert timestamp(text) == pytest.approx(seconds)


def test_finite_points_leave_nan_and_infinity_out() -> None:
    points = ((1.0, float("nan")), (2.0, float("inf")), (3.0, 0.0), (4.0, float("-inf")))
    assert Series({}, points).finite == ((3.0, 0.0),)


def test_the_binary_is_the_environments_choice_then_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        program = tmp_path / folder / "prometheus"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "a"))
    monkeypatch.delenv("MONITORGEN_PROMETHEUS", raising=False)
    assert find_prometheus() == tmp_path / "a" / "prometheus"
    monkeypatch.setenv("MONITORGEN_PROMETHEUS", str(tmp_path / "b" / "prometheus"))
    assert find_prometheus() == tmp_path / "b" / "prometheus"
    monkeypatch.setenv("MONITORGEN_PROMETHEUS", str(tmp_path / "c"))
    with pytest.raises(ToolMissing, match="from MONITORGEN_PROMETHEUS"):
        find_prometheus()
    monkeypatch.delenv("MONITORGEN_PROMETHEUS")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="not on PATH"):
        find_prometheus()
