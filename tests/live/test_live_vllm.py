"""The whole bundle beside a real vLLM: silent under calm load, then everything that can be provoked.

One server has it all: n-gram speculation fills the speculative families, few cache blocks make it queue and
preempt, a short queue makes it reject. It runs uncompiled: that changes no metric and saves minutes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from monitorgen.build import build
from monitorgen.profile import load_profile
from monitorgen.prove.ledger import Ledger
from monitorgen.prove.report_live import print_proven
from monitorgen.prove.run import Outcome, prove_profile
from monitorgen.prove.saved import LedgerFile
from monitorgen.prove.session import Options
from monitorgen.prove.traffic import SERVER
from monitorgen.prove.workload import workload_python

SILENT = "silent under steady load"
DELIVERED = "reaches the receiver through Alertmanager"

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def outcome(one_prometheus: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """One run for all tests; its ledger is kept where MONITORGEN_LIVE_LEDGER or `make live` says."""
    file = LedgerFile(Path("dist") / "live.ledger.json")
    built = build(load_profile("optimized"))
    options = Options(
        replay=False, vllm=SERVER, workload=workload_python(), time_scale=60.0, binary=one_prometheus
    )
    return prove_profile(
        built, options, live_only=True, files=[file, LedgerFile(file.path.with_suffix(".html"))], say=print
    )


@pytest.fixture(scope="module")
def ledger(outcome: Outcome) -> Ledger:
    """Its ledger."""
    return outcome.ledger


def test_nothing_that_should_hold_fails(outcome: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print()
        print_proven(outcome, ())
    assert [(proof.item, proof.claim, proof.answer) for proof in outcome.ledger.failed] == []
    assert outcome.report is not None
    assert outcome.report.errors == ()


def test_every_alert_is_silent_under_steady_load(ledger: Ledger) -> None:
    alerts = [item for item in ledger.items if item.startswith("alert/")]
    silent = {
        proof.item
        for proof in ledger.proofs
        if proof.claim == SILENT and proof.kind == "vllm" and proof.holds
    }
    assert silent == set(alerts)


def test_alerts_fire_on_the_real_server(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that an operator's abort, a full queue and a server that hangs provoke on any machine."""
    fired = {
        p.item.split("/")[1] for p in ledger.proofs if p.claim == DELIVERED and p.kind == "vllm" and p.holds
    }
    with capsys.disabled():
        print(f"\nfired on the real server: {', '.join(sorted(fired))}")
    assert fired >= {"RequestsFailing", "RequestsRejected", "HTTPErrors", "TargetDown"}


def test_nine_of_ten_alerts_fire_live_and_reach_the_receiver(ledger: Ledger) -> None:
    alerts = [item for item in ledger.items if item.startswith("alert/")]
    fired = {proof.item for proof in ledger.proofs if proof.claim == DELIVERED and proof.holds}
    assert len(fired) >= 0.9 * len(alerts)


def test_every_rule_and_panel_has_values(ledger: Ledger) -> None:
    """What is unproven is what this machine cannot export, and nothing else."""
    open_items = {
        item: ledger.reasons[item]["live"]
        for item in ledger.items
        if ledger.state(item, "live") == "unproven"
    }
    if workload_python() is None:
        open_items = {item: why for item, why in open_items.items() if "workload" not in why}
    assert open_items == {}
