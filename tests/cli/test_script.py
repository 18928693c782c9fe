"""The program as a process of its own, which works on several cores and ends without taking itself apart."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from monitorgen.build import build
from monitorgen.profile import load_profile
from monitorgen.prove.files import profile_files

PROGRAM = [sys.executable, "-m", "monitorgen"]


@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"),
    [
        (["--version"], 0, "monitorgen, version", ""),
        (["profile", "list"], 0, "baseline", ""),
        (["build", "--profile", "optimised"], 2, "", "did you mean optimized?"),
        (["built"], 2, "", "Did you mean 'build'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_output_and_exit_code_arrive(
    arguments: list[str], code: int, out: str, err: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [*PROGRAM, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == code
    assert out in done.stdout
    assert bool(done.stdout) == bool(out)
    assert err in done.stderr
    assert bool(done.stderr) == bool(err)


def test_a_reader_that_has_gone_is_no_trouble(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as gone:
        done = subprocess.run(
            [*PROGRAM, "catalog", "show", "vllm"],
            cwd=tmp_path,
            stdout=gone,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (1, b"")  # click ends so, without a word


@pytest.fixture(scope="module")
def alone() -> dict[str, str]:
    """The files of a profile, made in this process alone: beside a thread nothing is done aside."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        return profile_files(build(load_profile("optimized")))[0]
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("cores", ["all", "one"])
def test_the_bytes_do_not_depend_on_the_number_of_cores(
    alone: dict[str, str], cores: str, tmp_path: Path
) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux tells a process its cores")
    mine = os.sched_getaffinity(0)
    command = [*PROGRAM, "build", "--profile", "optimized", "--out", str(tmp_path / "out")]

    def choose() -> None:
        os.sched_setaffinity(0, mine if cores == "all" else {min(mine)})

    subprocess.run(command, check=True, capture_output=True, timeout=60, preexec_fn=choose)
    found = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_text(encoding="utf-8")
        for path in (tmp_path / "out").rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    assert found == alone
