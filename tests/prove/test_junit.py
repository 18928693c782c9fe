"""The ledger as JUnit XML: what GitHub, GitLab and Jenkins read, whatever the ledger's texts hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree as Xml

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import ALERT, JOB, PANEL, QUERY, RULE, TEXTS, ledgers, small

from monitorgen.prove.junit import junit, xml_text
from monitorgen.prove.ledger import LEVELS, Ledger, Proof

# Element -> (attributes that it must have, that it may have, elements in it, text in it), as Jenkins's
# junit-10.xsd has it; the pattern of its times is not needed, since none are given.
SHAPE: dict[str, tuple[set[str], set[str], set[str], bool]] = {
    "testsuites": (set(), {"name", "tests", "failures", "errors"}, {"testsuite"}, False),
    "testsuite": (
        {"name", "tests", "failures", "errors"},
        {"skipped", "timestamp", "hostname", "id", "package"},
        {"properties", "testcase", "system-out", "system-err"},
        False,
    ),
    "properties": (set(), set(), {"property"}, False),
    "property": ({"name", "value"}, set(), set(), False),
    "testcase": ({"name"}, {"classname"}, {"skipped", "error", "failure", "system-out", "system-err"}, False),
    "failure": (set(), {"type", "message"}, set(), True),
    "skipped": (set(), {"type", "message"}, set(), True),
    "system-out": (set(), set(), set(), True),
}
NUMBERS = {"tests", "failures", "errors", "skipped"}


def problems(element: Xml.Element) -> Iterator[str]:
    """How an element, or one in it, is not as the schema wants it."""
    must, may, inner, text = SHAPE[element.tag]
    if missing := must - element.attrib.keys():
        yield f"{element.tag} lacks {missing}"
    if extra := element.attrib.keys() - must - may:
        yield f"{element.tag} has {extra}"
    if not text and (element.text or "").strip():
        yield f"{element.tag} has text"
    for name in NUMBERS & element.attrib.keys():
        if not re.fullmatch("[0-9]+", element.attrib[name]):
            yield f"{element.tag}.{name} is {element.attrib[name]!r}"
    for child in element:
        if child.tag in inner:
            yield from problems(child)
        else:
            yield f"{child.tag} in {element.tag}"


def read(ledger: Ledger) -> Xml.Element:
    """The XML as a reader of bytes sees it."""
    root = Xml.fromstring(junit(ledger).encode())
    assert list(problems(root)) == []
    return root


def case(root: Xml.Element, level: str, item: str) -> Xml.Element:
    kind, _, name = item.partition("/")
    (found,) = root.findall(
        f"testsuite[@name='{level}']/testcase[@classname='{level}.{kind}'][@name='{name}']"
    )
    return found


@pytest.mark.parametrize(
    "wrong",
    [
        "<testsuites><a/></testsuites>",
        "<testsuites><testsuite name='a'/></testsuites>",
        "<testsuites>x</testsuites>",
    ],
)
def test_the_shape_sees_what_it_is_for(wrong: str) -> None:
    assert list(problems(Xml.fromstring(wrong)))


def test_a_suite_for_each_level_with_a_case_for_each_item() -> None:
    root = read(small())
    assert [suite.get("name") for suite in root] == list(LEVELS)
    counts = [
        tuple(int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped"))
        for suite in root
    ]
    assert counts == [(4, 0, 0, 0), (3, 0, 0, 0), (4, 1, 0, 2)]
    assert (root.get("name"), root.get("tests"), root.get("failures")) == ("chat", "11", "1")
    for suite, (tests, failures, _, skipped) in zip(root, counts, strict=True):
        assert len(suite.findall("testcase")) == tests
        assert len(suite.findall("testcase/failure")) == failures
        assert len(suite.findall("testcase/skipped")) == skipped
    names = [(one.get("classname"), one.get("name")) for one in root.iter("testcase")]
    assert len(names) == len(set(names))
    assert JOB.partition("/")[2] not in {one.get("name") for one in root[1]}


def test_a_failure_says_what_was_asked_expected_and_got() -> None:
    failure = case(read(small()), "live", ALERT).find("failure")
    assert failure is not None
    assert failure.get("message") == 'labels and rendered annotations: exp: {a="1"}, got: {a="2"}'
    assert failure.text
    lines = failure.text.splitlines()
    assert lines[0] == "labels and rendered annotations (Prometheus 3.5.3)"
    assert 'expected: {a="1"}' in lines
    assert 'got:      {a="2"}' in lines
    assert "asked:    ALERTS" in lines


def test_what_is_unproven_is_skipped_with_its_reason() -> None:
    root = read(small())
    skipped = case(root, "live", PANEL).find("skipped")
    assert skipped is not None
    assert skipped.get("message") == "vllm:x is not exported by this server"
    assert case(root, "live", RULE).find("skipped") is None
    assert case(root, "live", RULE).findtext("system-out") == "holds  has values"


def test_what_was_never_asked_is_skipped_too() -> None:
    root = read(Ledger("b", ("alert/A",)))
    assert [one.get("message") for one in root.iter("skipped")] == ["nothing was asked of it"] * 3


def test_the_facts_of_the_runs_are_properties_of_the_live_suite() -> None:
    one = small()
    live = read(one).find("testsuite[@name='live']")
    assert live is not None
    assert live.get("timestamp") == "2026-01-31T12:00:00"
    found = {p.get("name"): p.get("value") for p in live.iter("property")}
    assert found == {"prometheus": "3.5.3", "started": "2026-01-31T12:00:00Z"}
    one.runs = [one.run, {"prometheus": "2.42.0", "started": "2026-01-30T12:00:00+02:00"}]
    live = read(one).find("testsuite[@name='live']")
    assert live is not None
    assert live.get("timestamp") == "2026-01-30T10:00:00"
    assert {p.get("name") for p in live.iter("property")} >= {"run 1: prometheus", "run 2: prometheus"}


def test_many_failures_of_an_item_are_one_of_bounded_length() -> None:
    ledger = Ledger("b", ("alert/A",))
    ledger.add(Proof("alert/A", "live", f"claim {i}", False, "s", QUERY, "x") for i in range(500))
    (failure,) = read(ledger).iter("failure")
    assert failure.text
    assert failure.text.endswith("and 480 more")
    assert failure.text.count("asked:") == 20


@given(ledgers())
def test_any_ledger_is_well_formed_and_loses_no_item(ledger: Ledger) -> None:
    root = read(ledger)
    for level, suite in zip(LEVELS, root, strict=True):
        concerned = [item for item in ledger.items if ledger.state(item, level) != "none"]
        names = [one.get("name") for one in suite.findall("testcase")]
        assert names == [xml_text(item.partition("/")[2] or item) for item in concerned]
        # A reader of attributes sees line breaks as we wrote them; nothing else may differ.
        reasons = [one.get("message") for one in suite.iter("skipped")]
        wanted = [
            xml_text(ledger.reasons.get(item, {}).get(level, "nothing was asked of it"))
            for item in concerned
            if ledger.state(item, level) == "unproven"
        ]
        assert reasons == wanted


@given(st.one_of(TEXTS, st.text(st.characters(codec="utf-8"))))
def test_only_what_xml_has_no_character_for_is_changed(text: str) -> None:
    made = xml_text(text)
    element = Xml.Element("a", b=made)
    element.text = made
    back = Xml.fromstring(Xml.tostring(element))
    assert (back.text or "", back.get("b")) == (made, made)
    legal = re.fullmatch("[\t\n\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*", text)
    assert (made == text) == bool(legal)


@pytest.mark.parametrize(
    ("text", "made"),
    [("\x1b[31m", "\\x1b[31m"), ("a\x00b", "a\\x00b"), ("\ud800", "\\ud800"), ("a\r\nb\r", "a\nb\n")],
)
def test_characters_without_a_place_in_xml_stay_readable(text: str, made: str) -> None:
    assert xml_text(text) == made
