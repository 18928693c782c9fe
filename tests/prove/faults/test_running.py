"""Asking a server that runs already: what it has loaded, what it lacks, and what it cannot answer."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from monitorgen.prove.access import Access
from monitorgen.prove.asking import LiveResult
from monitorgen.prove.ledger import Ledger
from monitorgen.prove.prometheus import Prometheus, PrometheusClient, PrometheusError
from monitorgen.prove.questions import Question, Subject
from monitorgen.prove.running import RunningReport, add_running, ask_running, look_at, same

TOKEN = "hunter2-token-value"  # what must not be seen anywhere

# What the server has: rules stand for what it scrapes, too, because they need no target.
LOADED = """
groups:
  - name: scraped
    interval: 1s
    rules:
      - {record: up, expr: vector(1), labels: {job: chat}}
      - {record: up, expr: vector(0), labels: {job: dead}}
      - {record: hits_total, expr: vector(7), labels: {job: chat}}
  - name: ours
    interval: 1s
    rules:
      - {record: "job:hits:sum", expr: "sum by (job)(hits_total)"}
      - {record: "job:hits:other", expr: "max by (job) (hits_total)"}
      - {record: "job:hits:broken", expr: "hits_total * on () up"}
      - {alert: Same, expr: "hits_total>100", for: 5m, labels: {severity: warning}}
      - {alert: Fires, expr: hits_total > 1, labels: {severity: critical}}
      - {alert: Other, expr: hits_total > 200, labels: {severity: warning}}
      - {alert: Sooner, expr: hits_total > 100, for: 1m, labels: {severity: warning}}
      - {alert: Broken, expr: hits_total * on () up > 9, labels: {severity: warning}}
      - {alert: Same, expr: hits_total > 1, labels: {severity: info}}
"""
# What the bundle has.
OURS = """
groups:
  - name: g
    rules:
      - {record: "job:hits:sum", expr: sum by (job) (hits_total)}
      - {record: "job:hits:other", expr: sum by (job) (hits_total)}
      - {record: "job:hits:broken", expr: hits_total * on () up}
      - {record: "job:hits:here", expr: hits_total + 1}
      - {record: "job:gone:sum", expr: sum(gone_total)}
      - {alert: Same, expr: hits_total > 100, for: 5m, labels: {severity: warning}}
      - {alert: Fires, expr: hits_total > 1, labels: {severity: critical}}
      - {alert: Other, expr: hits_total > 100, labels: {severity: warning}}
      - {alert: Sooner, expr: hits_total > 100, for: 5m, labels: {severity: warning}}
      - {alert: Broken, expr: hits_total * on () up > 9, labels: {severity: warning}}
      - {alert: Gone, expr: hits_total > 1, labels: {severity: warning}}
      - {alert: Wrong, expr: "no_such_function(hits_total)", labels: {severity: warning}}
"""
RECORDED = {
    "job:hits:sum": "sum by (job) (hits_total)",
    "job:hits:other": "sum by (job) (hits_total)",
    "job:hits:broken": "hits_total * on () up",
    "job:hits:here": "hits_total + 1",
    "job:gone:sum": "sum(gone_total)",
}
PANELS = {
    "raw": "hits_total",
    "recorded": "job:hits:sum",
    "unrecorded": "job:hits:here",
    "gone": "rate(gone_total[$__rate_interval])",
    "wrong": "sum(",
}
SUBJECT = Subject(
    {"rules/ours.yaml": OURS},
    (
        *(Question(f"record/{name}", name, rule=expr) for name, expr in RECORDED.items()),
        *(Question(f"panel/u/{name}", expr, "A") for name, expr in PANELS.items()),
    ),
    {name: (expr,) for name, expr in RECORDED.items()},
)
CONFIG = "global: {evaluation_interval: 1s}\nrule_files: [rules/*.yaml]\n"


def forward(server: str, prefix: str, header: str = "") -> Callable[[Any], None]:
    """The server below a prefix, as Mimir has it; a page to log in beside it, as Grafana has it."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def answer(request: Any) -> None:
        if not request.path.startswith(f"{prefix}/api/"):
            request.send("<!DOCTYPE html><title>Log in</title>", kind="text/html")
        elif header and request.headers.get("Authorization") != header:
            request.send("who are you?", 401, "text/plain")
        else:
            try:
                with opener.open(server + request.path.removeprefix(prefix), timeout=60) as said:
                    request.send(said.read(), kind=said.headers["Content-Type"])
            except urllib.error.HTTPError as error:
                with error:
                    request.send(error.read(), error.code, "application/json")

    return answer


