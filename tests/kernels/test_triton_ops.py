"""The Triton kernels compute what the torch reference computes; here in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the extra `workloads` is not installed")


@pytest.fixture(scope="module")
def found() -> Any:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed; the extra `dev` has it on Linux")
    program = Path(__file__).with_name("interpreted.py")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_logits_tokens_and_cache_are_those_of_the_reference(found: Any) -> None:
    assert len(found["cases"]) == 4
    for name, case in found["cases"].items():
        assert case["finite"], name  # poison that no row owns was not read
        assert case["logits"] < 1e-5, name
        assert case["written"] < 1e-5, name
        assert case["tokens"], name
        assert case["state"], name


def test_a_row_keeps_every_bit_as_its_batch_grows(found: Any) -> None:
    assert found["invariant"]
