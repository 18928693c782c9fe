"""The bundle against a recorded vLLM 0.9, played back: what 0.9 lacks is named, nothing else is empty."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from monitorgen.prove.live import Source, run_live
from monitorgen.prove.questions import Subject
from monitorgen.prove.replay import Replay, ReplayServer

SCRAPES = Path(__file__).parents[1] / "fixtures" / "scrapes"
RECORDINGS = [SCRAPES / f"vllm-0.9.2{part}.prom.gz" for part in (".t0", "", ".t2")]
# What a 0.9 server cannot say, read by eye from the recordings and the list of renames.
LACKING = (
    "vllm:num_requests_waiting_by_reason",
    "vllm:admission_rejections_total",
    "vllm:spec_decode_",
    "vllm:decode_",
)

pytestmark = pytest.mark.live


def test_the_bundle_holds_for_a_recorded_0_9(
    subject: Subject, one_prometheus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ReplayServer(Replay.from_files(RECORDINGS, step=8)) as server:
        report = run_live(
            subject, [Source("vllm", server.target)], workdir=tmp_path, seconds=80, binary=one_prometheus
        )
    with capsys.disabled():
        print(f"\n{report.table()}")
    assert report.errors == ()
    assert report.of("failed") == ()
    assert len(report.of("proven")) > 60
    page = gzip.decompress(RECORDINGS[-1].read_bytes()).decode()
    for result in report.of("unproven"):
        missing = [clause.split()[0] for clause in result.reason.split("; ")]
        assert all(name.startswith(LACKING) for name in missing), result
        assert not [name for name in missing if f"\n{name}{{" in page or f"\n{name} " in page], result
