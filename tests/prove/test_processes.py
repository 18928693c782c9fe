"""Child processes: they end with their block, whatever they started, and say why they died."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from monitorgen.errors import ToolMissing
from monitorgen.prove.processes import ProcessError, child, free_port, poll_until

PY = sys.executable
# Programs that run on until they are ended: their sleep is what the tests cut short, no test waits for it.
LIVE_ON = "import time\nprint('up', flush=True)\ntime.sleep(600)"
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + LIVE_ON
# Starts one process in its own group and one that leaves it, prints both ids, and waits.
PARENT = f"""
import subprocess, sys
near = subprocess.Popen([sys.executable, "-c", {LIVE_ON!r}], stdout=subprocess.DEVNULL)
far = subprocess.Popen([sys.executable, "-c", {LIVE_ON!r}], stdout=subprocess.DEVNULL, start_new_session=True)
print(near.pid, far.pid, flush=True)
near.wait()
"""
# Our own side as a process: holds a child, and writes the child's id where the test finds it.
HOLDER = f"""
import sys, time
from pathlib import Path
from monitorgen.prove.processes import child
folder = Path(sys.argv[1])
with child([sys.executable, "-c", {LIVE_ON!r}], name="held", log=folder / "held.log") as held:
    (folder / "pid.new").write_text(str(held.process.pid))
    (folder / "pid.new").rename(folder / "pid")
    time.sleep(600)
"""


def exists(pid: int) -> bool:
    """Whether a process runs (a zombie that nobody has collected does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def spoken(log: Path) -> bool:
    return log.exists() and log.read_text().endswith("\n")


@pytest.mark.parametrize("program", [LIVE_ON, STUBBORN], ids=["obeys TERM", "ignores TERM"])
def test_a_child_ends_with_its_block(program: str, tmp_path: Path) -> None:
    with child([PY, "-c", program], name="it", log=tmp_path / "log", grace=0.3) as running:
        running.wait_until(lambda: spoken(running.log), timeout=60, what="speaking")
        pid = running.process.pid
        assert exists(pid)
    assert not exists(pid)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds strays in /proc")
def test_what_a_child_started_ends_too_even_outside_of_its_group(tmp_path: Path) -> None:
    started: list[int] = []

    def fail_inside() -> None:
        with child([PY, "-c", PARENT], name="it", log=tmp_path / "log") as running:
            running.wait_until(lambda: spoken(running.log), timeout=60, what="speaking")
            started.extend(int(word) for word in running.tail(1).split())
            assert all(exists(pid) for pid in started)
            raise RuntimeError("of the test")

    with pytest.raises(RuntimeError, match="of the test"):
        fail_inside()
    assert len(started) == 2
    assert not any(exists(pid) for pid in started)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_us_ends_the_child(number: signal.Signals, tmp_path: Path) -> None:
    mine = subprocess.Popen([PY, "-c", HOLDER, tmp_path], stderr=subprocess.DEVNULL)
    try:
        assert poll_until((tmp_path / "pid").exists, timeout=60, pause=lambda s: _wait(mine, s))
        held = int((tmp_path / "pid").read_text())
        assert exists(held)
        mine.send_signal(number)
        assert mine.wait(60) != 0
        assert not exists(held)
    finally:
        mine.kill()
        mine.wait()


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


@pytest.mark.parametrize(
    ("says", "code", "wanted"),
    [
        ("Traceback\\nValueError: no such model", 3, "it ended with code 3: ValueError: no such model"),
        ('level=error msg=\\"load\\" err=\\"line 1: bad key\\"', 1, "it ended with code 1: line 1: bad key"),
        ("level=error err=refused", 2, "it ended with code 2: refused"),
        ("SIGABRT: abort\\ngoroutine 1", 2, "it ended with code 2: SIGABRT: abort"),
        ("one\\ntwo", 1, "it ended with code 1: one; two"),
        ("", 0, "it ended with code 0: it said nothing"),
    ],
)
def test_an_early_death_is_told_in_the_childs_words(
    says: str, code: int, wanted: str, tmp_path: Path
) -> None:
    program = f'import sys; print("{says}"); sys.exit({code})'
    with (
        child([PY, "-c", program], name="it", log=tmp_path / "log") as running,
        pytest.raises(ProcessError) as caught,
    ):
        running.wait_until(lambda: False, timeout=60, what="anything")
    assert caught.value.message == wanted
    assert str(tmp_path / "log") in str(caught.value)


def test_a_wait_that_is_too_long_says_for_what(tmp_path: Path) -> None:
    with child([PY, "-c", LIVE_ON], name="it", log=tmp_path / "log") as running:
        running.wait_until(lambda: spoken(running.log), timeout=60, what="speaking")
        with pytest.raises(ProcessError, match="it: getting ready did not happen within 0 s; last words: up"):
            running.wait_until(lambda: False, timeout=0.05, what="getting ready")


def test_a_program_that_is_not_there_is_a_missing_tool(tmp_path: Path) -> None:
    with (
        pytest.raises(ToolMissing, match="there is no program /nowhere/x"),
        child(["/nowhere/x"], name="it", log=tmp_path / "log"),
    ):
        pytest.fail("the block must not be entered")


def test_the_environment_is_ours_and_what_is_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "1")
    program = "import os; print(os.environ['OURS'], os.environ['THEIRS'])"
    with child([PY, "-c", program], name="it", log=tmp_path / "log", env={"THEIRS": "2"}) as running:
        running.process.wait(60)
        assert running.tail() == "1 2"
    assert "THEIRS" not in os.environ


def test_polling_pauses_longer_and_longer_and_ends_at_the_deadline() -> None:
    pauses: list[float] = []
    assert not poll_until(lambda: False, timeout=0.0, pause=pauses.append)
    assert pauses == []
    asked = iter([False, False, False, True])
    assert poll_until(lambda: next(asked), timeout=60, pause=pauses.append, first=1.0, longest=2.0)
    assert pauses == [1.0, 1.6, 2.0]


def test_a_free_port_can_be_listened_on() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
        listener.listen()
