"""The scenario exporter: what a page says when a family is told to do something."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest

from monitorgen.catalog import Family
from monitorgen.catalog.exposition import parse
from monitorgen.prove.player import TOGGLE, Player, PlayerServer
from monitorgen.prove.world import Counter, Drive, Gauge, Gone, Histogram, Target

TARGET = Target((("job", "vllm"), ("instance", "a:1")), "llama")
FAMILIES = {
    family.name: family
    for family in (
        Family(
            "requests_total", "counter", labels=("model_name", "reason"), values={"reason": ("stop", "abort")}
        ),
        Family("usage", "gauge", labels=("model_name",)),
        Family("latency_seconds", "histogram", labels=("model_name",), buckets=(0.1, 1.0, 10.0)),
        Family("up", "gauge"),
    )
}


class Clock:
    """A time that is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def played(drives: dict[str, Drive], *steps: float, factor: float = 1.0) -> dict[str, float]:
    """The samples after some seconds, each step one scrape."""
    clock = Clock()
    player = Player(TARGET, FAMILIES, drives, factor=factor, clock=clock)
    for step in steps or (0.0,):
        clock.now += step
        page = player.page()
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in page.splitlines()
        if line[0] != "#"
    }


def test_a_counter_grows_by_its_rate_however_often_it_is_scraped() -> None:
    drive = {"requests_total": Counter(10.0, (("reason", ("abort",)),), 0.25)}
    for steps in ((8.0,), (1.0, 3.0, 4.0)):
        samples = played(drive, *steps)
        assert samples['requests_total{model_name="llama",reason="abort"}'] == pytest.approx(20.0)
        assert samples['requests_total{model_name="llama",reason="stop"}'] == pytest.approx(60.0)


def test_a_histogram_reads_the_quantile_that_it_was_told() -> None:
    samples = played({"latency_seconds": Histogram(5.0, 0.5, 0.55)}, 4.0)
    label = 'model_name="llama"'
    low, high, total = (
        samples[f'latency_seconds_bucket{{{label},le="{le}"}}'] for le in ("0.1", "1.0", "+Inf")
    )
    assert total == samples[f"latency_seconds_count{{{label}}}"] == pytest.approx(20.0)
    # Prometheus: low edge + width * (q * N - below) / inside
    assert 0.1 + 0.9 * (0.5 * total - low) / (high - low) == pytest.approx(0.55)
    assert samples[f"latency_seconds_sum{{{label}}}"] == pytest.approx(20.0 * 0.55)


def test_a_gauge_toggles_in_quick_motion() -> None:
    readings = [
        played({"usage": Gauge(0.9, toggle=True)}, seconds, factor=10.0)['usage{model_name="llama"}']
        for seconds in (0.0, TOGGLE / 10 * 0.9, TOGGLE / 10 * 1.1, TOGGLE / 10 * 2.1)
    ]
    assert readings == [0.9, 0.9, 0.0, 0.9]


def test_what_is_gone_is_not_on_the_page_and_goes_on_when_it_comes_back() -> None:
    clock = Clock()
    player = Player(TARGET, FAMILIES, {"usage": Gone(), "requests_total": Counter(1.0)}, clock=clock)
    clock.now += 6.0
    player.drive({"requests_total": Gone(), "usage": Gauge(0.5)})
    clock.now += 100.0
    assert "requests_total" not in player.page()
    player.drive({"requests_total": Counter(1.0)})
    clock.now += 4.0
    assert 'requests_total{model_name="llama",reason="stop"} 5.0' in player.page()


def test_the_page_is_an_exposition_that_catalogs_can_read() -> None:
    clock = Clock()
    drives = {
        "usage": Gauge(0.5),
        "requests_total": Counter(1.0),
        "latency_seconds": Histogram(1.0, 0.5, 0.5),
    }
    player = Player(Target(TARGET.labels, 'a"b\\c\nd'), FAMILIES, drives, clock=clock)
    clock.now += 3.0
    found = {family.name: family.type for family in parse(player.page())}
    assert found == {"usage": "gauge", "requests_total": "counter", "latency_seconds": "histogram"}


def test_a_target_that_is_down_refuses_and_one_that_is_gone_is_not_listed() -> None:
    clock = Clock()
    players = [Player(TARGET, FAMILIES, {"usage": Gauge(1.0)}, clock=clock) for _ in range(3)]
    players[1].drive({"up": Gauge(0.0)})
    players[2].drive({"up": Gone()})
    with PlayerServer(players) as server:
        listed = [entry["labels"]["__metrics_path__"] for entry in server.discovered("vllm")]
        assert listed == ["/0/metrics", "/1/metrics"]
        assert server.discovered("decode") == []
        with urllib.request.urlopen(f"http://{server.target}/0/metrics", timeout=60) as answer:
            assert b"usage" in answer.read()
        for path, status in (("/1/metrics", 503), ("/7/metrics", 404)):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"http://{server.target}{path}", timeout=60)
            assert refused.value.code == status
