"""Faults that copied monitoring has in the field, put into a correct bundle: each is caught at every level.

`promtool check rules` says SUCCESS to all of them but the broken query, which it does not see.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from monitorgen.build import build
from monitorgen.profile import load_profile
from monitorgen.prove import alert_course
from monitorgen.prove.adopt import adopted
from monitorgen.prove.check import CheckResult, check_bundle
from monitorgen.prove.ledger import Ledger
from monitorgen.prove.session import Options, prove_live
from monitorgen.readers import read_folder
from monitorgen.targets.files import about, bundle_files
from monitorgen.targets.writer import write

SOUND = "alert/KVCacheHigh/warning"  # has no fault, and must fire beside those that have
NEVER = "fires when provoked: never pending"
RECORDING, ALERTS, BOARD = "rules/recording.yaml", "rules/alerts.yaml", "dashboards/optimized.json"


@dataclass(frozen=True)
class Fault:
    """What is done to one file, and the item whose line in the ledger must fail by which check.

    On live metrics, that line, or the one of the alert `seen_at`, is in the state `state` and says `live`.
    """

    name: str
    file: str
    edit: Callable[[str], str]
    item: str
    check: str
    said: str
    state: str
    live: str
    seen_at: str = ""


def put(old: str, new: str) -> Callable[[str], str]:
    """Replace text that must be there."""

    def edit(text: str) -> str:
        assert old in text, old
        return text.replace(old, new)

    return edit


FAULTS = [
    Fault(
        "a family that was renamed: KV cache usage by its name before 0.9.2 only",
        RECORDING,
        put(
            """|2-
        max by (job, instance, model_name) (max_over_time(vllm:kv_cache_usage_perc[5m]))
      or
        max by (job, instance, model_name) (max_over_time(vllm:gpu_cache_usage_perc[5m]))""",
            "max by (job, instance, model_name) (max_over_time(vllm:gpu_cache_usage_perc[5m]))",
        ),
        "record/model:vllm_kv_cache_usage_ratio:max_max_5m",
        "metric-range",
        "vllm:gpu_cache_usage_perc",
        "unproven",
        "vllm:gpu_cache_usage_perc is not exported by this server: vllm had it until 0.11.2",
    ),
    Fault(
        "a family that was renamed: time per output token, gone in newer releases",
        RECORDING,
        put("vllm:inter_token_latency_seconds_bucket", "vllm:time_per_output_token_seconds_bucket"),
        "record/model:vllm_inter_token_seconds:p90_5m",
        "metric-range",
        "vllm:time_per_output_token_seconds",
        "unproven",
        "vllm:time_per_output_token_seconds_bucket is not exported by this server: vllm had it until",
    ),
    Fault(
        "a family that never existed: the CUDA graph mode of vLLM itself",
        ALERTS,
        put("model:vllm_graph_mode_drift:value", "vllm:cudagraph_mode_info"),
        "alert/GraphModeDrift/warning",
        "metric-exists",
        "vllm:cudagraph_mode_info",
        "failed",
        NEVER,
    ),
    Fault(
        "a family that never existed: engine errors",
        ALERTS,
        put("model:vllm_preemptions:rate5m", "rate(vllm:enginecore_errors_total[5m])"),
        "alert/PreemptionsHigh/warning",
        "metric-exists",
        "vllm:enginecore_errors_total",
        "failed",
        NEVER,
    ),
    Fault(
        "annotations with one brace, which interpolate nothing",
        ALERTS,
        put(
            "summary: First tokens of {{ $labels.model_name }} on {{ $labels.instance }}",
            "summary: First tokens of { $labels.model_name } on { $labels.instance }",
        ),
        "alert/TTFTHigh/warning",
        "alert-template",
        "{ $labels.model_name }",
        "failed",
        "the receiver got the summary 'First tokens of { $labels.model_name }",
    ),
    Fault(
        "quotes escaped twice in a panel's query",
        BOARD,
        put(
            r"model:vllm_preemptions:rate5m{job=~\"$job\"",
            r"model:vllm_preemptions:rate5m{job=~\\\"$job\\\"",
        ),
        "panel/monitorgen-optimized/Preemptions",
        "promql-syntax",
        "",
        "failed",
        "parse error: unexpected character inside braces",
    ),
    Fault(
        "a label that does not match: a reason that the engine never gives",
        RECORDING,
        put('finished_reason=~"abort|error"', 'finished_reason=~"aborted|failed"'),
        "record/model:vllm_failed_ratio:ratio_rate5m",
        "label-value",
        "aborted",
        "failed",
        NEVER,
        seen_at="alert/RequestsFailing/critical",  # the rule itself reads 0, as it should when nothing fails
    ),
    Fault(
        "an alert that can never fire: a ratio above one hundred, as if it were percent",
        ALERTS,
        put(
            "model:vllm_kv_cache_usage_ratio:max_max_5m > 0.98",
            "model:vllm_kv_cache_usage_ratio:max_max_5m > 98",
        ),
        "alert/KVCacheCritical/critical",
        "threshold-reachable",
        "98",
        "failed",
        NEVER,
    ),
]


@pytest.fixture(scope="module")
def correct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `optimized`, as written."""
    folder = tmp_path_factory.mktemp("correct") / "bundle"
    bundle = build(load_profile("optimized")).bundle
    write(bundle_files(bundle), folder, about=about(bundle))
    return folder


