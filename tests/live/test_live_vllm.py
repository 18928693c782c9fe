"""The bundle against a real vLLM under load: every rule and panel has values, or its family is not there.

One server has it all: n-gram speculation fills the speculative families, few cache blocks make it queue and
preempt, a short queue makes it reject. It runs uncompiled: that changes no metric and saves minutes.
"""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

import pytest

from monitorgen.prove.live import Source, run_live
from monitorgen.prove.load import LoadPlan, LoadReport, run_load
from monitorgen.prove.questions import Subject
from monitorgen.prove.vllm_server import VllmOptions, serve_vllm

SECONDS = float(os.environ.get("MONITORGEN_LIVE_SECONDS", "120"))
OPTIONS = VllmOptions(ngram=3, gpu_blocks=20, max_num_seqs=12, max_queued=24, eager=True)
PLAN = LoadPlan(seconds=SECONDS, rate=3.0, burst_every=15.0, burst_size=30, max_in_flight=64)
WORKLOAD = "vllm:decode_"  # exported by the decode workload only: vLLM logs its graph statistics

pytestmark = pytest.mark.live


def test_the_bundle_holds_for_a_real_vllm_under_load(
    subject: Subject, one_prometheus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loads: list[LoadReport] = []
    with serve_vllm(OPTIONS, workdir=tmp_path) as server:
        report = run_live(
            subject,
            [Source("vllm", server.target)],
            workdir=tmp_path / "prometheus",
            seconds=SECONDS,
            load=lambda: loads.append(run_load(server.url, PLAN)),
            settle=45.0,
            binary=one_prometheus,
        )
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:
            page = answer.read().decode()
    with capsys.disabled():
        print(f"\nvLLM {server.version} ready after {server.ready_after:.0f} s; {loads[0]}\n{report.table()}")
    assert loads[0].errors == ()
    assert {200, 400, 404} <= loads[0].statuses.keys()
    assert report.errors == ()
    assert report.of("failed") == ()
    assert len(report.of("proven")) > 60
    for result in report.of("unproven"):
        missing = [clause.split()[0] for clause in result.reason.split("; ")]
        assert all(name.startswith(WORKLOAD) for name in missing), result
        assert not [name for name in missing if f"\n{name}{{" in page or f"\n{name} " in page], result
