"""Ledgers of several runs put together: what one proved is proven, what one saw fail has failed."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import ALERT, JOB, PANEL, RULE, small

from monitorgen.errors import InputError
from monitorgen.prove.ledger import LEVELS, About, Ledger, Proof
from monitorgen.prove.merge import merge

ITEMS = ("alert/A", "record/r")


def run(*proofs: Proof, items: tuple[str, ...] = ITEMS, **facts: str) -> Ledger:
    return Ledger("any", items, list(proofs), run=facts)


def live(holds: bool, source: str, item: str = "alert/A") -> Proof:
    return Proof(item, "live", "fires", holds, source)


def test_what_one_run_proved_is_proven_and_its_reason_elsewhere_is_gone() -> None:
    laptop, server = run(), run(live(True, "gpu"))
    laptop.unproven("alert/A", "live", "needs a CUDA device")
    laptop.unproven("record/r", "live", "no workload")
    for both in (merge([laptop, server]), merge([server, laptop])):
        assert both.state("alert/A", "live") == "proven"
        assert both.reasons == {"record/r": {"live": "no workload"}}


def test_a_part_that_is_proven_does_not_make_the_whole_proven() -> None:
    half = run(live(True, "laptop"))
    half.unproven("alert/A", "live", "query B has no series")
    both = merge([half, run()])
    assert both.state("alert/A", "live") == "unproven"
    assert both.reasons["alert/A"]["live"] == "query B has no series"


def test_what_failed_in_one_run_has_failed() -> None:
    for order in itertools.permutations([run(live(False, "a")), run(live(True, "b")), run()]):
        both = merge(order)
        assert both.state("alert/A", "live") == "failed"
        assert both.exit_code() == 1


def test_other_reasons_are_put_together() -> None:
    first, second = run(), run()
    first.unproven("alert/A", "live", "no traffic; no GPU")
    second.unproven("alert/A", "live", "no GPU")
    assert merge([first, second]).reasons["alert/A"]["live"] == "no traffic; no GPU"


def test_equal_proofs_are_there_once_also_where_a_value_is_nan() -> None:
    proof = replace(live(True, "a"), value=float("nan"), points=((1.0, float("nan")),))
    again = replace(proof, value=float("-nan") * 1, points=((1.0, float("nan")),))
    assert len(merge([run(proof), run(again), run(live(True, "b"))]).proofs) == 2


def test_the_facts_of_each_run_are_kept() -> None:
    laptop, server = run(prometheus="3.5.3", gpu="none"), run(prometheus="3.5.3", gpu="H100")
    both = merge([laptop, server])
    assert both.run == {"prometheus": "3.5.3"}
    assert both.runs == [laptop.run, server.run]
    third = merge([both, run(prometheus="2.42.0")])
    assert third.run == {}
    assert third.runs == [laptop.run, server.run, {"prometheus": "2.42.0"}]


def test_a_check_without_facts_takes_none_away() -> None:
    assert merge([run(), run(prometheus="3.5.3")]).run == {"prometheus": "3.5.3"}


def test_notes_dormant_and_abouts_are_united() -> None:
    first, second = small(), small()
    first.about.pop(RULE)
    second.notes.append("another")
    second.dormant["more"] = "why"
    both = merge([first, second])
    assert both.about == small().about
    assert both.notes == ["promtool 2.42 was not found", "another"]
    assert list(both.dormant.items()) == [("errors", "no engine exports a family for it"), ("more", "why")]


def test_a_level_beyond_an_item_stays_beyond_it_unless_that_would_hide_a_proof() -> None:
    beyond, failed = run(), run(Proof("record/r", "simulated", "c", False, "s"))
    beyond.beyond = dict.fromkeys(ITEMS, ("simulated",))
    both = merge([beyond, failed])
    assert both.state("alert/A", "simulated") == "none"
    assert both.state("record/r", "simulated") == "failed"


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (run(items=("alert/A",)), "only a.json has record/r"),
        (run(items=(*ITEMS, "x", "y", "z", "w", "v")), "only b.json has x, y, z and 2 more"),
        (run(items=("alert/B", "record/r")), "only a.json has alert/A; only b.json has alert/B"),
        (Ledger("other", ITEMS), "a.json is of the bundle any, b.json of other"),
    ],
)
def test_ledgers_of_other_items_are_refused(other: Ledger, said: str) -> None:
    with pytest.raises(InputError) as caught:
        merge([run(), run(), other], ["a.json", "c.json", "b.json"])
    assert str(caught.value).startswith(said)


def test_items_of_the_same_name_that_mean_something_else_are_refused() -> None:
    first, second = run(), run()
    first.about["alert/A"] = About(expr="x > 1")
    merge([first, second])  # a run that does not say is believed
    second.about["alert/A"] = About(expr="x > 2")
    with pytest.raises(InputError, match=r"alert/A is not the same in a and b: 'x > 1', and 'x > 2'"):
        merge([first, second], ["a", "b"])


def test_one_ledger_is_itself_and_none_is_refused() -> None:
    ledger = small()
    assert merge([ledger]) is ledger
    with pytest.raises(InputError, match="no ledger"):
        merge([])


def test_a_check_and_a_live_run_fill_each_other() -> None:
    full = small()
    checked = Ledger(
        full.bundle, full.items, [p for p in full.proofs if p.level != "live"], beyond=full.beyond
    )
    seen = Ledger(full.bundle, full.items, [p for p in full.proofs if p.level == "live"], full.reasons)
    both = merge([checked, seen])
    wanted = {item: [full.state(item, level) for level in LEVELS] for item in (RULE, ALERT, PANEL, JOB)}
    assert {item: [both.state(item, level) for level in LEVELS] for item in both.items} == wanted


PROOFS = [
    Proof(item, level, "c", holds, source)
    for item, level, holds, source in itertools.product(ITEMS, ("simulated", "live"), (True, False), "ab")
]
FACTS = st.dictionaries(st.sampled_from(("prometheus", "gpu")), st.sampled_from(("1", "2")))


@st.composite
def any_run(draw: st.DrawFn) -> Ledger:
    """A run whose proofs, reasons and facts are often those of another."""
    ledger = run(*draw(st.lists(st.sampled_from(PROOFS), max_size=4)))
    ledger.run = draw(FACTS)
    if draw(st.booleans()):  # as `merge` leaves it: the facts of each run, and what they have in common
        ledger.runs = draw(st.lists(FACTS, min_size=1, max_size=2))
        shared = set.intersection(*(set(facts_.items()) for facts_ in ledger.runs))
        ledger.run = dict(sorted(shared))
    ledger.notes = draw(st.lists(st.sampled_from("no"), unique=True))
    for item, level in draw(st.lists(st.sampled_from([("alert/A", "live"), ("record/r", "live")]))):
        ledger.unproven(item, level, draw(st.sampled_from(("", "no GPU", "no GPU; idle"))))
    if draw(st.booleans()):
        ledger.beyond["record/r"] = ("simulated",)
    return ledger


RUNS = st.lists(any_run(), min_size=2, max_size=3)


def facts(ledger: Ledger) -> object:
    """All of a ledger that must not depend on the order of the runs."""
    return (
        {(item, level): ledger.state(item, level) for item in ITEMS for level in LEVELS},
        sorted(map(repr, ledger.proofs)),
        {
            (item, level): frozenset(filter(None, reason.split("; ")))
            for item, reasons in ledger.reasons.items()
            for level, reason in reasons.items()
        },
        {item: frozenset(levels) for item, levels in ledger.beyond.items()},
        sorted(ledger.notes),
        ledger.run,
    )


@given(RUNS)
def test_no_proof_is_lost_and_no_failure(runs: list[Ledger]) -> None:
    both = merge(runs)
    assert {repr(p) for run in runs for p in run.proofs} == {repr(p) for p in both.proofs}
    for item, level in itertools.product(ITEMS, LEVELS):
        states = {run.state(item, level) for run in runs}
        if "failed" in states:
            assert both.state(item, level) == "failed"
        elif "proven" in states and not any(not p.holds for run in runs for p in run.of(item, level)):
            assert both.state(item, level) == "proven"


@given(RUNS)
def test_the_same_run_twice_adds_nothing(runs: list[Ledger]) -> None:
    both = merge(runs)
    assert facts(merge([both, *runs])) == facts(both)


@given(st.lists(any_run(), min_size=3, max_size=3))
def test_the_order_of_merging_does_not_matter(runs: list[Ledger]) -> None:
    first, second, third = runs
    together = merge(runs)
    assert facts(merge([merge([first, second]), third])) == facts(together)
    assert facts(merge([third, second, first])) == facts(together)
