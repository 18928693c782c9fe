"""What is noted of alerts, from what Prometheus lists and what a webhook receives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitorgen.bundle import AlertRule, pairs
from monitorgen.prove.gotext import render_annotation
from monitorgen.prove.prometheus import AlertState
from monitorgen.prove.sightings import Sightings, text_pattern
from monitorgen.prove.webhook import Delivery

RULE = AlertRule(
    "Slow",
    "x > 1",
    hold=5.0,
    labels=pairs({"severity": "warning"}),
    annotations=pairs(
        {"summary": "{{ $labels.model }} takes {{ $value | humanizeDuration }}", "note": "fixed"}
    ),
)
LABELS = {"alertname": "Slow", "severity": "warning", "model": "llama"}
TEXTS = {"summary": "llama takes 1.5s", "note": "fixed"}


def listed(state: str = "firing", value: float = 1.5, **texts: str) -> AlertState:
    """The alert as Prometheus lists it; active since second 100."""
    return AlertState(LABELS, {**TEXTS, **texts}, state, 100.0, value)


def delivery(status: str = "firing", received: float = 107.0, **texts: str) -> Delivery:
    """The alert as the webhook received it."""
    return Delivery("notify", status, LABELS, {**TEXTS, **texts}, 105.0, 0.0, "", "f", {}, received)  # type: ignore[arg-type]


def test_an_alert_is_followed_from_pending_to_resolved() -> None:
    seen = Sightings([RULE])
    seen.update([listed("pending")], [], 101.0)
    seen.update([listed()], [], 106.0)
    seen.update([listed()], [delivery()], 107.0)
    seen.update([], [delivery(), delivery("resolved", 112.0)], 112.5)
    (one,) = seen.of("Slow")
    assert (one.active, one.pending, one.firing, one.delivered) == (100.0, 101.0, 106.0, 107.0)
    assert (one.ended, one.resolved, one.lasted, one.receiver) == (112.5, 112.0, 6.0, "notify")
    assert one.wrong == []
    assert seen.exactly(LABELS) is one


@pytest.mark.parametrize(
    ("alert", "said"),
    [
        (listed(value=2.5), "its summary reads 'llama takes 1.5s'"),
        (listed(summary="takes 1.5s"), "its summary reads 'takes 1.5s'"),
        (listed(note="another"), "its note reads 'another'"),
    ],
)
def test_a_text_that_the_rule_does_not_give_is_noted(alert: AlertState, said: str) -> None:
    seen = Sightings([RULE])
    seen.update([alert], [], 106.0)
    assert next(iter(seen)).wrong == [said]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("llama takes 1.5s", False),
        ("llama takes 1h 2m 3s", False),
        ("llama takes 780ms", False),
        ("qwen takes 1.5s", True),
        ("llama takes ", True),
        ("llama takes {{ $value }}", True),
        ("llama takes <no value>", True),
    ],
)
def test_what_the_receiver_got_must_fit_the_template(text: str, wrong: bool) -> None:
    seen = Sightings([RULE])
    seen.update([listed()], [delivery(summary=text)], 107.0)
    assert bool(next(iter(seen)).wrong) == wrong


def test_an_alert_that_no_rule_means_is_noted() -> None:
    seen = Sightings([])
    seen.update([listed()], [], 106.0)
    assert next(iter(seen)).wrong == ["no rule of the bundle has its name and severity"]


def test_an_alert_that_comes_back_begins_anew() -> None:
    seen = Sightings([RULE])
    seen.update([listed()], [delivery()], 107.0)
    seen.update([], [delivery(), delivery("resolved")], 110.0)
    seen.update([listed("pending")], [delivery(), delivery("resolved")], 120.0)
    one = seen.exactly(LABELS)
    assert one is not None
    assert (one.firing, one.delivered, one.resolved, one.ended) == (0.0, 0.0, 0.0, 0.0)


@given(
    st.sampled_from(["humanize", "humanizeDuration", "humanizePercentage", "humanize1024"]),
    st.floats(-1e12, 1e12, allow_nan=False) | st.just(float("nan")) | st.just(float("inf")),
)
def test_the_pattern_of_a_text_fits_every_value(function: str, value: float) -> None:
    template = f"of {{{{ $labels.model }}}}: {{{{ $value | {function} }}}} now"
    text = render_annotation(template, {"model": "a.b (c)"}, value)
    assert text_pattern(template, {"model": "a.b (c)"}).fullmatch(text)
    assert not text_pattern(template, {"model": "other"}).fullmatch(text)
