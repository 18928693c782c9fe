"""Every fault of an endpoint as a real Prometheus meets it, all at once beside endpoints that are well."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from monitorgen.prove import scrapes, sources
from monitorgen.prove.access import Access
from monitorgen.prove.live import run_live
from monitorgen.prove.processes import poll_until
from monitorgen.prove.prometheus import Prometheus, release
from monitorgen.prove.questions import Question, Subject
from monitorgen.prove.scrapes import Scrapes, explain, look_back
from monitorgen.prove.sources import Source, scrape_config

TOKEN = "hunter2-token-value"  # what must not be seen anywhere
INTERVAL = 0.25
RATE = 100.0  # hits a second
LINE = b'a_metric_of_many{number="1234567890123456789012345678901234567890"} 1\n'


def page(hits: float) -> str:
    return f"# TYPE hits_total counter\nhits_total {hits:.3f}\n"


def well(request: Any) -> None:
    request.send(page(RATE * request.server.elapsed))


def slow(request: Any) -> None:
    request.server.ended.wait(30)


def flapping(request: Any) -> None:
    if request.number % 2:
        request.send("no", 503)
    else:
        well(request)


def huge(request: Any) -> None:
    """100 MB, made as it is sent."""
    request.start()
    for _ in range(100_000_000 // (len(LINE) * 1000)):
        request.write(LINE * 1000)


def circle(request: Any) -> None:
    request.send("", 302, Location="/metrics")


def token(request: Any) -> None:
    if request.headers.get("Authorization") == f"Bearer {TOKEN}":
        well(request)
    else:
        request.send("no", 401)


def says(body: str, kind: str | None) -> Callable[[Any], None]:
    return lambda request: request.send(body, kind=kind)


@dataclass
class Scene:
    """A Prometheus that scrapes endpoints by name; `elsewhere` is where one of them would lead it."""

    server: Prometheus
    sources: dict[str, Source]
    endpoints: dict[str, Any]
    elsewhere: Any
    began: float = field(default_factory=time.monotonic)

    def fares(self, name: str) -> Scrapes:
        (found,) = look_back(self.server, [self.sources[name]], self.elapsed, INTERVAL)
        return found

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def wait(self, holds: Callable[[], bool], what: str) -> None:
        self.server.child.wait_until(holds, timeout=90, what=what)


@pytest.fixture
def scene(prometheus: Path, serve: Any, tls: Path, tmp_path: Path) -> Iterator[Scene]:
    folder = tmp_path
    (folder / "token").write_text(TOKEN + "\n")
    (folder / "wrong").write_text("wrong")
    elsewhere = serve(well)
    faults = {
        "well": well, "slow": slow, "flapping": flapping, "huge": huge, "circle": circle, "token": token,
        "intruder": token, "dying": well, "reset": well,
        "malformed": says("a 1\nb{x=} 2\n", "text/plain"),
        "untyped": says("hits_total 1\n", None),
        "web page": says("<html><body>Log in</body></html>\n", "text/html"),
        "leading away": lambda request: request.send("", 307, Location=elsewhere.url),
    }  # fmt: skip
    endpoints = {name: serve(fault) for name, fault in faults.items()}
    endpoints["encrypted"] = serve(well, "server")
    access = {
        "token": Access(bearer_token_file=folder / "token"),
        "leading away": Access(bearer_token_file=folder / "token"),
        "intruder": Access(bearer_token_file=folder / "wrong"),
        "encrypted": Access(ca_file=tls / "ca.pem"),
    }
    named = {
        name: Source(name, end.target, scheme=end.scheme, access=access.get(name, Access()))
        for name, end in endpoints.items()
    }
    with socket.socket() as closed, pytest.MonkeyPatch.context() as patch:
        closed.bind(("127.0.0.1", 0))  # bound, and nobody listens
        named["closed"] = Source("closed", f"127.0.0.1:{closed.getsockname()[1]}")
        for module in (sources, scrapes):  # what is huge is so sooner
            patch.setattr(module, "LIMIT", 1 << 20)
        config = scrape_config(tuple(named.values()), INTERVAL, fallback=release(prometheus) >= (3,))
        with Prometheus(config, workdir=folder / "work", binary=prometheus) as server:
            scene = Scene(server, named, endpoints, elsewhere)
            scene.wait(lambda: bool(server.targets()), "finding the targets")
            scene.wait(lambda: scene.fares("well").tried >= 4, "scraping")
            yield scene


WELL = ("well", "token", "encrypted", "untyped", "reset")
DOWN = {
    "slow": "it did not answer within the scrape interval of 0.25 s",
    "huge": "its page is larger than 1 MiB",
    "circle": "it redirects (302), which is not followed",
    "leading away": "it redirects (307), which is not followed",
    "intruder": "it refuses the credentials (401)",
    "closed": "nothing listens there (connection refused)",
    "malformed": "its page is malformed: ",
    "web page": "its page is malformed: ",
}


def test_every_fault_is_told_apart_and_the_others_go_on(scene: Scene) -> None:
    """One scene for all, because a Prometheus looks at its targets only after five seconds."""
    what_is_well_is_scraped(scene)
    what_cannot_be_scraped_is_told_with_its_reason(scene)
    a_redirect_carries_no_credentials_anywhere(scene)
    a_flapping_endpoint_is_not_well_though_it_is_up_at_times(scene)
    a_server_that_starts_again_leaves_rates_sane(scene)
    an_endpoint_that_dies_went_away(scene)
    no_file_and_no_answer_of_prometheus_holds_the_secret(scene)
    assert set().union(*(end.methods for end in scene.endpoints.values())) == {"GET"}


def what_is_well_is_scraped(scene: Scene) -> None:
    for name in WELL:
        scene.wait(lambda name=name: scene.fares(name).ok, f"scraping {name}")
        assert str(scene.fares(name)).startswith(f"{name} at {scene.sources[name].url}: ")


def what_cannot_be_scraped_is_told_with_its_reason(scene: Scene) -> None:
    for name, wanted in DOWN.items():
        scene.wait(lambda name=name, wanted=wanted: wanted in scene.fares(name).error, f"trying {name}")
        found = scene.fares(name)
        assert not found.ok, name
        assert found.failed == found.tried
        assert str(found).startswith(f"{name} at {scene.sources[name].url} cannot be scraped: ")
        assert wanted in str(found)


def a_redirect_carries_no_credentials_anywhere(scene: Scene) -> None:
    scene.wait(lambda: scene.endpoints["leading away"].count >= 2, "redirecting")
    assert f"Bearer {TOKEN}" in scene.endpoints["leading away"].seen
    assert scene.elsewhere.count == 0


def a_flapping_endpoint_is_not_well_though_it_is_up_at_times(scene: Scene) -> None:
    """Half of its scrapes fail, in the long run: a busy machine adds some that came too late."""

    def half() -> bool:
        found = scene.fares("flapping")
        return found.tried >= 6 and 0.3 < found.failed / found.tried < 0.7

    scene.wait(half, "flapping")
    found = scene.fares("flapping")
    assert not found.ok
    assert f"{found.failed} of {found.tried} scrapes failed" in str(found)


def a_server_that_starts_again_leaves_rates_sane(scene: Scene) -> None:
    """The counter falls to 0; what is asked of it stays finite, and about what it was."""
    end = scene.endpoints["reset"]
    before = end.count
    scene.wait(lambda: end.count >= before + 3, "scraping")
    end.began = time.monotonic()
    scene.wait(lambda: end.count >= before + 10, "scraping on")
    now = time.time()
    (level,) = scene.server.query_range('hits_total{job="reset"}', now - 15, now, INTERVAL)
    values = [value for _, value in level.points]
    assert any(after < before for before, after in pairwise(values))  # or nothing was reset
    (rate,) = scene.server.query_range('rate(hits_total{job="reset"}[2s])', now - 15, now, INTERVAL)
    assert len(rate.finite) == len(rate.points) > 3
    assert all(0 <= value < 2.5 * RATE for _, value in rate.points)
    assert max(value for _, value in rate.points) > RATE / 2


def an_endpoint_that_dies_went_away(scene: Scene) -> None:
    scene.wait(lambda: scene.fares("dying").up, "living")
    scene.endpoints["dying"].stop()
    scene.wait(lambda: "nothing listens" in scene.fares("dying").error, "dying")
    found = scene.fares("dying")
    assert not found.ok
    assert " went away: nothing listens there" in str(found)
    assert 0 < found.failed < found.tried


def no_file_and_no_answer_of_prometheus_holds_the_secret(scene: Scene) -> None:
    files = [path for path in scene.server.workdir.rglob("*") if path.is_file()]
    assert scene.server.config in files
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
    for question in ("status/config", "targets"):
        assert TOKEN not in str(scene.server.api(question))
    assert TOKEN not in scene.server.child.tail(10_000)


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ('received unsupported Content-Type "text/html" and no fallback', "no metrics page's: text/html"),
        ("lookup h on 1.1.1.1:53: no such host", "its name is not known"),
        ("x509: certificate signed by unknown authority", "TLS: certificate signed by unknown authority"),
        ("server returned HTTP status 500 Internal Server Error", "it answers 500 Internal Server Error"),
        ("unexpected EOF", "it closes the connection before the page is whole"),
        ("anything\nelse", "anything else"),
    ],
)
def test_words_of_prometheus_are_explained(said: str, means: str) -> None:
    assert explain(said, INTERVAL).endswith(means)


RULES = 'groups: [{name: g, rules: [{record: "job:hits:rate", expr: "sum by (job) (rate(hits_total[4s]))"}]}]'
EXPR = "sum by (job) (rate(hits_total[4s]))"


def subject(*jobs: str) -> Subject:
    questions = tuple(Question(f"record/{job}", f'job:hits:rate{{job="{job}"}}', rule=EXPR) for job in jobs)
    return Subject({"rules/r.yaml": RULES}, questions, {"job:hits:rate": (EXPR,)})


def test_a_proof_goes_on_without_a_source_that_is_down(
    one_prometheus: Path, serve: Any, tmp_path: Path
) -> None:
    good, other, said = serve(well), serve(well), []
    listed = [Source("good", good.target), Source("bad", serve(circle).target), Source("dying", other.target)]

    def load() -> None:
        before = other.count
        poll_until(lambda: other.count >= before + 3, timeout=60, pause=threading.Event().wait)
        other.stop()
        poll_until(lambda: good.count >= before + 6, timeout=60, pause=threading.Event().wait)

    report = run_live(
        subject("good", "dying"),
        listed,
        workdir=tmp_path,
        seconds=20,
        interval=INTERVAL,
        load=load,
        binary=one_prometheus,
        progress=said.append,
    )
    assert [result.status for result in report.results] == ["proven", "proven"]
    assert [one.ok for one in report.scrapes] == [True, False, False]
    assert not report.ok
    assert any("bad at" in line and line.endswith("going on without it") for line in said)
    assert "went away" in report.table()
