"""Targets for the harness to time: a real pair of matmuls, and small ones that go wrong."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from pathlib import Path

import pytest

from monitorgen.bench import targets as room
from monitorgen.bench.targets import Target

HERE = Path(__file__).parent
HEAD = """
import os, signal, sys
from monitorgen.kernels.workload import Outcome, UsageError

class Run:
    device, bytes_moved, flops = "cpu", 0.0, 0.0
    def step(self): pass
    def outcome(self): return Outcome(exact={"tokens": [1, 2, 3]})
    def metrics(self): return {"steps": 1.0}
    def close(self): pass

def prepare(flags): return Run()
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, whose modules and those beside this file can be imported in any process."""
    modules = tmp_path / "modules"
    modules.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{HERE}:{modules}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.syspath_prepend(str(modules))


@pytest.fixture
def ends() -> Callable[[int], bool]:
    """Whether a process that is none of ours has ended, or does within a minute."""

    def wait(pid: int) -> bool:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        try:
            return bool(select.select([fd], [], [], 60)[0])
        finally:
            os.close(fd)

    return wait


@pytest.fixture
def matmul() -> Target:
    pytest.importorskip("torch", reason="the extra `workloads` is not installed")
    arms = {"baseline": "baseline_matmul", "optimized": "optimized_matmul"}
    return Target("matmul", "math", "The product of two matrices.", arms)


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., Target]:
    """Makes a target without torch: an arm for each text, which is run on top of a plain workload."""

    def make(name: str = "small", **arms: str) -> Target:
        for arm, text in arms.items():
            (tmp_path / "modules" / f"{arm}_{name}.py").write_text(HEAD + text)
        return Target(name, "plain", "Does nothing.", {arm: f"{arm}_{name}" for arm in arms}, extra="")

    return make


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes these the targets that there are."""
    return lambda *found: monkeypatch.setattr(room, "all_targets", lambda: found)
