"""Replayed recordings: counters never fall, buckets stay cumulative, gauges and the shape are as recorded."""

from __future__ import annotations

import gzip
import urllib.error
import urllib.request
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitorgen.errors import InputError
from monitorgen.prove.replay import Replay, ReplayServer

SCRAPES = Path(__file__).parents[1] / "fixtures" / "scrapes"
IN_ORDER = [SCRAPES / f"vllm-0.9.2{part}.prom.gz" for part in (".t0", "", ".t2")]
FIRST = """\
# HELP hits_total Hits.
# TYPE hits_total counter
hits_total{path="/a b\\"}"} 10
# HELP hits_created When.
# TYPE hits_created gauge
hits_created{path="/a b\\"}"} 1.5e+09
# TYPE level gauge
level 3
"""
SECOND = """\
# HELP hits_total Hits.
# TYPE hits_total counter
hits_total{path="/a b\\"}"} 30
hits_total{path="/late"} 8
# HELP hits_created When.
# TYPE hits_created gauge
hits_created{path="/a b\\"}"} 1.5e+09
# TYPE level gauge
level 7
# TYPE wait_seconds histogram
wait_seconds_bucket{le="1"} 4
wait_seconds_bucket{le="+Inf"} 6
wait_seconds_sum 9.5
wait_seconds_count 6
"""
HIT = 'hits_total{path="/a b\\"}"}'


def values(page: str) -> dict[str, float]:
    """Series to value, read without the code under test."""
    lines = [line.rpartition(" ") for line in page.splitlines() if line and not line.startswith("#")]
    return {series: float(value) for series, _, value in lines}


@pytest.mark.parametrize(
    ("elapsed", "hit", "late", "level"),
    [
        (-1.0, 10, 0, 3),
        (0.0, 10, 0, 3),
        (4.0, 18, 3.2, 3),
        (5.0, 20, 4, 7),
        (10.0, 30, 8, 3),  # the first recording's gauges come again, the growth goes on
        (15.0, 40, 12, 7),
        (24.0, 58, 19.2, 3),
    ],
)
def test_counters_grow_in_a_line_and_the_growth_repeats(
    elapsed: float, hit: float, late: float, level: float
) -> None:
    now = values(Replay([FIRST, SECOND], step=10).page(elapsed))
    assert now[HIT] == pytest.approx(hit)
    assert now['hits_total{path="/late"}'] == pytest.approx(late)
    assert now["level"] == level
    assert now['hits_created{path="/a b\\"}"}'] == 1.5e9


def test_a_histogram_grows_with_all_its_parts() -> None:
    now = values(Replay([FIRST, SECOND], step=10).page(25.0))
    assert now['wait_seconds_bucket{le="1"}'] == pytest.approx(10)
    assert now['wait_seconds_bucket{le="+Inf"}'] == now["wait_seconds_count"] == pytest.approx(15)
    assert now["wait_seconds_sum"] == pytest.approx(23.75)


def test_a_series_appears_when_its_first_recording_is_under_way() -> None:
    replay = Replay([FIRST, FIRST, SECOND], step=10)
    assert 'hits_total{path="/late"}' not in values(replay.page(9.9))
    assert values(replay.page(15.0))['hits_total{path="/late"}'] == pytest.approx(4)
    assert values(replay.page(20.0))['hits_total{path="/late"}'] == pytest.approx(8)


def test_a_gauge_that_came_late_stays() -> None:
    replay = Replay(["a 1\n", "a 1\nb 5\n"], step=10)
    assert "b" not in values(replay.page(0.0))
    assert [values(replay.page(elapsed)).get("b") for elapsed in (6.0, 11.0, 16.0)] == [5, 5, 5]


def test_a_restart_between_recordings_counts_as_no_growth() -> None:
    pages = [
        "# TYPE c counter\nc_total 50\n",
        "# TYPE c counter\nc_total 5\n",
        "# TYPE c counter\nc_total 9\n",
    ]
    replay = Replay(pages, step=1)
    assert [values(replay.page(elapsed))["c_total"] for elapsed in (0, 1, 2, 3, 4)] == [50, 50, 54, 54, 58]


def test_each_family_says_its_type_once_and_before_its_series() -> None:
    lines = Replay([FIRST, SECOND], step=10).page(3.0).splitlines()
    for name in ("hits_total", "hits_created", "level", "wait_seconds"):
        (declared,) = [i for i, line in enumerate(lines) if line.startswith(f"# TYPE {name} ")]
        own = [i for i, line in enumerate(lines) if line.startswith(name)]
        assert all(i > declared for i in own)


@pytest.mark.parametrize(
    ("pages", "step", "wanted"),
    [
        ([FIRST], 1, "two recordings"),
        ([], 1, "two recordings"),
        ([FIRST, ""], 1, "no samples"),
        ([FIRST, "<html>"], 1, "no samples"),
        ([FIRST, SECOND], 0, "above 0 s"),
    ],
)
def test_what_cannot_be_replayed_is_refused(pages: list[str], step: float, wanted: str) -> None:
    with pytest.raises(InputError, match=wanted):
        Replay(pages, step=step)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.prom.gz"
    broken.write_bytes(b"\x1f\x8b\x08rubbish")
    for path in (broken, tmp_path / "missing.prom"):
        with pytest.raises(InputError, match=path.name):
            Replay.from_files([path, path])


@given(st.lists(st.floats(0, 200), min_size=2, max_size=12))
def test_a_recorded_server_never_falls_and_its_buckets_stay_cumulative(times: list[float]) -> None:
    pages = [values(RECORDED.page(elapsed)) for elapsed in sorted(times)]
    for before, after in pairwise(pages):
        assert before.keys() <= after.keys()
        assert not [s for s in before if _cumulative(s) and after[s] < before[s] - 1e-9]
    for page in pages:
        for series, count in page.items():
            if series.startswith("vllm:time_to_first_token_seconds_count"):
                buckets = [
                    v for s, v in page.items() if s.startswith("vllm:time_to_first_token_seconds_bucket")
                ]
                assert all(a <= b + 1e-9 for a, b in pairwise(buckets))
                assert buckets[-1] == pytest.approx(count)


def _cumulative(series: str) -> bool:
    return series.partition("{")[0].endswith(("_total", "_bucket", "_count", "_sum"))


RECORDED = Replay.from_files(IN_ORDER, step=20)


def test_a_page_holds_what_was_recorded_and_nothing_else() -> None:
    recorded = [values(gzip.decompress(path.read_bytes()).decode()) for path in IN_ORDER]
    for index, elapsed in enumerate((0.0, 20.0, 39.999999)):
        page = values(RECORDED.page(elapsed))
        assert page.keys() >= recorded[index].keys()
        assert all(page[s] == pytest.approx(v, rel=1e-3) for s, v in recorded[index].items())
    assert (
        values(RECORDED.page(1000.0)).keys() == recorded[0].keys() | recorded[1].keys() | recorded[2].keys()
    )


def test_the_server_plays_from_its_start_and_ends_with_its_block() -> None:
    moments = iter([100.0, 105.0, 110.0])
    with ReplayServer(Replay([FIRST, SECOND], step=10), clock=lambda: next(moments)) as server:
        seen = []
        for _ in range(2):
            with urllib.request.urlopen(server.url, timeout=60) as answer:
                assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
                seen.append(values(answer.read().decode())[HIT])
        assert seen == [pytest.approx(20), pytest.approx(30)]
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(server.url.replace("/metrics", "/else"), timeout=60)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(server.url, timeout=60)
