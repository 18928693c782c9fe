"""What promtool prints, recorded from three versions, and what is read out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitorgen.errors import ToolMissing
from monitorgen.prove.promtool import Promtool, find_promtools, parse_answers

ALERT_AND_EXPRESSIONS = r"""  FAILED:
    name: one, two,
    alertname: A, time: 2m, 
        exp:[
            0:
              Labels:{a="b", alertname="A"}
              Annotations:{s="v"}
            ], 
        got:[
            0:
              Labels:{a="é\"b", alertname="A"}
              Annotations:{s="v 3"}
            ]

    expr: "a:b", time: 2m,
        exp: {__name__="a:b"} 2E+00
        got: {__name__="a:b"} 3E+00

    expr: "x{a=\"é\\\"b\"}", time: 2m,
        exp: {__name__="a:b"} 2E+00
        got: {__name__="x", a="é\"b"} 3E+00

    expr: "rate(x", time: 2m30s, err: 1:7: parse error: unclosed left parenthesis

"""  # noqa: W291 - as promtool prints it
BAD_RULES = """  FAILED:
bad.yaml: 1:50: group "g", rule 1, "a:b": could not parse expression: 1:6: parse error: unclosed left par

"""
BAD_SERIES = """  FAILED:
1:4: parse error: unexpected character inside braces: '1'

    expr: "a:b", time: 2m,
        exp: nil
        got: {__name__="a:b"} 3E+00

"""
# Prometheus 2 says which file it is at; Prometheus 3 does not.
VERSION_2 = (
    f"Unit Testing:  1.yaml\n{ALERT_AND_EXPRESSIONS}\nUnit Testing:  2.yaml\n  SUCCESS\n\n"
    f"Unit Testing:  3.yaml\n{BAD_RULES}\nUnit Testing:  4.yaml\n{BAD_SERIES}"
)
VERSION_3 = f"{ALERT_AND_EXPRESSIONS}  SUCCESS\n\n{BAD_RULES}{BAD_SERIES}"


@pytest.mark.parametrize("text", [VERSION_2, VERSION_3], ids=["2", "3"])
def test_each_file_has_its_answer(text: str) -> None:
    mixed, fine, broken, partly = parse_answers(text)
    assert [(f.test, f.subject, f.time) for f in mixed.failures] == [
        ("one, two", "A", "2m"),
        ("", '"a:b"', "2m"),
        ("", r'"x{a=\"é\\\"b\"}"', "2m"),
        ("", '"rate(x"', "2m30s"),
    ]
    assert "3E+00" in mixed.failures[1].text
    assert mixed.failures[3].text == "err: 1:7: parse error: unclosed left parenthesis"
    assert mixed.trouble == ""
    assert (fine.failures, fine.trouble) == ((), "")
    assert broken.failures == ()
    assert "could not parse expression" in broken.trouble
    # An error that stops one test of a file is no reason to trust the others of it.
    assert [f.subject for f in partly.failures] == ['"a:b"']
    assert partly.trouble.startswith("1:4: parse error")


def stub(path: Path, body: str) -> Promtool:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return Promtool(str(path))


def test_a_promtool_that_gives_up_half_way_is_asked_file_by_file(tmp_path: Path) -> None:
    tool = stub(
        tmp_path / "promtool", 'shift 2; [ $# = 1 ] || exit 1; echo "  FAILED:"; echo "no: $1"; exit 1'
    )
    assert [answer.trouble for answer in tool.test_rules([Path("a"), Path("b")])] == ["no: a", "no: b"]


def test_a_promtool_that_dies_without_a_word_proves_nothing(tmp_path: Path) -> None:
    answers = stub(tmp_path / "promtool", "exit 7").test_rules([Path("a")])
    assert [answer.trouble for answer in answers] == ["exit status 7"]


def test_a_promtool_that_cannot_be_run_is_a_missing_tool(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing, match="cannot be run"):
        _ = Promtool(str(tmp_path / "none")).version


def test_promtools_are_those_given_or_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONITORGEN_PROMTOOL", "/a/promtool:/b/promtool:/a/promtool")
    assert [tool.path for tool in find_promtools()] == ["/a/promtool", "/b/promtool"]
    assert [tool.path for tool in find_promtools(["/c/promtool"])] == ["/c/promtool"]
    monkeypatch.delenv("MONITORGEN_PROMTOOL")
    monkeypatch.setenv("PATH", "")
    assert find_promtools() == []