@dataclass
class Scene:
    server: Prometheus
    report: RunningReport

    def found(self, item: str) -> LiveResult:
        everything = (*self.report.results, *self.report.alerts, *self.report.scrapes)
        (result,) = [one for one in everything if one.item == item]
        return result


@pytest.fixture(scope="module")
def scene(prometheus: Path, serve_all: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("running")
    with Prometheus(CONFIG, workdir=folder, files={"rules/all.yaml": LOADED}, binary=prometheus) as server:

        def evaluated() -> bool:
            rules = server.rules()
            return bool(rules) and all(rule.health != "unknown" for rule in rules)

        server.child.wait_until(evaluated, timeout=90, what="evaluating")
        server.child.wait_until(
            lambda: any(alert.state == "firing" for alert in server.alerts()), timeout=90, what="firing"
        )
        server.child.wait_until(lambda: bool(server.query("job:hits:sum")), timeout=90, what="recording")
        proxy = serve_all(forward(server.url, "/prometheus"))
        client = PrometheusClient(f"http://{proxy.target}/prometheus/")
        yield Scene(server, ask_running(client, SUBJECT, jobs=["chat", "dead", "missing"], interval=1.0))
        assert proxy.methods == {"GET"}


@pytest.mark.parametrize(
    ("item", "status", "reason"),
    [
        ("record/job:hits:sum", "proven", ""),
        ("record/job:hits:other", "failed", "another expression is loaded: max by"),
        ("record/job:hits:broken", "failed", "it is loaded, but fails: "),
        ("record/job:hits:here", "proven", "asked as an expression: the server has no rule that records"),
        ("record/job:gone:sum", "unproven", "gone_total is not exported"),
        ("panel/u/raw", "proven", ""),
        ("panel/u/recorded", "proven", ""),
        ("panel/u/unrecorded", "unproven", "the server has no rule that records job:hits:here, which it"),
        ("panel/u/gone", "unproven", "gone_total is not exported"),
        ("panel/u/wrong", "failed", ""),
        ("alert/Same/warning", "proven", "loaded with the same expression, health ok, inactive"),
        ("alert/Fires/critical", "proven", "loaded with the same expression, health ok, firing"),
        ("alert/Other/warning", "failed", "another expression is loaded: hits_total > 200"),
        ("alert/Sooner/warning", "failed", "it is loaded with `for: 1m` instead of `for: 5m`"),
        ("alert/Broken/warning", "failed", "it is loaded, but fails: "),
        ("alert/Gone/warning", "unproven", "the server has not loaded it; its expression can be evaluated"),
        ("alert/Wrong/warning", "failed", "Prometheus refuses: "),
        ("scrape/chat", "proven", ""),
        ("scrape/dead", "failed", "none of 1 targets is up"),
        ("scrape/missing", "unproven", "the server scrapes no target of job missing"),
    ],
)
def test_each_item_is_told_as_the_server_has_it(item: str, status: str, reason: str, scene: Scene) -> None:
    found = scene.found(item)
    assert (found.status, found.reason[: len(reason)]) == (status, reason)


def test_the_report_goes_into_a_ledger(scene: Scene) -> None:
    report = scene.report
    assert not report.ok
    everything = (*report.results, *report.alerts, *report.scrapes)
    ledger = Ledger("b", tuple(one.item for one in everything))
    add_running(ledger, report)
    for one in everything:
        assert ledger.state(one.item, "live") == one.status
    assert {proof.kind for proof in ledger.proofs} == {"prometheus"}
    json.loads(ledger.to_json())


def test_the_server_says_what_it_is(scene: Scene) -> None:
    assert scene.report.server.product == "Prometheus"
    assert scene.report.server.version == scene.server.version()
    assert scene.report.notes == ()


def test_expressions_are_compared_as_they_are_meant() -> None:
    assert same("sum by(a) (rate(x[5m]))>1", "sum by (a) (\n  rate(x[5m])\n) > 1")
    assert not same("a > 1", "a >= 1")
    assert same("odd function (", "odd  function (")


def server_of(product: str) -> Callable[[Any], None]:
    """Servers that cannot be run here, by how they answer."""
    info = {
        "mimir": {"application": "Grafana Mimir", "version": "2.13.0"},
        "victoria": {"version": "2.24.0"},
        "thanos": {"version": "0.35.1", "revision": "x"},
    }[product]
    value = {"resultType": "vector", "result": [{"metric": {"job": "j"}, "value": [1.7e9, "1"]}]}
    points = {"resultType": "matrix", "result": [{"metric": {"job": "j"}, "values": [[1.7e9, "1"]]}]}

    def answer(request: Any) -> None:
        path = request.path.partition("?")[0].removeprefix("/api/v1/")
        data: Any = {"query": value, "query_range": points, "status/buildinfo": info, "rules": {"groups": []}}
        if path == "metadata" or (path == "rules" and product == "mimir"):
            request.send("not here", 404, "text/plain")
            return
        said = {"status": "success", "data": data.get(path, ["hits_total"])}
        if product == "thanos":
            said["warnings"] = ["store 1: connection refused"]
        request.send(json.dumps(said), kind="application/json")

    return answer


@pytest.mark.parametrize(
    ("product", "named", "notes"),
    [
        ("mimir", "Grafana Mimir 2.13.0", ["lists no rules"]),
        ("victoria", "VictoriaMetrics", ["VictoriaMetrics alone evaluates no rules: ask vmalert"]),
        ("thanos", "Prometheus 0.35.1", ["lists no rules", "store 1: connection refused"]),
    ],
)
def test_what_a_server_cannot_answer_is_said(product: str, named: str, notes: list[str], serve: Any) -> None:
    client = PrometheusClient(f"http://{serve(server_of(product)).target}")
    report = ask_running(client, SUBJECT)
    assert str(report.server) == f"{named} at {client.url}"
    assert len(report.notes) == len(notes)
    assert all(wanted in note for wanted, note in zip(notes, report.notes, strict=True))
    alert = report.alerts[0]
    assert alert.status == "unproven"
    assert "does not tell which alerts are loaded" in alert.reason


def html(request: Any) -> None:
    request.send("<!DOCTYPE html><title>Grafana</title>", kind="text/html")


@pytest.mark.parametrize(
    ("fault", "wanted"),
    [
        (html, "answers with a web page, not with Prometheus' API (is it Grafana"),
        (lambda request: request.send("no", 401), "asks for credentials (401 Unauthorized) (give --bearer"),
        (
            lambda request: request.send("no", 404),
            "answers 404 Not Found (Mimir has its API below /prometheus",
        ),
        (lambda request: request.send("no", 400), "below /prometheus"),
        (lambda request: request.send("", 302, Location="/login"), "redirects to http://"),
        (lambda request: request.send("[]"), "does not answer like a Prometheus"),
        (lambda request: request.send('{"status": "success"}'), "does not answer like a Prometheus"),
        (lambda request: request.send('{"status":"error","error":"too busy"}', 503), "refuses: too busy"),
        (lambda request: request.server.ended.wait(60), "did not answer within 0.3 s"),
    ],
)
def test_what_does_not_answer_is_told_in_one_line(fault: Any, wanted: str, serve: Any) -> None:
    client = PrometheusClient(f"http://{serve(fault).target}/", timeout=0.3 if "0.3 s" in wanted else 60)
    with pytest.raises(PrometheusError) as caught:
        look_at(client)
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)


