"""By which source an alert counts as proven: the one on which it fired, not one on which it was silent."""

from __future__ import annotations

import pytest

from monitorgen.build import build
from monitorgen.profile import load_profile
from monitorgen.prove.alert_stage import SILENT
from monitorgen.prove.ledger import Kind, Ledger, Proof
from monitorgen.prove.session import NOT_ASKED, add_alerts
from monitorgen.prove.views import source_of

FIRES = "pending, then fires after its `for`"
ITEM = "alert/TTFTHigh/warning"


def proof(claim: str, kind: Kind) -> Proof:
    return Proof(ITEM, "live", claim, True, "Prometheus", kind=kind)


@pytest.mark.parametrize(
    ("proofs", "kind"),
    [
        ([proof(SILENT, "vllm"), proof(FIRES, "scenario")], "scenario"),
        ([proof(SILENT, "vllm"), proof(FIRES, "vllm"), proof(FIRES, "scenario")], "vllm"),
        ([proof("silent while calm", "scenario"), proof(FIRES, "scenario")], "scenario"),
        ([], None),
    ],
)
def test_an_alert_is_proven_by_what_it_fired_on(proofs: list[Proof], kind: Kind | None) -> None:
    ledger = Ledger("any", (ITEM,))
    ledger.add(proofs)
    assert source_of(ledger, ITEM) == kind


def test_silence_alone_proves_no_alert() -> None:
    built = build(load_profile("baseline"))
    ledger = Ledger("baseline", tuple(built.bundle.items))
    ledger.add([proof(SILENT, "vllm")])
    add_alerts(ledger, None, built)
    assert ledger.state(ITEM, "live") == "unproven"
    assert ledger.reasons[ITEM]["live"] == NOT_ASKED
