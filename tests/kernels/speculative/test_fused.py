"""The fused kernels do what torch's code does; here in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the workloads' extra is not installed")


@pytest.fixture(scope="module")
def found() -> Any:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed; the extra `dev` has it on Linux")
    program = Path(__file__).parents[1] / "interpreted_speculative.py"
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_the_fused_loop_decodes_the_plain_tokens(found: Any) -> None:
    assert found["loop"]["same"]
    assert 0 < found["loop"]["accepted"] < found["loop"]["drafted"]


def test_rows_that_share_pages_see_each_other_if_keys_are_written_first(found: Any) -> None:
    assert found["sharing"] == {"torch": True, "first": True, "not first": False}


def test_acceptance_and_lookup_are_those_of_torch(found: Any) -> None:
    assert found["accept"] == [True] * 6
    assert found["lookup"] == [True] * 2