def test_credentials_and_the_tenant_go_with_every_question(serve: Any, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    tenants = set()

    def answer(request: Any) -> None:
        tenants.add(request.headers.get("X-Scope-OrgID"))
        server_of("victoria")(request)

    server = serve(answer)
    client = PrometheusClient(
        f"http://{server.target}", access=Access(bearer_token_file=path, tenant="team-a")
    )
    report = ask_running(client, SUBJECT)
    assert set(server.seen) == {f"Bearer {TOKEN}"}
    assert tenants == {"team-a"}
    assert TOKEN not in repr(report)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://h:9090", "http://h:9090"),
        ("http://h:9090/", "http://h:9090"),
        ("https://h/prometheus/api/v1/", "https://h/prometheus"),
        ("http://h/select/0/prometheus", "http://h/select/0/prometheus"),
    ],
)
def test_the_address_is_what_comes_before_the_api(url: str, base: str) -> None:
    assert PrometheusClient(url).url == base


@pytest.mark.parametrize(
    "url", [f"http://u:{TOKEN}@h", f"http://h?token={TOKEN}", f"http://h/#{TOKEN}", f"ftp://u:{TOKEN}@h"]
)
def test_credentials_in_its_address_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(Exception, match=r"credentials|more than a path") as caught:
        PrometheusClient(url)
    assert TOKEN not in str(caught.value)
