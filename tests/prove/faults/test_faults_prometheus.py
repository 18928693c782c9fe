"""A Prometheus that dies, is another program, loses its port or has no room: one clear line each."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from monitorgen.errors import InputError, MonitorgenError
from monitorgen.prove import prometheus as room
from monitorgen.prove.leaving import workfolder
from monitorgen.prove.live import run_live
from monitorgen.prove.processes import ProcessError, free_port
from monitorgen.prove.prometheus import Prometheus, release
from monitorgen.prove.questions import Question, Subject
from monitorgen.prove.saved import DiskFullError
from monitorgen.prove.sources import Source

CONFIG = "global: {scrape_interval: 1s}\n"
SUBJECT = Subject({}, (Question("panel/u/t", "nothing_has_this_name"),), {})


def program(folder: Path, text: str) -> Path:
    path = folder / "prometheus"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("echo promtool, version 2.53.3", "'promtool, version 2.53.3'"),
        ("echo no such option >&2; exit 2", "'no such option'"),
        ("exit 0", "''"),
        ("printf '\\377\\376'", "is not Prometheus"),
        ("exec sleep 600", "'nothing within 0.2 s'"),
    ],
)
def test_another_program_is_told_as_such(
    text: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "VERSION_TIMEOUT", 0.2 if "sleep" in text else room.VERSION_TIMEOUT)
    with (
        pytest.raises(InputError, match="is not Prometheus: asked for its version it says") as caught,
        Prometheus(CONFIG, workdir=tmp_path / "work", binary=program(tmp_path, text)),
    ):
        pytest.fail("the block must not be entered")
    assert wanted in str(caught.value)
    assert "--prometheus-bin" in str(caught.value)


def test_what_cannot_be_run_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("words")
    for name in ("text", "missing"):
        with pytest.raises(InputError, match=f"{name} cannot be run"):
            release(tmp_path / name)


def test_every_version_is_read(prometheus: Path) -> None:
    assert (2, 0) < release(prometheus) < (4, 0)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def offer(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    """These ports are found to be free first, in this order."""
    left = list(ports)
    monkeypatch.setattr(room, "free_port", lambda: left.pop(0) if left else free_port())


def test_a_port_that_was_taken_meanwhile_is_left_for_another(
    taken: int, prometheus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, taken)
    with Prometheus(CONFIG, workdir=tmp_path, binary=prometheus) as server:
        assert server.url != f"http://127.0.0.1:{taken}"
        assert server.query("vector(1)")[0].value == 1


def test_a_port_taken_by_another_prometheus_is_not_mistaken_for_ours(
    one_prometheus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Prometheus(CONFIG, workdir=tmp_path / "a", binary=one_prometheus) as first:
        offer(monkeypatch, int(first.url.rpartition(":")[2]))
        with Prometheus(CONFIG, workdir=tmp_path / "b", binary=one_prometheus) as second:
            assert second.url != first.url


def test_no_port_at_all_is_told(
    taken: int, one_prometheus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, *[taken] * 10)
    with (
        pytest.raises(ProcessError, match=f"prometheus ended with code 1: .*:{taken}: .*already in use"),
        Prometheus(CONFIG, workdir=tmp_path, binary=one_prometheus),
    ):
        pytest.fail("the block must not be entered")


def test_a_prometheus_that_dies_midway_is_told_in_one_line(one_prometheus: Path, serve: Any) -> None:
    """The log goes with its folder, so nobody is pointed to it."""
    pids: list[int] = []

    def told(text: str) -> None:
        if not pids and "queries have values" in text:
            mine = f"MONITORGEN_TEST_RUN={os.environ['MONITORGEN_TEST_RUN']}".encode()
            pids.extend(
                int(folder.name)
                for folder in Path("/proc").glob("[0-9]*")
                if folder.name != str(os.getpid()) and mine in _environment(folder)
            )
            os.kill(pids[0], signal.SIGKILL)

    endpoint = serve(lambda request: request.send("a 1\n"))
    with workfolder() as folder, pytest.raises(ProcessError) as caught:
        run_live(
            SUBJECT,
            [Source("j", endpoint.target)],
            workdir=folder,
            seconds=120,
            interval=0.25,
            binary=one_prometheus,
            progress=told,
        )
    assert len(pids) == 1
    assert str(caught.value) == "prometheus was killed (SIGKILL): by someone, or because memory ran out"


def test_a_question_to_a_prometheus_that_crashed_is_told_in_its_words(one_prometheus: Path) -> None:
    with workfolder() as folder, Prometheus(CONFIG, workdir=folder, binary=one_prometheus) as server:
        server.child.process.send_signal(signal.SIGABRT)
        with pytest.raises(ProcessError) as caught:
            server.child.wait_until(lambda: not server.query("vector(1)"), timeout=60, what="nothing")
    assert str(caught.value) == "prometheus ended with code 2: SIGABRT: abort"


def _environment(folder: Path) -> list[bytes]:
    try:
        return (folder / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def mounted(folder: Path, size: str, stack: ExitStack) -> None:
    """A small disk of its own; skips where that is not permitted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no small disk can be mounted: {error}")
    if done.returncode:
        pytest.skip(f"no small disk can be mounted: {done.stderr.strip()}")
    stack.callback(subprocess.run, ["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_is_told(one_prometheus: Path, tmp_path: Path, serve: Any) -> None:
    """The write-ahead log outgrows the disk while the sources are scraped."""

    def many(request: Any) -> None:
        lines = (f'many{{number="{os.urandom(200).hex()}"}} 1\n' for _ in range(2000))
        request.send("".join(lines))

    with ExitStack() as stack:
        mounted(tmp_path / "disk", "3m", stack)
        with pytest.raises(DiskFullError, match="Prometheus cannot write its data: no space is left in"):
            run_live(
                SUBJECT,
                [Source("j", serve(many).target)],
                workdir=tmp_path / "disk",
                seconds=120,
                interval=0.5,
                binary=one_prometheus,
            )


def test_a_disk_that_is_full_at_the_start_is_told(one_prometheus: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        mounted(tmp_path / "disk", "64k", stack)
        (tmp_path / "disk" / "filling").write_bytes(b"x" * 40_000)
        with (
            pytest.raises(DiskFullError, match="no space is left on the device"),
            Prometheus(f"{CONFIG}# {'x' * 40_000}", workdir=tmp_path / "disk", binary=one_prometheus),
        ):
            pytest.fail("the block must not be entered")


# A process that may write small files only: what a full disk is, where none can be mounted.
LIMITED = """
import resource, sys
from pathlib import Path
from monitorgen.errors import MonitorgenError
from monitorgen.prove.leaving import workfolder
from monitorgen.prove.prometheus import Prometheus
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with workfolder() as folder, Prometheus("#" * 5000, workdir=folder, binary=Path(sys.argv[1])):
        pass
except MonitorgenError as error:
    print(type(error).__name__, error.exit_code, error)
"""


def test_a_limit_on_files_is_told(one_prometheus: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, one_prometheus], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.startswith("DiskFullError 1 cannot write ")
    assert "larger than this process may write (TMPDIR names another place)" in done.stdout


def test_no_place_for_temporary_files_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(MonitorgenError, match=r"no temporary folder can be made: .*TMPDIR"), workfolder():
        pytest.fail("the block must not be entered")
