"""Rule files of all sorts, and every way in which they can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitorgen.bundle import AlertRule, RecordingRule, RuleGroup
from monitorgen.errors import InputError
from monitorgen.readers import read_rules
from monitorgen.readers import source as source_module

GOOD = """\
# a comment
groups:
  - name: g
    interval: 1m30s
    labels: {team: ml, severity: info}
    rules:
      - record: a:b:c
        expr: |-
          sum(
            x
          )
      - alert: Down
        expr: up == 0
        for: 5m
        keep_firing_for: 1h
        labels:
          severity: critical
          number: 1e3
          yes: no
        annotations:
          summary: "{{ $labels.job }}: down"
  - name: empty
    rules:
"""


def read(tmp_path: Path, text: str | bytes, name: str = "r.yaml"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_rules(path)


def test_a_rule_file_reads_as_it_stands(tmp_path):
    assert read(tmp_path, GOOD) == (
        RuleGroup(
            "g",
            (
                RecordingRule("a:b:c", "sum(\n  x\n)", labels=(("severity", "info"), ("team", "ml"))),
                AlertRule(
                    "Down",
                    "up == 0",
                    hold=300.0,
                    keep_firing_for=3600.0,
                    labels=(("number", "1e3"), ("severity", "critical"), ("team", "ml"), ("yes", "no")),
                    annotations=(("summary", "{{ $labels.job }}: down"),),
                ),
            ),
            interval=90.0,
            file=str(tmp_path / "r.yaml"),
        ),
        RuleGroup("empty", (), file=str(tmp_path / "r.yaml")),
    )


def test_every_rule_knows_its_line_and_column(tmp_path):
    group = read(tmp_path, GOOD)[0]
    assert (group.origin.line, group.origin.column) == (3, 5)
    assert [(rule.origin.line, rule.origin.column) for rule in group.rules] == [(7, 9), (12, 9)]
    assert group.rules[1].origin.path == "groups[0].rules[1]"
    assert group.rules[1].origin.file.endswith("r.yaml")


RESOURCE = """\
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: {name: x}
spec:
  groups:
  - name: %s
    rules:
    - record: a:b:c
      expr: 1
"""


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (RESOURCE % "one", ["one"]),
        (RESOURCE % "one" + "---\n" + RESOURCE % "two", ["one", "two"]),
        ("kind: ConfigMap\ndata: {}\n---\n" + RESOURCE % "two", ["two"]),
        ("kind: List\nitems:\n- " + (RESOURCE % "in").replace("\n", "\n  "), ["in"]),
        ("namespace: mimir\ngroups: [{name: m}]", ["m"]),
        ("groups:\n", []),
        ("\ufeffgroups: [{name: bom}]", ["bom"]),
    ],
)
def test_resources_lists_and_several_documents(tmp_path, text, names):
    assert [group.name for group in read(tmp_path, text)] == names


RULE = "groups:\n- name: g\n  rules:\n  - "

BAD = [
    ("groups: [", "not YAML", (1, 10)),
    ("groups:\n\t- name: x", "not YAML", (2, 1)),
    ("a: b: c", "not YAML", (1, 5)),
    (b"groups:\n- name: \xff", "not UTF-8", (2, 9)),
    (b"groups:\n- name: a\x00b", "not YAML", (2, 10)),
    ("", "is empty", (0, 0)),
    ("# only words\n", "is empty", (0, 0)),
    ("- a", "mapping", (1, 1)),
    ("just text", "mapping", (1, 1)),
    ("x: 1", "no rule groups", (1, 1)),
    ("groups: {}", "list", (1, 9)),
    ("groups: []\nrules: []", "no key 'rules'", (2, 1)),
    ("groups:\n- rules: []", "no name", (2, 3)),
    ("groups:\n- name: [a]", "single value", (2, 9)),
    ("groups:\n- {name: a, ruls: []}", "no key 'ruls'", (2, 13)),
    ("groups:\n- name: a\n- name: a", "twice", (3, 3)),
    ("groups:\n- name: a\n  name: b", "'name' stands here twice", (3, 3)),
    ("groups:\n- name: a\n  interval: 5x", "interval", (3, 13)),
    (RULE + "expr: x", "neither", (4, 5)),
    (RULE + "{record: a, alert: b, expr: x}", "both", (4, 5)),
    (RULE + "record: a", "no `expr`", (4, 5)),
    (RULE + "{record: a, expr: ' '}", "no `expr`", (4, 5)),
    (RULE + "{alert: '', expr: x}", "`alert` is empty", (4, 13)),
    (RULE + "{record: a, expr: x, for: 5m}", "no key 'for'", (4, 26)),
    (RULE + "{alert: a, expr: x, anotations: {}}", "no key 'anotations'", (4, 25)),
    (RULE + "{alert: a, expr: x, for: 300}", "`for`", (4, 30)),
    (RULE + "{alert: a, expr: x, labels: [a]}", "mapping", (4, 33)),
    (RULE + "{alert: a, expr: x, labels: {a: [b]}}", "single value", (4, 37)),
    ("a: &a [1]\ngroups: *a", "aliases", (2, 9)),
    ("groups: &g [*g]", "aliases", (1, 13)),
    ("groups: *nowhere", "aliases", (1, 9)),
    ("groups: !!python/object:os.system []", "tag", (1, 9)),
    ("groups: !include x", "tag", (1, 9)),
    ("groups:\n- {<<: {a: b}, name: x}", "no key '<<'", (2, 4)),
    ("groups: " + "[" * 100, "nested", (1, 72)),
    ("groups: " + "[" * 90 + "]" * 90, "nested", (1, 72)),
    ("groups: " + "[" * 1_000_000, "nested", (1, 72)),
    ("a: " + "{a: " * 100_000, "nested", (1, None)),
]


@pytest.mark.parametrize(("text", "message", "place"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_a_broken_file_gets_one_message_with_its_place(tmp_path, text, message, place):
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path, text)
    origin = error.value.origin
    assert origin.file == str(tmp_path / "r.yaml")
    assert origin.line == place[0]
    assert place[1] is None or origin.column == place[1]
    assert "\n" not in str(error.value)


def test_a_misspelt_key_gets_the_nearest(tmp_path):
    with pytest.raises(InputError) as error:
        read(tmp_path, RULE + "{alert: a, expr: x, anotations: {}}")
    assert error.value.hint == "did you mean 'annotations'?"


def test_billions_of_laughs_are_refused_at_once(tmp_path):
    lines = ["a0: &a0 [lol, lol]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60)]
    with pytest.raises(InputError, match="aliases"):
        read(tmp_path, "\n".join(lines) + "\ngroups: []")


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_what_is_no_file_is_said_so(tmp_path, name):
    with pytest.raises(InputError):
        read_rules(tmp_path / name)


def test_a_huge_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(source_module, "LARGEST", 100)
    with pytest.raises(InputError, match="larger than"):
        read(tmp_path, "#" * 101)
    assert read(tmp_path, "groups: []".ljust(100)) == ()


def pieces(text: str) -> st.SearchStrategy[str]:
    """The text with something put in or cut out somewhere."""
    places = st.integers(0, len(text))
    return st.tuples(places, places, st.text("*&!{}[]:-#|>'\"\n\t ab~?%@`,", max_size=3)).map(
        lambda cut: text[: cut[0]] + cut[2] + text[cut[0] + (cut[1] % 4) :]
    )


@given(st.text() | pieces(GOOD) | pieces(RESOURCE))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    refused = None
    try:
        assert isinstance(read_rules(path), tuple)
    except InputError as error:
        refused = error
    assert refused is None or str(path) in str(refused)
