"""Which bundled workloads a bundle needs, and that what they really do proves the kernels' profile live."""

from __future__ import annotations

import sys
import urllib.request
from pathlib import Path

import pytest

from monitorgen.build import Built, build
from monitorgen.profile import load_profile
from monitorgen.prove.ledger import Ledger
from monitorgen.prove.session import Options, prove_live
from monitorgen.prove.solve import solve
from monitorgen.prove.steady import steady_value
from monitorgen.prove.workload import DECODE, PROGRAMS, programs_for, serve_workload, workload_python
from monitorgen.prove.world import Gauge, Histogram
from monitorgen.telemetry import DECODE as DECODE_FAMILIES
from monitorgen.telemetry import KERNELS as KERNEL_FAMILIES
from monitorgen.telemetry import SPECULATION as SPECULATION_FAMILIES

BOTH = """
extends: optimized
signals:
  kernel_time:
    title: Kernel time
    help: Time of a kernel call on the device.
    family: monitorgen_kernel_seconds
    quantiles: [0.9]
dashboard:
  - row: CUDA graphs
    panels: [kernel_time]
"""


def built(name: str) -> Built:
    return build(load_profile(name))


@pytest.mark.parametrize(
    ("profile", "names"),
    [
        ("baseline", []),
        ("optimized", ["the decode workload"]),
        ("kernels", ["the kernel workload"]),
        ("speculative", ["the speculative workload"]),  # `optimized` gets these families from vLLM
        ("both.yaml", ["the decode workload", "the kernel workload"]),
    ],
)
def test_the_items_decide_which_workloads_run(
    profile: str, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("both.yaml").write_text(BOTH)
    assert [program.name for program in programs_for(built(profile).bundle)] == names


def test_every_family_that_profiles_read_has_one_program() -> None:
    families = DECODE_FAMILIES + KERNEL_FAMILIES + SPECULATION_FAMILIES
    for metric in families:
        assert len([one for one in PROGRAMS if one.exports(frozenset({metric.name}))]) == 1
    histograms = [metric.name for metric in families if metric.type == "histogram"]
    for name in histograms:
        assert sum(one.exports(frozenset({f"{name}_bucket"})) for one in PROGRAMS) == 1
    assert not any(one.exports(frozenset({"up", "vllm:decode_tokens_total_bucket"})) for one in PROGRAMS)


def test_a_condition_on_a_mean_is_met_by_its_mean() -> None:
    """Not by the first of the histogram's parts, a quantile, which the expression does not read."""
    bundle = built("kernels")
    (alert,) = (one for one in bundle.alerts if one.name == "KernelSlowerThanExpected")
    (condition,) = alert.conditions
    drives = solve(condition, 1.3, {"monitorgen_kernel_expected_seconds": Gauge(2.0)}, bundle.plans)
    seconds = drives["monitorgen_kernel_seconds"]
    assert isinstance(seconds, Histogram)
    assert seconds.mean == pytest.approx(2.6)
    assert steady_value(condition.plan, drives, bundle.plans, 0) == pytest.approx(1.3)


def test_rules_and_panels_of_kernels_are_proven_by_one_that_runs_here(one_prometheus: Path) -> None:
    python = workload_python()
    if python is None:
        pytest.skip("the workloads' extra is not installed")
    profile = built("kernels")
    ledger = Ledger("kernels", tuple(dict.fromkeys(profile.bundle.items)))
    options = Options(alerts=False, replay=False, workload=python, binary=one_prometheus)
    session = prove_live(profile, ledger, options)
    assert not session.failed, [str(proof) for proof in ledger.failed]
    open_items = [item for item in ledger.items if ledger.state(item, "live") != "proven"]
    assert open_items == [alert.id for alert in profile.bundle.alerts]
    assert {proof.kind for proof in ledger.proofs if proof.level == "live"} == {"workload"}


def test_a_workload_that_is_ready_has_decoded(tmp_path: Path) -> None:
    """Not when its exporter answers: that is there before."""
    pytest.importorskip("torch", reason="the extra `workloads` is not installed")
    with (
        serve_workload(DECODE, tmp_path, Path(sys.executable)) as server,
        urllib.request.urlopen(f"http://{server.target}/metrics", timeout=60) as answer,
    ):
        page = answer.read().decode().splitlines()
    counted = [float(line.split()[-1]) for line in page if line.startswith("vllm:decode_tokens_total{")]
    assert sum(counted) > 0