def faulty(correct: Path, folder: Path, *faults: Fault) -> Path:
    """A copy of the correct bundle with faults in it."""
    shutil.copytree(correct, folder)
    for fault in faults:
        path = folder / fault.file
        path.write_text(fault.edit(path.read_text(encoding="utf-8")), encoding="utf-8")
    return folder


def checked(folder: Path, level: str) -> CheckResult:
    """The ledger of a folder, by what the profile means."""
    return check_bundle(folder, "optimized", (), (), level, ())


def test_the_bundle_without_a_fault_is_proven(correct: Path) -> None:
    result = checked(correct, "static")
    assert (result.findings, result.ledger.failed) == ((), [])


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_caught_by_a_static_check(fault: Fault, correct: Path, tmp_path: Path) -> None:
    result = checked(faulty(correct, tmp_path / "bundle", fault), "static")
    found = [finding for finding in result.findings if finding.item == fault.item]
    assert fault.check in [finding.check for finding in found]
    assert any(fault.said in f"{finding.message} {finding.expr}" for finding in found)
    assert result.ledger.state(fault.item, "static") == "failed"


def test_faults_are_caught_in_simulated_time_as_well(correct: Path, tmp_path: Path, promtool: Path) -> None:
    """Without a look at any catalog: what Prometheus does with the rules is not what the profile means."""
    faults = [fault for fault in FAULTS if fault.file != BOARD]
    folder = faulty(correct, tmp_path / "bundle", *faults)
    result = check_bundle(folder, "optimized", (), (), "simulated", (str(promtool),))
    failed = {item for item in result.ledger.items if result.ledger.state(item, "simulated") == "failed"}
    assert {fault.item for fault in faults} <= failed


def why(ledger: Ledger, item: str) -> str:
    """What the ledger says against an item on live metrics."""
    against = [f"{proof.claim}: {proof.answer}" for proof in ledger.of(item, "live") if not proof.holds]
    return "; ".join(against) or ledger.reasons.get(item, {}).get("live", "")


def test_faults_are_caught_on_live_metrics_as_well(
    correct: Path,
    tmp_path: Path,
    one_prometheus: Path,
    one_alertmanager: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All faults in one Prometheus that scrapes the recorded vLLM, those of alerts in one in quick motion.

    There, the rule without KV cache usage is correct, so that it is the wrong threshold which is seen. Two of
    the alerts fire; once they have come and gone, the others had their time and are given up.
    """
    monkeypatch.setenv("MONITORGEN_ALERTMANAGER", str(one_alertmanager))
    said: list[str] = []

    def patience(_: alert_course.Course) -> float:
        over = any(re.search(r"\b[2-9] of \d alerts went their way", line) for line in said)
        return 0.0 if over else 120.0

    monkeypatch.setattr(alert_course.Course, "patience", property(patience))
    built = build(load_profile("optimized"))
    folder = faulty(correct, tmp_path / "all", *FAULTS)
    quick = [fault for fault in FAULTS if fault.file == ALERTS or fault.seen_at]
    bundle = adopted(read_folder(faulty(correct, tmp_path / "quick", *quick)), built.bundle)
    provoked = {fault.seen_at or fault.item for fault in quick} | {SOUND}
    alerts = tuple(alert for alert in built.alerts if alert.rule.id in provoked)
    ledger = Ledger(bundle.name, tuple(dict.fromkeys(bundle.items)), dormant=dict(bundle.dormant))
    options = Options(seconds=15.0, settle=10.0, time_scale=200.0, binary=one_prometheus)
    prove_live(
        replace(built, alerts=alerts), ledger, options, folder=folder, bundle=bundle, progress=said.append
    )
    assert ledger.state(SOUND, "live") == "proven", why(ledger, SOUND)
    assert len([item for item in ledger.items if ledger.state(item, "live") == "proven"]) > 50
    for fault in FAULTS:
        item = fault.seen_at or fault.item
        assert (ledger.state(item, "live"), fault.live in why(ledger, item)) == (fault.state, True), (
            fault.name,
            why(ledger, item),
        )
