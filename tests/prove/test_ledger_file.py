"""Ledgers in JSON come back as they were, and what is no ledger is refused with its place."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from ledgers import ALERT, PANEL, POINTS, RULE, ledgers, small

from monitorgen.errors import InputError
from monitorgen.prove.ledger import LEVELS, Ledger, Proof
from monitorgen.prove.ledger_file import read_ledger


@given(ledgers())
def test_any_ledger_comes_back_as_it_was(ledger: Ledger) -> None:
    text = ledger.to_json()
    back = Ledger.from_json(text)
    assert back.to_json() == text
    for name in ("bundle", "items", "reasons", "beyond", "dormant", "notes", "about", "run", "runs"):
        assert getattr(back, name) == getattr(ledger, name), name
    for item in ledger.items:
        for level in LEVELS:
            # As text, for NaN does not equal itself.
            assert repr(back.of(item, level)) == repr(ledger.of(item, level))
            assert back.state(item, level) == ledger.state(item, level)


def test_the_file_is_json_for_every_reader() -> None:
    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is no JSON")

    plain = json.loads(small().to_json(), parse_constant=refuse)
    proof = plain["items"][0]["proofs"][-1]
    assert proof["points"][1] == [1002.0, "NaN"]
    assert repr(Ledger.from_dict(plain).of(RULE, "live")[0].points) == repr(POINTS)


def test_proofs_given_at_birth_count() -> None:
    ledger = Ledger("b", ("alert/A",), [Proof("alert/A", "live", "c", False, "s")])
    assert ledger.state("alert/A", "live") == "failed"


def test_what_a_file_says_of_states_is_not_believed() -> None:
    plain = small().to_dict()
    plain["items"][2]["states"]["live"] = "proven"
    plain["levels"]["live"] = {"items": 4, "proven": 4, "failed": 0, "unproven": 0}
    ledger = Ledger.from_dict(plain)
    assert ledger.state(PANEL, "live") == "unproven"
    assert ledger.counts("live") == {"items": 4, "proven": 1, "failed": 1, "unproven": 2}


def test_keys_of_later_versions_and_of_check_are_passed_over() -> None:
    plain = {**small().to_dict(), "findings": [], "promtools": ["promtool 3.5.3"]}
    plain["items"][0]["proofs"][0]["colour"] = "green"
    assert Ledger.from_dict(plain).to_dict() == small().to_dict()


def test_what_is_absent_is_empty() -> None:
    proof = {"level": "live", "claim": "c", "holds": True}
    ledger = Ledger.from_dict({"bundle": "b", "items": [{"item": "alert/A", "proofs": [proof]}]})
    assert ledger.of("alert/A", "live") == [Proof("alert/A", "live", "c", True, "")]


def set_at(*path: Any) -> Callable[[Any], None]:
    """Changes plain data: the last of `path` is the new value; no value removes the key."""

    def act(plain: Any) -> None:
        *keys, last, value = path
        for key in keys:
            plain = plain[key]
        if value is ...:
            del plain[last]
        else:
            plain[last] = value

    return act


PROOF = ("items", 0, "proofs", 3)
NO_LEVEL = "is no level (static, simulated, live)"
WRONG: list[tuple[Callable[[Any], None], str]] = [
    (set_at("bundle", ...), "bundle: is missing"),
    (set_at("bundle", 3), "bundle: expected a text, found 3"),
    (set_at("items", ...), "items: is missing"),
    (set_at("items", {}), "items: expected a list, found {}"),
    (set_at("items", 1, "x"), 'items[1]: expected an object, found "x"'),
    (set_at("items", 1, "item", RULE), f"items[1].item: {RULE!r} is listed twice"),
    (set_at("items", 0, "beyond", ["never"]), f'items[0].beyond[0]: "never" {NO_LEVEL}'),
    (set_at("items", 2, "reasons", "liv", "x"), f'items[2].reasons.liv: "liv" {NO_LEVEL}'),
    (set_at("items", 2, "reasons", "live", None), "items[2].reasons.live: expected a text, found null"),
    (set_at("items", 0, "about", "unit", 1), "items[0].about.unit: expected a text, found 1"),
    (set_at(*PROOF, "level", "Live"), f'items[0].proofs[3].level: "Live" {NO_LEVEL}'),
    (set_at(*PROOF, "claim", ...), "items[0].proofs[3].claim: is missing"),
    (set_at(*PROOF, "holds", 1), "items[0].proofs[3].holds: expected true or false, found 1"),
    (set_at(*PROOF, "series", True), "items[0].proofs[3].series: expected a whole number, found true"),
    (set_at(*PROOF, "value", "0.5"), 'items[0].proofs[3].value: expected a number, found "0.5"'),
    (set_at(*PROOF, "value", 10**400), "items[0].proofs[3].value: the number is too large"),
    (set_at(*PROOF, "points", [[1, 2], [3]]), "items[0].proofs[3].points[1]: expected a time and a value"),
    (set_at(*PROOF, "points", [[1, None]]), "items[0].proofs[3].points[0][1]: expected a number, found null"),
    (set_at(*PROOF, "item", ALERT), f"items[0].proofs[3].item: this proof is listed under {RULE!r}"),
    (set_at(*PROOF, "kind", "guess"), 'items[0].proofs[3].kind: "guess" is none of vllm, '),
    (set_at("run", "seconds", 4), "run.seconds: expected a text, found 4"),
    (set_at("runs", [{"a": []}]), "runs[0].a: expected a text, found []"),
    (set_at("notes", "one"), 'notes: expected a list, found "one"'),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), WRONG, ids=[said[:60] for _, said in WRONG])
def test_what_is_wrong_is_named_with_its_place(change: Callable[[Any], None], said: str) -> None:
    plain = copy.deepcopy(small().to_dict())
    change(plain)
    with pytest.raises(InputError) as caught:
        Ledger.from_dict(plain, "mine.json")
    assert str(caught.value).startswith(f"mine.json: {said}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"bundle": "b",\n "items" 3}', ":2:10: this is no JSON: "),
        (b"", ":1:1: this is no JSON: "),
        (b"[1, 2]", ": this is no ledger: it is no JSON object"),
        (b"\xff\xfe\x00", ": this is no JSON: "),
        (b"[" * 100_000, ": this is no JSON: "),
        (b'{"bundle": ' + b"9" * 5000 + b"}", ": this is no JSON: "),
    ],
    ids=["syntax", "empty", "list", "bytes", "deep", "digits"],
)
def test_what_is_no_json_is_refused_in_one_line(tmp_path: Path, text: bytes, said: str) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(text)
    with pytest.raises(InputError) as caught:
        read_ledger(path)
    assert str(caught.value).startswith(f"{path}{said}")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*: No such file"):
        read_ledger(tmp_path / "none.json")
    with pytest.raises(InputError, match=r"cannot read .*: Is a directory"):
        read_ledger(tmp_path)
