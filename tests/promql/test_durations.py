"""Durations: what Prometheus reads and writes, and that one is the inverse of the other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitorgen.promql import format_duration, parse_duration

READ = [
    ("5m", 300.0),
    ("0", 0.0),
    ("0s", 0.0),
    ("1ms", 0.001),
    ("1h30m", 5400.0),
    ("1d12h", 129600.0),
    ("1w", 604800.0),
    ("1y", 31536000.0),
    ("1y2w3d4h5m6s7ms", 31536000 + 14 * 86400 + 3 * 86400 + 4 * 3600 + 5 * 60 + 6.007),
    ("90s", 90.0),
]
WRITTEN = [
    (300, "5m"),
    (90, "1m30s"),
    (5400, "1h30m"),
    (86400, "1d"),
    (129600, "36h"),
    (604800, "1w"),
    (8 * 86400, "8d"),
    (31536000, "1y"),
    (0.001, "1ms"),
    (1.5, "1s500ms"),
    (0, "0s"),
]


@pytest.mark.parametrize(("text", "seconds"), READ)
def test_reads(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds, abs=1e-9)


@pytest.mark.parametrize(("seconds", "text"), WRITTEN)
def test_writes(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    "text",
    ["", "5", "m", "5x", "1.5h", "-5m", "5m1h", "1h1h", " 5m", "5m ", "300y", "9" * 30 + "s", "٥m", "1h30"],
)
def test_refuses_to_read(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 1e12])
def test_refuses_to_write(seconds: float) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        format_duration(seconds)


@given(st.integers(min_value=0, max_value=9_000_000_000_000))
def test_round_trip(milliseconds: int) -> None:
    text = format_duration(milliseconds / 1000)
    assert round(parse_duration(text) * 1000) == milliseconds


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert seconds >= 0
