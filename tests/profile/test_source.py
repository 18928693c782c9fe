"""YAML with places, and laying one document over another."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from monitorgen.errors import InputError
from monitorgen.profile.source import merge, parse_document

TEXT = """\
title: Ours
thresholds: {kv_warn: 90%, floor: 5}
signals:
  ttft:
    help: >-
      Time to
      first token.
    quantiles:
      - 0.5
      - 0.9
  # a comment
  other: {family: [a, b]}
"""
PLACES = {
    (): (1, 1),
    ("title",): (1, 1),
    ("thresholds",): (2, 1),
    ("thresholds", "kv_warn"): (2, 14),
    ("thresholds", "floor"): (2, 28),
    ("signals",): (3, 1),
    ("signals", "ttft"): (4, 3),
    ("signals", "ttft", "help"): (5, 5),
    ("signals", "ttft", "quantiles"): (8, 5),
    ("signals", "ttft", "quantiles", 0): (9, 9),
    ("signals", "ttft", "quantiles", 1): (10, 9),
    ("signals", "other"): (12, 3),
    ("signals", "other", "family"): (12, 11),
    ("signals", "other", "family", 0): (12, 20),
    ("signals", "other", "family", 1): (12, 23),
}


def document(text, name="p.yaml"):
    return parse_document(text.encode(), name)


def test_every_key_has_its_place():
    read = document(TEXT)
    assert {path: (at.line, at.column) for path, at in read.origins.items()} == PLACES
    assert str(read.origin(("signals", "ttft", "quantiles", 1))) == "p.yaml:10:9"
    assert read.origin(("signals", "ttft", "quantiles", 1)).path == "signals.ttft.quantiles[1]"


def test_what_has_no_place_takes_its_parents():
    assert str(document(TEXT).origin(("signals", "ttft", "by", 3))) == "p.yaml:4:3"
    assert str(document("").origin(("signals",))) == "p.yaml"


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.text(st.characters(codec="ascii"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.from_regex("[a-z]{1,5}", fullmatch=True), inner)
    ),
    max_leaves=12,
)


@given(plain)
def test_reads_what_a_dumper_writes(tree):
    text = yaml.safe_dump({"root": tree})
    assert document(text).data == {"root": tree}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"), ("on", "on"), ("true", True), ("False", False), ("null", None), ("~", None),
        ("''", ""),
        ("1:30", "1:30"), ("2024-01-01", "2024-01-01"), ("010", 10), ("1_000", 1000), ("0x10", "0x10"),
        ("1.5", 1.5), ("1e3", "1e3"), ("90%", "90%"), ("=", "="),
    ],
)  # fmt: skip
def test_scalars_are_of_the_plain_core(text, value):
    assert document(f"a: {text}").data == {"a": value}


BASE = "a: {x: 1, y: 2}\nl: [1, 2]\nt: old\n"


@pytest.mark.parametrize(
    ("over", "data"),
    [
        ("a: {x: 5}", {"a": {"x": 5, "y": 2}, "l": [1, 2], "t": "old"}),
        ("a: {z: 3}", {"a": {"x": 1, "y": 2, "z": 3}, "l": [1, 2], "t": "old"}),
        ("a: {x: null}", {"a": {"y": 2}, "l": [1, 2], "t": "old"}),
        ("l: [3]", {"a": {"x": 1, "y": 2}, "l": [3], "t": "old"}),
        ("t: new", {"a": {"x": 1, "y": 2}, "l": [1, 2], "t": "new"}),
        ("a: plain", {"a": "plain", "l": [1, 2], "t": "old"}),
        ("n: {m: {k: 1}}", {"a": {"x": 1, "y": 2}, "l": [1, 2], "t": "old", "n": {"m": {"k": 1}}}),
    ],
)
def test_merge(over, data):
    base, child = document(BASE, "base.yaml"), document(over, "child.yaml")
    before = yaml.safe_load(BASE)
    assert merge(base, child).data == data
    assert base.data == before, "merging changes neither"


def test_merged_places_are_in_their_own_files():
    merged = merge(document(BASE, "base.yaml"), document("a: {x: 5, n: [1]}\nl: [3]", "child.yaml"))
    places = {path: str(at) for path, at in merged.origins.items()}
    assert places["a", "x"] == "child.yaml:1:5"
    assert places["a", "n", 0] == "child.yaml:1:15"
    assert places["a", "y"] == "base.yaml:1:11"
    assert places["l", 0] == "child.yaml:2:5"
    assert ("l", 1) not in places
    assert places["t",] == "base.yaml:3:1"


def test_a_removed_key_is_remembered():
    merged = merge(document(BASE), document("\na: {x: null}", "child.yaml"))
    assert {path: str(at) for path, at in merged.removed.items()} == {("a", "x"): "child.yaml:2:5"}
    again = merge(merged, document("a: {x: 7}"))
    assert again.data["a"]["x"] == 7
    assert again.removed == {}


def test_nothing_to_remove():
    with pytest.raises(InputError, match=r"child.yaml:1:5: a.xx is empty.*did you mean 'x'"):
        merge(document(BASE), document("a: {xx: null}", "child.yaml"))


ROWS = "dashboard:\n- {row: A, panels: [one]}\n- {row: B, panels: [two]}\n"


def test_rows_of_one_title_merge():
    over = "dashboard:\n- {row: B, panels: [three, {signal: four}]}\n- {row: C, panels: [five]}\n"
    merged = merge(document(ROWS, "base.yaml"), document(over, "child.yaml"))
    assert [(row["row"], row["panels"]) for row in merged.data["dashboard"]] == [
        ("A", ["one"]),
        ("B", ["two", "three", {"signal": "four"}]),
        ("C", ["five"]),
    ]
    at = {path: str(origin) for path, origin in merged.origins.items()}
    assert at["dashboard", 1, "panels", 0] == "base.yaml:3:21"
    assert at["dashboard", 1, "panels", 1] == "child.yaml:2:21"
    assert at["dashboard", 1, "panels", 2, "signal"] == "child.yaml:2:29"
    assert at["dashboard", 2, "row"] == "child.yaml:3:4"


@pytest.mark.parametrize(
    "row", ["[]", "{row: [a], panels: [x]}", "{row: A, panels: x}", "{panels: [x]}", "5"]
)
def test_rows_of_no_shape_are_left_to_the_model(row):
    merged = merge(document(ROWS), document(f"dashboard: [{row}]"))
    assert merged.data["dashboard"][2] == yaml.safe_load(row)


values = st.recursive(
    st.integers(0, 9), lambda inner: st.dictionaries(st.sampled_from("abc"), inner), max_leaves=9
)
trees = st.dictionaries(st.sampled_from("abc"), values)


@given(trees, trees)
def test_the_child_wins_everywhere(base, over):
    merged = merge(document(yaml.safe_dump(base)), document(yaml.safe_dump(over)))

    def lay(below, above):
        if not (isinstance(below, dict) and isinstance(above, dict)):
            return above
        return {**below, **{key: lay(below.get(key), value) for key, value in above.items()}}

    assert merged.data == lay(base, over)
    known = {()} | set(all_paths(merged.data))
    assert known <= set(merged.origins) | {()}


def all_paths(tree, path=()):
    for key, value in tree.items() if isinstance(tree, dict) else ():
        yield (*path, key)
        yield from all_paths(value, (*path, key))
