"""`monitorgen report`: ledgers of several runs put together, shown and written; and `check --report`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest

from monitorgen.prove.ledger import Ledger, Proof

ITEMS = ("record/model:ttft:p90", "alert/TTFTHigh/warning")


@pytest.fixture
def laptop(tmp_path: Path) -> Path:
    """The rule is proven live by a recording; the alert is unproven."""
    ledger = Ledger("chat", ITEMS, run={"prometheus": "3.5.3"})
    ledger.add(Proof(item, level, "holds", True, "s") for item in ITEMS for level in ("static", "simulated"))  # type: ignore[arg-type]
    ledger.add([Proof(ITEMS[0], "live", "has values", True, "Prometheus", kind="replayed")])
    ledger.unproven(ITEMS[1], "live", "needs a CUDA device")
    path = tmp_path / "laptop.json"
    path.write_text(ledger.to_json())
    return path


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """Both are proven live by a real vLLM."""
    ledger = Ledger("chat", ITEMS, run={"prometheus": "2.53.3"})
    ledger.add(Proof(item, "live", "has values", True, "Prometheus", kind="vllm") for item in ITEMS)
    path = tmp_path / "server.json"
    path.write_text(ledger.to_json())
    return path


def test_one_ledger_is_shown_with_its_reasons_and_sources(run: Callable[..., Any], laptop: Path) -> None:
    ran = run("report", laptop)
    assert ran.code == 0
    assert ran.err == ""
    assert "unproven (live) 1 item: needs a CUDA device\n  alert/TTFTHigh/warning\n" in ran.out
    lines = [" ".join(line.split()) for line in ran.out.splitlines()]
    assert "recording rules 1 1 of 1 proven 1 of 1 proven 1 of 1 proven" in lines
    assert "alerts 1 1 of 1 proven 1 of 1 proven 0 of 1 proven" in lines
    assert "proven live by recording rules alerts all" in lines
    assert "replayed: recordings of a real server, played back 1 - 1" in lines
    assert lines[-1] == "5 proofs"


def test_what_one_run_lacks_another_has(run: Callable[..., Any], laptop: Path, server: Path) -> None:
    assert run("report", laptop, "--require", "live").code == 1
    ran = run("report", laptop, server, "--require", "live", "--require", "static")
    assert ran.code == 0
    assert "needs a CUDA device" not in ran.out
    lines = [" ".join(line.split()) for line in ran.out.splitlines()]
    assert "vllm: a real vLLM that this run started 1 1 2" in lines
    assert not any(line.startswith("replayed") for line in lines)
    assert run("report", server, "--require", "simulated").code == 1
    assert run("report", server, "--require", "live").code == 0


def test_a_failure_in_one_run_is_the_exit_code(
    run: Callable[..., Any], tmp_path: Path, laptop: Path, server: Path
) -> None:
    failed = Ledger("chat", ITEMS)
    failed.add(
        [Proof(ITEMS[0], "live", "has values", False, "Prometheus", "ttft > 1", "no series matches x")]
    )
    path = tmp_path / "failed.json"
    path.write_text(failed.to_json())
    ran = run("report", server, path, laptop)
    assert ran.code == 1
    assert "failed record/model:ttft:p90" in ran.out
    assert "asked    ttft > 1" in ran.out
    assert "answer   no series matches x" in ran.out
    assert ran.out.endswith("8 proofs, 1 of them failed\n")


def test_each_suffix_is_a_format(run: Callable[..., Any], tmp_path: Path, laptop: Path, server: Path) -> None:
    out = tmp_path / "new" / "folder"
    names = ("ledger.json", "junit.xml", "page.html", "again.HTML")
    ran = run("report", laptop, server, "-q", *(f"--out={out / name}" for name in names))
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    merged = Ledger.from_json((out / "ledger.json").read_text())
    assert merged.runs == [{"prometheus": "3.5.3"}, {"prometheus": "2.53.3"}]
    assert merged.counts("live")["proven"] == 2
    assert Xml.fromstring((out / "junit.xml").read_text()).get("tests") == "6"
    text = (out / "page.html").read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert (out / "again.HTML").read_text() == text
    # What was merged can be merged again, and nothing comes of that.
    ran = run("report", out / "ledger.json", laptop, server, "-q", "-o", out / "more.json")
    assert (out / "more.json").read_text() == (out / "ledger.json").read_text()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("report.pdf", "its suffix says no format (.json for the ledger, .xml for JUnit, .html for a page)"),
        ("report", "its suffix says no format"),
        (".", "it is a folder"),
        ("laptop.json/x.html", "cannot write"),
    ],
)
def test_places_that_cannot_be_written_are_refused_first(
    refused: Callable[..., str], tmp_path: Path, laptop: Path, name: str, said: str
) -> None:
    before = laptop.read_bytes()
    assert said in refused("report", laptop, "--out", tmp_path / "good.html", "--out", tmp_path / name)
    assert laptop.read_bytes() == before


def test_ledgers_of_other_bundles_are_refused_by_name(
    refused: Callable[..., str], tmp_path: Path, laptop: Path
) -> None:
    other = tmp_path / "other.json"
    other.write_text(Ledger("chat", (*ITEMS, "scrape/vllm")).to_json())
    assert f"only {other} has scrape/vllm" in refused("report", laptop, other, "--out", "x.html")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ":1:1: this is no JSON"),
        ("[]", "this is no ledger"),
        ('{"bundle": "b"}', "items: is missing"),
        (
            '{"bundle": "b", "items": [{"item": "a", "proofs": [{"level": "x"}]}]}',
            'items[0].proofs[0].level: "x" is',
        ),
    ],
)
def test_files_that_are_no_ledgers_are_refused_with_the_place(
    refused: Callable[..., str], tmp_path: Path, laptop: Path, text: str, said: str
) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(text)
    assert f"{bad}" in (told := refused("report", laptop, bad))
    assert said in told
    assert "cannot read" in refused("report", tmp_path / "none.json")


def test_check_writes_reports_too(run: Callable[..., Any], tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("l.json", "l.xml", "l.html")]
    options = [f"--report={path}" for path in paths]
    ran = run("check", "--profile", "baseline", "--level", "static", *options)
    assert ran.code == 0
    plain = json.loads(paths[0].read_text())
    assert plain["levels"]["static"]["unproven"] == 0
    assert {one["about"]["signal"] for one in plain["items"]} > {"ttft", "kv_cache_usage"}
    assert len(list(Xml.fromstring(paths[1].read_text()).iter("testcase"))) == sum(
        plain["levels"][level]["items"] for level in plain["levels"]
    )
    assert "Ledger of baseline" in paths[2].read_text()
    assert run("report", paths[0], "-q", "--require", "static").code == 0


def test_check_refuses_a_report_before_it_begins(refused: Callable[..., str]) -> None:
    assert "its suffix says no format" in refused("check", "--profile", "baseline", "--report", "x.txt")
