"""An alert silences a less urgent one only where it certainly says the same of the same target."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitorgen.build import build
from monitorgen.profile import load_profile


def silenced(name: str) -> dict[str, tuple[str, ...]]:
    return {
        alert.alert: alert.silences for alert in build(load_profile(name)).bundle.alerts if alert.silences
    }


def test_the_shipped_profiles_silence_a_warning_under_its_critical_alert_and_nothing_else() -> None:
    assert silenced("baseline") == {}
    assert silenced("optimized") == {"TTFTCritical": ("TTFTHigh",), "KVCacheCritical": ("KVCacheHigh",)}


# What the alert Loud and the warning Soft watch, the severity of Loud, and whether Soft is silenced.
CASES: dict[str, tuple[str, str, str, bool]] = {
    "the same signal, further up": ("kv_cache_usage > 98%", "kv_cache_usage > 90%", "critical", True),
    "at least instead of above": ("kv_cache_usage >= 98%", "kv_cache_usage > 90%", "critical", True),
    "further down": ("finished < 1", "finished < 2", "critical", True),
    "another part of it": ("ttft.p99 > 2s", "ttft.p90 > 1s", "critical", True),
    "less urgent than critical": ("kv_cache_usage > 98%", "kv_cache_usage > 90%", "info", False),
    "as urgent": ("kv_cache_usage > 98%", "kv_cache_usage > 90%", "warning", False),
    "the other direction": ("finished > 100", "finished < 2", "critical", False),
    "another signal": ("prefill.p90 > 2s", "ttft.p90 > 1s", "critical", False),
    "a change, not a direction": ("finished != 1", "finished != 2", "critical", False),
    "one that watches more": ("finished < 1 and active > 9", "finished < 2", "critical", True),
    "one that watches less": ("finished < 1", "finished < 2 and active > 9", "critical", False),
    "a label that is not kept": ("by_reason > 9", "by_reason > 1", "critical", False),
    "other labels": ("target_up < 1", "finished < 1", "critical", False),
}
PROFILE = """
extends: optimized
alerts:
  TTFTHigh: null
  TTFTCritical: null
  KVCacheHigh: null
  KVCacheCritical: null
  QueueStalled: null
  {loud}
  {soft}
signals:
  by_reason: {{help: Of each reason., family: vllm:request_success_total, by: [finished_reason]}}
"""
ALERT = "{name}: {{when: '{when}', for: 1m, severity: {severity}, summary: Look at this, action: Do that.}}"


@pytest.mark.parametrize(("loud", "soft", "severity", "wanted"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("traffic", ["", "running > 1"], ids=["always", "traffic"])
def test_who_silences_whom(
    loud: str, soft: str, severity: str, wanted: bool, traffic: str, tmp_path: Path
) -> None:
    first = ALERT.format(name="Loud", when=loud, severity=severity)
    second = ALERT.format(name="Soft", when=soft, severity="warning")
    if traffic:  # whether there is traffic is no complaint: it does not count
        second = second.replace("for:", f"traffic: '{traffic}', for:")
    path = tmp_path / "p.yaml"
    path.write_text(PROFILE.format(loud=first, soft=second))
    expected = {"Loud": ("Soft",)} if wanted else {}
    if severity == "info" and not wanted and "kv" in loud:
        expected = {"Soft": ("Loud",)}  # then the warning is the more urgent one
    ours = {"Loud", "Soft"}
    found = {name: ours.intersection(others) for name, others in silenced(str(path)).items() if name in ours}
    assert {name: tuple(others) for name, others in found.items() if others} == expected
