"""Numbers with units."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitorgen.profile import comparable, in_unit, parse_quantity, parse_seconds
from monitorgen.profile.quantity import SUFFIXES

GOOD = [
    ("600ms", 0.6, "seconds"),
    ("1.5s", 1.5, "seconds"),
    ("250us", 0.00025, "seconds"),
    ("5m", 300.0, "seconds"),
    ("1h30m", 5400.0, "seconds"),
    ("2d", 172800.0, "seconds"),
    ("1w", 604800.0, "seconds"),
    ("90%", 0.9, "ratio"),
    (" 90 % ", 0.9, "ratio"),
    ("0.1/s", 0.1, "1/s"),
    ("6/min", 0.1, "1/s"),
    ("36/h", 0.01, "1/s"),
    ("2GiB", 2147483648.0, "bytes"),
    ("2GB", 2e9, "bytes"),
    ("50", 50.0, ""),
    ("-5", -5.0, ""),
    (".5", 0.5, ""),
    ("1e3", 1000.0, ""),
    (50, 50.0, ""),
    (50.0, 50.0, ""),
    (0.05, 0.05, ""),
]
BAD = [
    "",
    " ",
    "ms",
    "5 parsecs",
    "soon",
    "1,5s",
    "0x10",
    "1:30",
    "nan",
    "inf",
    "1e999",
    "--5",
    "5m5",
    "٣s",
    "5 m s",
]


@pytest.mark.parametrize(("text", "value", "unit"), GOOD)
def test_good(text, value, unit):
    quantity = parse_quantity(text)
    assert (quantity.value, quantity.unit) == (value, unit)
    assert str(quantity) == str(text).strip().removesuffix(".0"), "as a person writes it"


@pytest.mark.parametrize("text", BAD)
def test_bad(text):
    with pytest.raises(ValueError, match=r"\w"):
        parse_quantity(text)


@given(st.text(max_size=20))
def test_any_text_is_a_finite_quantity_or_a_sentence(text):
    said, value = "", 0.0
    try:
        value = parse_quantity(text).value
    except ValueError as error:
        said = str(error)
        value = math.inf
    assert math.isfinite(value) or said


@given(st.integers(0, 10**6), st.sampled_from(sorted(SUFFIXES)))
def test_a_number_and_a_suffix(number, suffix):
    unit, factor = SUFFIXES[suffix]
    quantity = parse_quantity(f"{number}{suffix}")
    assert quantity.unit == unit
    assert quantity.value == pytest.approx(number * factor, rel=1e-11)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_durations_add_up(hours, minutes, seconds):
    assert parse_seconds(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


@pytest.mark.parametrize("text", ["", "5", "5 m", "m", "1.5h", "-5m", "5x", 5])
def test_no_duration(text):
    with pytest.raises(ValueError, match="is not a duration"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("threshold", "signal", "fits"),
    [
        ("seconds", "seconds", True),
        ("ratio", "seconds", False),
        ("ratio", "ratio", True),
        ("ratio", "percent", True),
        ("seconds", "ratio", False),
        ("bytes", "mebibytes", True),
        ("1/s", "requests/s", True),
        ("1/s", "requests", False),
        ("", "requests/s", True),
        ("", "seconds", False),
        ("", "ratio", False),
    ],
)
def test_comparable(threshold, signal, fits):
    assert comparable(threshold, signal) is fits


@pytest.mark.parametrize(
    ("text", "unit", "number"),
    [
        ("90%", "percent", 90.0),
        ("90%", "ratio", 0.9),
        ("512MiB", "mebibytes", 512.0),
        ("600ms", "seconds", 0.6),
    ],
)
def test_in_the_unit_of_the_signal(text, unit, number):
    assert in_unit(parse_quantity(text), unit) == number
