"""Decode workloads on a real vLLM: its engine core behind our loops, and both endpoints scraped and proven.

vLLM runs in the interpreter that `make live` names; our workloads run there too, from this checkout. Nothing
is compiled: that changes no batch and saves minutes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from monitorgen import telemetry
from monitorgen.build import build
from monitorgen.profile import load_profile
from monitorgen.promql import selectors
from monitorgen.prove.ledger import Ledger
from monitorgen.prove.load import LoadPlan, LoadReport, run_load
from monitorgen.prove.vllm_server import VllmOptions, cache_folder, serve_vllm, tiny_model, vllm_python
from monitorgen.prove.workload import DECODE as DECODE_LOOP
from monitorgen.prove.workload import serve_workload

ROOT = Path(__file__).resolve().parents[2]
DECODE = {metric.name for metric in telemetry.DECODE}
SIZES = [
    [model, *limits]
    for model in ("gpt-oss-20b", "meta-llama/Llama-3.1-8B")
    for limits in ((1024, 8192), (256, 2048), (128, 2048), (13, 8192), (4, 8192), (1024, 100), (1, 1))
]

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def beside_vllm() -> Iterator[Path]:
    """The interpreter that has vLLM, with our workloads from this checkout within its reach."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield vllm_python()


@pytest.fixture(scope="module")
def model(beside_vllm: Path) -> Path:
    """The tiny random Llama."""
    return tiny_model(beside_vllm, cache_folder())


def run(python: Path, *argv: str | Path, text: str = "") -> str:
    """The output of a program that is expected to succeed within three minutes."""
    done = subprocess.run(
        [python, *argv], input=text, capture_output=True, text=True, check=False, timeout=180, cwd="/"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_table_of_capture_sizes_is_what_vllms_own_code_says(beside_vllm: Path) -> None:
    from monitorgen.kernels.decode.vllm_sizes import capture_sizes

    script = Path(__file__).with_name("vllm_capture_sizes.py")
    said = json.loads(run(beside_vllm, script, text=json.dumps(SIZES)))
    for (name, *limits), theirs in zip(SIZES, said, strict=True):
        assert theirs["source"].startswith("vLLM ")
        assert list(capture_sizes(name, *limits, use_installed=False).sizes) == theirs["sizes"]


def test_the_polling_loop_strands_a_real_engines_work_and_the_right_one_does_not(
    beside_vllm: Path, model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "loops.json"
    flags = [
        "--mode",
        "both",
        "--engine",
        "vllm",
        "--model",
        model,
        "--max-model-len",
        "256",
        "--enforce-eager",
    ]
    run(beside_vllm, "-m", "monitorgen.kernels.decode.optimized_v1_engine_loop", *flags, "--json", file)
    document = json.loads(file.read_text())
    assert document["engine"].startswith("vLLM EngineCore")
    loops = {row["loop"]: row for row in document["loops"]}
    # The scheduler was paused with its requests kept, and resumed: nobody polled any more.
    assert loops["baseline"]["stranded_requests"] == 12
    assert loops["baseline"]["stranded_kv_blocks"] >= 4
    assert (loops["v1"]["answered"], loops["v1"]["stranded_requests"]) == (12, 0)
    assert (loops["v1"]["stranded_kv_blocks"], loops["v1"]["kv_reclaimed_of_requests"]) == (0, 12)


@dataclass(frozen=True)
class Beside:
    """What came of a server under load with the decode loop beside it: its ledger, log and JSON."""

    ledger: Ledger
    said: str
    document: dict[str, Any]
    load: LoadReport


@pytest.fixture(scope="module")
def beside(
    beside_vllm: Path, model: Path, one_prometheus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Beside:
    """A vLLM server and `v1_bucketed_decode_loop --use-vllm`, both scraped by `monitorgen prove`."""
    folder = tmp_path_factory.mktemp("beside")
    flags = ("--use-vllm", "--enforce-eager", "--model", str(model), "--dtype", "fp32", "--device", "cpu",
             "--rate", "4", "--json", str(folder / "loop.json"))  # fmt: skip
    with (
        serve_vllm(VllmOptions(eager=True), workdir=folder, python=beside_vllm) as server,
        serve_workload(DECODE_LOOP, folder, beside_vllm, flags) as loop,
    ):
        with under_load(server.url) as reports:
            prove(folder, one_prometheus, f"vllm=http://{server.target}", f"decode=http://{loop.target}")
        loop.child.process.send_signal(signal.SIGTERM)
        assert loop.child.process.wait(30) == 0
        said = loop.child.tail(50)
    document = json.loads((folder / "loop.json").read_text())
    return Beside(Ledger.from_json((folder / "ledger.json").read_text()), said, document, reports[0])


@contextmanager
def under_load(url: str) -> Iterator[list[LoadReport]]:
    """Clients that go on as long as the block runs; what they saw is in the list afterwards."""
    reports: list[LoadReport] = []
    ended = threading.Event()
    plan = LoadPlan(seconds=170, rate=2, burst_size=2, disconnect_share=0, invalid_share=0)
    clients = threading.Thread(target=lambda: reports.append(run_load(url, plan, stop=ended)))
    clients.start()
    try:
        yield reports
    finally:
        ended.set()
        clients.join()


def prove(folder: Path, prometheus: Path, *endpoints: str) -> None:
    """Prove the values of the optimized bundle as a user does who has both endpoints."""
    argv = [sys.executable, "-m", "monitorgen", "prove", "--profile", "optimized", "--live-only"]
    argv += ["--no-alerts", "--no-replay", "--no-workload", "--prometheus-bin", str(prometheus)]
    argv += [part for endpoint in endpoints for part in ("--scrape", endpoint)]
    argv += ["--report", str(folder / "ledger.json")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def decode_items() -> Sequence[str]:
    """The rules of the optimized bundle that read a family of the decode workload."""
    parts = {f"{name}{suffix}" for name in DECODE for suffix in ("", "_bucket", "_sum", "_count")}
    rules = build(load_profile("optimized")).bundle.recording_rules
    return [rule.id for rule in rules if {one.name for one in selectors(rule.expr)} & parts]


def test_every_greedy_token_is_vllms_and_nothing_is_captured_late(beside: Beside) -> None:
    assert "engine: vLLM EngineCore" in beside.said
    document = beside.document
    assert document["compared_with_vllm"] == document["agreed_with_vllm"] > 100
    assert (document["recaptures"], document["captures"]) == (0, len(document["buckets"]))


def test_decode_rules_populate_from_the_loop_beside_the_server(beside: Beside) -> None:
    items = decode_items()
    assert {"record/vllm:decode_graph_recaptures_rate", "record/vllm:decode_allocator_mb"} <= set(items)
    for item in [*items, "scrape/decode"]:
        assert beside.ledger.state(item, "live") == "proven", beside.ledger.reasons.get(item)


def test_the_server_was_at_work_and_its_rules_populate_too(beside: Beside) -> None:
    assert beside.load.statuses.get(200, 0) > 10
    assert beside.ledger.failed == []
    assert beside.ledger.state("scrape/vllm", "live") == "proven"
    proven = beside.ledger.counts("live")["proven"]
    assert proven > 60, beside.ledger.reasons
