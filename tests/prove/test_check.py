"""`check`: profiles and written folders, with promtool and without it, and what a person is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from monitorgen.bundle import Origin
from monitorgen.cli import cli
from monitorgen.errors import MonitorgenError
from monitorgen.prove.check import CheckResult
from monitorgen.prove.ledger import Ledger, Proof
from monitorgen.prove.report import print_ledger


def run(*arguments: str) -> Result:
    """What the command line does; the errors that its entry point prints come as exceptions here."""
    return CliRunner().invoke(cli, list(arguments))


@pytest.fixture
def no_promtool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MONITORGEN_PROMTOOL", raising=False)
    monkeypatch.setenv("PATH", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "bundle"
    assert run("build", "--profile", "baseline", "--out", str(path)).exit_code == 0
    return path


@pytest.mark.usefixtures("no_promtool")
def test_without_promtool_nothing_is_simulated_and_the_ledger_says_so() -> None:
    result = run("check", "--profile", "baseline")
    assert result.exit_code == 0
    assert "promtool was not found" in result.output
    assert "0 of 3 proven" in result.output
    assert run("check", "--profile", "baseline", "--require").exit_code == 1
    assert run("check", "--profile", "baseline", "--level", "static", "--require").exit_code == 0


@pytest.mark.usefixtures("no_promtool")
def test_the_json_ledger_names_each_unproven_item_with_its_reason() -> None:
    plain = json.loads(run("check", "--profile", "baseline", "--format", "json").output)
    states = {one["item"]: one["states"]["simulated"] for one in plain["items"]}
    assert states.pop("scrape/vllm") == "none"
    assert set(states.values()) == {"unproven"}
    assert all("promtool" in i["reasons"]["simulated"] for i in plain["items"] if i["item"] in states)
    assert plain["promtools"] == []


def test_a_promtool_that_is_not_there_is_a_missing_tool(tmp_path: Path) -> None:
    result = run("check", "--profile", "baseline", "--promtool", str(tmp_path / "none"))
    assert isinstance(result.exception, MonitorgenError)
    assert result.exception.exit_code == 3
    assert "cannot be run" in str(result.exception)


def test_a_written_folder_is_proven_by_the_profile_that_its_manifest_names(
    folder: Path, one_promtool: Path
) -> None:
    result = run("check", str(folder), "--promtool", str(one_promtool), "--require")
    assert result.exit_code == 0, result.output
    assert "9 of 9 proven" in result.output


def test_what_was_changed_in_a_folder_is_shown_with_its_place_in_the_profile(
    folder: Path, tmp_path: Path, one_promtool: Path
) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            copy = tmp_path / file.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    alerts = tmp_path / "rules" / "alerts.yaml"
    text = alerts.read_text()
    start, end = text.index("  - alert: KVCacheHigh"), text.index("  - alert: QueueStalled")
    assert "for: 10m" in text[end:]
    alerts.write_text(text[:start] + text[end:].replace("for: 10m", "for: 12m"))
    result = run("check", str(tmp_path), "--promtool", str(one_promtool))
    assert result.exit_code == 1
    lines = result.output.splitlines()
    gone = next(i for i, line in enumerate(lines) if line.startswith("failed alert/KVCacheHigh/warning"))
    assert "baseline.yaml:" in lines[gone]
    assert "no file holds it" in lines[gone + 2]
    later = next(i for i, line in enumerate(lines) if line.startswith("failed alert/QueueStalled/critical"))
    assert "fires after its `for`" in lines[later + 1]
    assert "1 of 3 proven, 2 failed" in result.output


def test_a_folder_without_a_manifest_needs_a_profile(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "alerts.yaml").write_text((folder / "rules" / "alerts.yaml").read_text())
    result = run("check", str(tmp_path))
    assert isinstance(result.exception, MonitorgenError)
    assert result.exception.exit_code == 2
    assert "--profile" in str(result.exception)


ANSWER = "exp: {a=" + '"x"' * 60 + "} 1E+00\n        got: {a=" + '"x"' * 60 + "} 2E+00"


def ledger_of_everything() -> CheckResult:
    ledger = Ledger("own", ("record/a:b", "alert/A/warning", "panel/uid/P", "scrape/s"))
    ledger.beyond["scrape/s"] = ("simulated",)
    ledger.dormant = {"gone": "no engine exports it", "OnGone": "its signal gone is dormant"}
    for version in ("2.42.0", "3.5.3"):
        ledger.add(
            [Proof("record/a:b", "simulated", "its value", False, f"promtool {version}", "a:b", ANSWER, "5m")]
        )
    ledger.add([Proof(item, "static", "no check complains", True, "checks") for item in ledger.items])
    ledger.unproven("alert/A/warning", "simulated", "no scenario was found")
    ledger.unproven("panel/uid/P", "simulated", "no scenario was found")
    return CheckResult(ledger, (), ("promtool 2.42.0",), {"record/a:b": Origin("own.yaml", 3, 5)})


def test_the_report_is_short_and_says_what_where_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    print_ledger(ledger_of_everything(), level="simulated", everything=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["failed", "record/a:b", "own.yaml:3:5"]
    assert "its value (simulated; promtool 2.42.0, 3.5.3)" in lines[1]
    assert lines[2].split(None, 1) == ["asked", "at 5m: a:b"]
    # Both values are cut to where they differ.
    assert lines[3].split()[0] == "expected"
    assert lines[3].endswith("1E+00")
    assert lines[4].split()[0] == "got"
    assert lines[4].endswith("2E+00")
    assert "unproven (simulated) 2 items: no scenario was found" in lines
    assert "dormant: gone (and OnGone): no engine exports it" in lines
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize(("level", "require", "code"), [("static", True, 0), ("simulated", False, 1)])
def test_a_failed_proof_is_exit_code_1(level: str, require: bool, code: int) -> None:
    result = ledger_of_everything()
    if level == "static":
        result.ledger.proofs[:] = [proof for proof in result.ledger.proofs if proof.holds]
    assert result.exit_code(level, require=require) == code
