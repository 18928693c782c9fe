"""The bundle against a recorded vLLM 0.9, played back: what 0.9 lacks is named, nothing else is empty."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from monitorgen.build import build
from monitorgen.profile import load_profile
from monitorgen.prove.live import Source, run_live
from monitorgen.prove.questions import Subject, subject_of_folder
from monitorgen.prove.replay import Replay, ReplayServer
from monitorgen.targets.files import about, bundle_files
from monitorgen.targets.writer import write

SCRAPES = Path(__file__).parents[1] / "fixtures" / "scrapes"
RECORDINGS = [SCRAPES / f"vllm-0.9.2{part}.prom.gz" for part in (".t0", "", ".t2")]
# What a 0.9 server cannot say, read by eye from the recordings and the list of renames.
LACKING = (
    "vllm:num_requests_waiting_by_reason",
    "vllm:admission_rejections_total",
    "vllm:spec_decode_",
    "vllm:decode_",
)


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    """What is asked of the profile `optimized`, as written."""
    bundle = build(load_profile("optimized")).bundle
    write(bundle_files(bundle), tmp_path / "bundle", about=about(bundle))
    return subject_of_folder(tmp_path / "bundle")


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
