"""The recordings that come along: all files are there, and those of a decode loop fill the decode rules."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from monitorgen import telemetry
from monitorgen.build import build
from monitorgen.profile import load_profile
from monitorgen.promql import selectors
from monitorgen.prove.ledger import Ledger
from monitorgen.prove.recordings import Recording, recordings
from monitorgen.prove.session import Options, Session, prove_live

PAIRS = [one for one in recordings() if one.engine == "workload"]
DECODE = {metric.name for metric in telemetry.DECODE}
NEED_CUDA = {metric.name for metric in telemetry.DECODE if metric.needs}


def values(page: str) -> dict[str, float]:
    """Series to value, read without the code under test."""
    lines = [line.rpartition(" ") for line in page.splitlines() if line and not line.startswith("#")]
    return {series: float(value) for series, _, value in lines}


def test_the_index_lists_every_file_once() -> None:
    listed = [path.name for one in recordings() for path in one.files]
    folder = recordings()[0].files[0].parent
    assert sorted(listed) == sorted(path.name for path in folder.glob("*.prom.gz"))
    assert len({one.name for one in recordings()}) == len(recordings())


@pytest.mark.parametrize("recording", recordings(), ids=lambda one: one.name)
def test_a_recording_is_of_the_engine_that_the_index_says(recording: Recording) -> None:
    page = values(recording.replay().page(0.0))
    families = {series.partition("{")[0] for series in page}
    wanted = {"vllm": "vllm:num_requests_running", "workload": "vllm:decode_batch_size"}[recording.engine]
    assert wanted in families


@pytest.mark.parametrize("recording", PAIRS, ids=lambda one: one.name)
def test_a_decode_loop_was_recorded_at_work_beside_a_vllm_at_work(recording: Recording) -> None:
    (beside,) = [one for one in recordings() if one.name == recording.beside]
    assert (beside.engine, beside.beside, beside.step) == ("vllm", recording.name, recording.step)
    for one, counter in ((recording, "vllm:decode_tokens_total"), (beside, "vllm:generation_tokens_total")):
        replay = one.replay()
        pages = [values(replay.page(number * one.step)) for number in range(one.count)]
        tokens = [sum(v for series, v in page.items() if series.startswith(counter)) for page in pages]
        assert all(before < after for before, after in pairwise(tokens)), tokens


def test_the_decode_loop_exports_every_family_that_its_device_has() -> None:
    assert PAIRS
    for recording in PAIRS:
        page = values(recording.replay().page(0.0))
        seen = {series.partition("{")[0].removesuffix("_count") for series in page}
        graphs = any(value == 1 for series, value in page.items() if 'mode="full"' in series)
        assert seen >= DECODE - (set() if graphs else NEED_CUDA)


@pytest.fixture(scope="module")
def session(one_prometheus: Path) -> Session:
    """A live proof of values with nothing but recordings."""
    built = build(load_profile("optimized"))
    bundle = built.bundle
    ledger = Ledger(bundle.name, tuple(dict.fromkeys(bundle.items)), dormant=dict(bundle.dormant))
    return prove_live(built, ledger, Options(alerts=False, binary=one_prometheus))


def test_rules_and_panels_of_decode_populate_from_recordings_and_say_so(session: Session) -> None:
    assert session.ledger.failed == []
    bundle = build(load_profile("optimized")).bundle
    decode = [
        rule.id
        for rule in bundle.recording_rules
        if {one.name for one in selectors(rule.expr)} & (DECODE | {f"{name}_bucket" for name in DECODE})
    ]
    assert len(decode) == 7
    for item in ["record/vllm:decode_graph_recaptures_rate", "record/vllm:decode_allocator_mb", *decode]:
        proofs = session.ledger.of(item, "live")
        assert proofs, item
        assert {proof.kind for proof in proofs} == {"replayed"}, item
        assert all(proof.holds and proof.series for proof in proofs), item


def test_the_ledger_names_what_was_played_back(session: Session) -> None:
    for one in PAIRS:
        assert one.about in session.ledger.run["recordings"]
