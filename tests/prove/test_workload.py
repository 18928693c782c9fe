"""The decode workload as a source: it is ready when it has decoded, not when its exporter answers."""

from __future__ import annotations

import sys
import urllib.request
from pathlib import Path

import pytest

from monitorgen.prove.workload import serve_workload

pytest.importorskip("torch", reason="the workloads' extra is not installed")


def test_a_workload_that_is_ready_has_decoded(tmp_path: Path) -> None:
    with (
        serve_workload(tmp_path, Path(sys.executable)) as server,
        urllib.request.urlopen(f"http://{server.target}/metrics", timeout=10) as answer,
    ):
        page = answer.read().decode().splitlines()
    counted = [float(line.split()[-1]) for line in page if line.startswith("vllm:decode_tokens_total{")]
    assert sum(counted) > 0
