"""A GPU machine has a checkout, torch and click: nothing of ours is installed, nor what bundles need."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOT_THERE = ("pydantic", "pydantic_core", "grafanalib", "promql_parser", "rich")
REGISTERED = """
WORKLOADS = (
    Workload("matmul", "attention", "The product of two matrices.",
             {"baseline": "baseline_matmul", "optimized": "optimized_matmul"}),
)
"""
FOREVER = """
def prepare(flags):
    import os, pathlib, time
    pathlib.Path("pid.part").write_text(str(os.getpid()))
    pathlib.Path("pid.part").rename("pid")
    while True:
        time.sleep(60)
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the checkout with a workload registered, where those packages cannot be imported."""
    skip = shutil.ignore_patterns("__pycache__", "data")
    for room in ("monitorgen", "kernels"):
        shutil.copytree(ROOT / room, tmp_path / "checkout" / room, ignore=skip)
    with (tmp_path / "checkout/kernels/workload.py").open("a") as file:
        file.write(REGISTERED)
    for name in NOT_THERE:
        (tmp_path / "modules" / f"{name}.py").write_text(f"raise ImportError('no {name} here')\n")
    monkeypatch.chdir(tmp_path / "checkout")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'modules'}:{Path(__file__).parent}")
    return tmp_path / "checkout"


def bench(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "monitorgen", "bench", *arguments]


def test_kernels_are_timed_there(checkout):
    pytest.importorskip("torch", reason="the extra `workloads` is not installed")
    flags = ["--targets", "matmul", "--iterations", "3", "--out", "out", "--update-expectations"]
    done = subprocess.run(
        bench("run", *flags, "--git-commit", "abc"), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "matmul: the arms agree on 2 results" in done.stdout
    assert "matmul baseline: 8 iterations" in done.stderr, "progress without rich"
    kept = {path.name for path in (ROOT / "kernels/expectations").iterdir()}  # other hardware's
    (file,) = (path for path in (checkout / "kernels/expectations").iterdir() if path.name not in kept)
    assert json.loads(file.read_text())["examples"]["matmul"]["provenance"]["git_commit"] == "abc"


def test_it_is_this_copy_that_runs_and_kernels_is_no_name_of_its_own(checkout):
    said = "import monitorgen.kernels as k, importlib.util as u; print(k.__file__, u.find_spec('kernels'))"
    code = f"import sys; sys.path.insert(0, '.'); import monitorgen; sys.path.pop(0); {said}"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    place, other = done.stdout.split()
    assert Path(place) == checkout / "kernels/__init__.py"
    assert str(checkout) not in other


def test_a_run_that_is_told_to_end_takes_its_process_along(checkout, tmp_path, ends):
    pytest.importorskip("torch", reason="the extra `workloads` is not installed")
    for arm in ("baseline", "optimized"):
        (tmp_path / "modules" / f"{arm}_matmul.py").write_text(FOREVER)
    with subprocess.Popen(
        bench("run", "--targets", "matmul", "--out", "out"), stderr=subprocess.PIPE
    ) as process:
        until_exists(checkout / "pid", process)
        child = int((checkout / "pid").read_text())
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    assert ends(child)


def until_exists(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Waits for a file that a process makes; fails when the process ends first."""
    while not path.exists():
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"it ended with {process.returncode}: {process.stderr.read()!r}")
