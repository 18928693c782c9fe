"""What all reports show: claims put together, alert steps, sources, numbers with units, small plots."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import ALERT, JOB, PANEL, QUERY, RULE, ledgers, small

from monitorgen.prove import alert_course, views
from monitorgen.prove.ledger import LEVELS, Ledger, Proof
from monitorgen.prove.plot import format_value, plot


@given(ledgers())
def test_no_proof_is_lost_where_claims_are_put_together(ledger: Ledger) -> None:
    for item in ledger.items:
        for level in LEVELS:
            claims = views.claims_of(ledger, item, level)
            together = sorted(repr(proof) for claim in claims for proof in claim.proofs)
            assert together == sorted(map(repr, ledger.of(item, level)))
            assert len({claim.text for claim in claims}) == len(claims)
            assert all(claim.holds for claim in claims) == all(p.holds for p in ledger.of(item, level))


def test_equal_claims_of_several_programs_are_one() -> None:
    (claim,) = views.claims_of(small(), RULE, "simulated")
    assert views.sources_text(claim.proofs) == "promtool 2.42.0, 3.5.3"
    assert claim.asked == ((QUERY, "20m"),)


def test_what_failed_comes_first() -> None:
    assert [claim.holds for claim in views.claims_of(small(), ALERT, "live")] == [False, True]


def texts_of_the_alert_stage() -> set[str]:
    """Every text in the code that takes alerts their way, its claims among them."""
    tree = ast.parse(Path(alert_course.__file__).read_text(encoding="utf-8"))
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


@pytest.mark.parametrize(
    ("claim", "step"),
    [
        ("silent while calm", "silent while calm"),
        ("pending, then fires after its `for`", "pending, then firing"),
        ("fires when provoked", "pending, then firing"),
        ("labels and rendered annotations", "right labels and texts"),
        ("reaches the receiver through Alertmanager", "delivered"),
        ("names whom it concerns, and nobody else", "nobody else named"),
        ("resolves, and the receiver is told", "resolved"),
    ],
)
def test_the_claims_of_the_alert_stage_are_its_steps(claim: str, step: str) -> None:
    assert claim in texts_of_the_alert_stage()  # or else the steps follow words that nobody says any more
    assert views.ALERT_STEPS[views.step_of(claim)][0] == step


def test_other_claims_are_no_steps() -> None:
    assert views.step_of("has values") == len(views.ALERT_STEPS)


def test_an_item_counts_once_for_its_most_telling_source() -> None:
    ledger = Ledger("b", (RULE, ALERT, PANEL, JOB))
    for item, kinds in ((RULE, ("replayed", "vllm")), (ALERT, ("scenario",)), (PANEL, ("",))):
        ledger.add(Proof(item, "live", kind or "x", True, "s", kind=kind) for kind in kinds)
    ledger.add([Proof(JOB, "live", "is scraped", False, "s", kind="scrape")])
    found = views.proven_by(ledger)
    assert found == {"vllm": {"record": 1}, "scenario": {"alert": 1}, "": {"panel": 1}}
    assert list(found) == ["vllm", "scenario", ""]


@given(ledgers())
def test_sources_add_up_to_what_is_proven_live(ledger: Ledger) -> None:
    total = sum(count for counts in views.proven_by(ledger).values() for count in counts.values())
    assert total == ledger.counts("live")["proven"]


def test_reasons_gather_the_items_that_share_them() -> None:
    ledger = small()
    assert views.unproven_by_reason(ledger, "live") == {
        "no vllm was there to scrape": [JOB],
        "vllm:x is not exported by this server": [PANEL],
    }
    assert views.unproven_by_reason(Ledger("b", (RULE,)), "live") == {views.NOT_ASKED: [RULE]}


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0521, "seconds", "52.1 ms"),
        (78, "s", "78 s"),
        (7300, "s", "2.03 h"),
        (0.0000004, "seconds", "400 ns"),
        (250, "milliseconds", "250 ms"),
        (0, "seconds", "0 s"),
        (-1.5, "s", "-1.5 s"),
        (0.832, "ratio", "83.2 %"),
        (0.05, "percentunit", "5 %"),
        (83.25, "percent", "83.2 %"),
        (3 * 2**30, "bytes", "3 GiB"),
        (64, "mebibytes", "64 MiB"),
        (2048, "bytes/s", "2 KiB/s"),
        (1234.4, "tokens/s", "1,234 tokens/s"),
        (12_340_000, "tokens", "12.3 M tokens"),
        (4.5, "reqps", "4.5 requests/s"),
        (3, "cps", "3 /s"),
        (3, "short", "3"),
        (1, "bool", "1"),
        (1_800_000_000, "timestamp", "2027-01-15 08:00:00 UTC"),
        (0.00001234, "number", "1.23e-05"),
        (math.nan, "seconds", "NaN"),
        (-math.inf, "ratio", "-∞"),
        (2, "parsecs", "2 parsecs"),
        (2, "x" * 200, "2"),
    ],
)
def test_values_are_read_in_their_unit(value: float, unit: str, text: str) -> None:
    assert format_value(value, unit) == text


FLOATS = st.floats(allow_nan=True, allow_infinity=True)


@given(
    FLOATS,
    st.sampled_from(["seconds", "ratio", "bytes", "mebibytes", "tokens/s", "timestamp", "s", "short", ""]),
)
def test_any_value_has_a_text_in_any_unit(value: float, unit: str) -> None:
    assert format_value(value, unit).strip()


def coordinates(path: str) -> list[tuple[float, float]]:
    return [
        (float(x), float(y)) for x, y in (piece.split(" ") for piece in path.replace("M", "L").split("L")[1:])
    ]


def test_a_plot_has_its_extremes_at_the_edges_and_gaps_where_nothing_is_known() -> None:
    drawn = plot([(0, 1.0), (10, 3.0), (20, math.nan), (30, 2.0), (40, 1.0)], 100, 20, pad=0)
    assert drawn
    assert drawn.path == "M0.0 20.0L25.0 0.0M75.0 10.0L100.0 20.0"
    assert (drawn.low, drawn.high, drawn.last, drawn.seconds, drawn.count) == (1.0, 3.0, 1.0, 40, 4)
    assert drawn.end == (100.0, 20.0)


def test_a_constant_lies_in_the_middle() -> None:
    drawn = plot([(0, 5.0), (1, 5.0)], 10, 20, pad=0)
    assert drawn
    assert drawn.path == "M0.0 10.0L10.0 10.0"


@pytest.mark.parametrize("points", [[], [(0, 1.0)], [(0, 1.0), (1, math.nan)], [(3, 1.0), (3, 2.0)]])
def test_what_is_no_course_is_not_drawn(points: list[tuple[float, float]]) -> None:
    assert plot(points, 100, 20) is None


def test_of_many_points_the_peaks_stay() -> None:
    points = [(float(i), 0.0) for i in range(10_000)]
    points[5_001] = (5_001.0, 9.0)
    points[7_003] = (7_003.0, -4.0)
    drawn = plot(points, 100, 26, pad=0)
    assert drawn
    assert len(coordinates(drawn.path)) <= 102
    assert {y for _, y in coordinates(drawn.path)} == {0.0, 18.0, 26.0}


@given(st.lists(st.tuples(FLOATS, FLOATS), max_size=40))
def test_any_series_stays_in_its_box(points: list[tuple[float, float]]) -> None:
    drawn = plot(points, 88, 20)
    if drawn is not None:
        for x, y in coordinates(drawn.path):
            assert 2 <= x <= 86
            assert 2 <= y <= 18
