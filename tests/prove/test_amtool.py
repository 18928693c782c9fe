"""Static proofs of alerts' routes: amtool is asked, and what it says is what the ledger holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from monitorgen.build import build
from monitorgen.bundle import AlertRule, Bundle, RuleGroup
from monitorgen.errors import ToolMissing
from monitorgen.profile import load_profile
from monitorgen.prove import amtool as room
from monitorgen.prove.amtool import Amtool, amtool_proofs, ask_amtools, find_amtools
from monitorgen.prove.check import check_built
from monitorgen.prove.ledger import Ledger

ALERTS = tuple(
    AlertRule(name, "up == 0", labels=(("severity", severity),))
    for name, severity in (("Down", "critical"), ("Slow", "warning"), ("Odd", "info"), ("Late", "warning"))
)
BUNDLE = Bundle("b", groups=(RuleGroup("g", ALERTS),), keep=("job",))
BAD = "route: {receiver: nobody}\nreceivers: [{name: page}]\n"


def ledger_of(bundle: Bundle, tool: Path) -> Ledger:
    ledger = Ledger("b", tuple(bundle.items))
    amtool_proofs(bundle, ask_amtools(bundle, [Amtool(str(tool))]), ledger)
    return ledger


def test_every_alert_is_proven_to_reach_its_receiver(amtool: Path) -> None:
    ledger = ledger_of(BUNDLE, amtool)
    assert {proof.item: (proof.holds, proof.answer) for proof in ledger.proofs} == {
        "alert/Down/critical": (True, "page"),
        "alert/Slow/warning": (True, "notify"),
        "alert/Odd/info": (True, "log"),
        "alert/Late/warning": (True, "notify"),
    }
    for proof in ledger.proofs:
        assert proof.level == "static"
        assert proof.source.startswith("amtool 0.")


def refused(_: str) -> str:
    return BAD


def elsewhere(text: str) -> str:
    return text.replace('severity="critical"', 'severity="fatal"')


def twice(text: str) -> str:
    """The page goes on to the next route, which takes everything."""
    on = text.replace("receiver: page\n    group", "receiver: page\n    continue: true\n    group")
    return on.replace('severity="warning"', 'severity=~".+"')


WRONG = {
    "a config that it refuses": (refused, 'undefined receiver "nobody"'),
    "a route that leads elsewhere": (elsewhere, "notify"),
    "a second route": (twice, "page,notify"),
}


@pytest.mark.parametrize(("change", "answer"), WRONG.values(), ids=WRONG)
def test_a_wrong_config_fails_with_amtools_words(
    change: Callable[[str], str], answer: str, amtool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = room.alertmanager_config
    changed = change(right(BUNDLE))
    assert changed != right(BUNDLE)
    monkeypatch.setattr(room, "alertmanager_config", lambda bundle: changed)
    (proof,) = [one for one in ledger_of(BUNDLE, amtool).proofs if one.item == "alert/Down/critical"]
    assert not proof.holds
    assert answer in proof.answer
    assert "\n" not in proof.answer


def test_a_bundle_without_alerts_asks_nobody(tmp_path: Path) -> None:
    assert ledger_of(Bundle("b"), tmp_path / "none").proofs == []


def test_check_asks_amtool_where_it_is_and_says_where_it_is_not(
    amtool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build(load_profile("baseline"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("MONITORGEN_PROMTOOL", raising=False)
    monkeypatch.delenv("MONITORGEN_AMTOOL", raising=False)
    without = check_built(built, built.bundle, "static", [])
    assert any("amtool was not found" in note for note in without.ledger.notes)
    monkeypatch.setenv("MONITORGEN_AMTOOL", str(amtool))
    asked = check_built(built, built.bundle, "static", []).ledger
    assert not any("amtool" in note for note in asked.notes)
    proven = {proof.item for proof in asked.proofs if proof.source.startswith("amtool") and proof.holds}
    assert proven == {alert.id for alert in built.bundle.alerts}


def test_amtools_come_from_the_environment_then_from_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("MONITORGEN_AMTOOL", raising=False)
    assert find_amtools() == []
    (tmp_path / "amtool").write_text("#!/bin/sh\necho hello\n")
    (tmp_path / "amtool").chmod(0o755)
    assert find_amtools() == [Amtool(str(tmp_path / "amtool"))]
    assert find_amtools()[0].version == "unknown"
    monkeypatch.setenv("MONITORGEN_AMTOOL", "/nowhere/a:/nowhere/b:/nowhere/a")
    assert [tool.path for tool in find_amtools()] == ["/nowhere/a", "/nowhere/b"]
    with pytest.raises(ToolMissing, match="/nowhere/a cannot be run"):
        find_amtools()[0].check_config(tmp_path)
