"""However a run is ended, it leaves no process and no temporary file, and says with its code how it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pace import Pace

from monitorgen.prove.leaving import clean_exit, shielded, undone, workfolder
from monitorgen.prove.processes import poll_until

TOKEN = "hunter2-token-value"  # what must not be seen anywhere
PAGE = '# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{engine="0",model_name="m"} 3\n'
pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")


@pytest.fixture
def prove(
    one_prometheus: Path, one_alertmanager: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], Path]]]:
    """Starts `monitorgen prove` as a process of its own; the file gets what it says."""
    monkeypatch.setenv("MONITORGEN_ALERTMANAGER", str(one_alertmanager))
    begun: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> tuple[subprocess.Popen[bytes], Path]:
        said = tmp_path / "said"
        command = [
            sys.executable, "-m", "monitorgen", "prove", "--prometheus-bin", one_prometheus,
            "--report", tmp_path / "ledger.json", "--no-workload", *options,
        ]  # fmt: skip
        with said.open("wb") as sink:
            begun.append(subprocess.Popen(command, stdout=sink, stderr=sink, start_new_session=True))
        return begun[-1], said

    yield start
    for process in begun:
        process.kill()
        process.wait()


def wait(process: subprocess.Popen[bytes], holds: Callable[[], bool]) -> None:
    def pause(seconds: float) -> None:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return

    assert poll_until(lambda: holds() or process.poll() is not None, timeout=180, pause=pause, longest=0.05)


@pytest.mark.parametrize(
    ("moment", "number", "code"),
    [
        ("a temporary folder", signal.SIGTERM, 143),
        ("prometheus starts", signal.SIGINT, 130),
        ("prometheus answers", signal.SIGTERM, 143),
        ("asking", signal.SIGINT, 130),
    ],
)
def test_a_signal_at_any_moment_leaves_nothing(
    moment: str, number: signal.Signals, code: int, prove: Any, temporary: Path, tmp_path: Path
) -> None:
    """The autouse fixture looks for what was left; what was proven by then is in the ledger."""
    process, said = prove(*([] if moment == "a temporary folder" else ["--live-only"]))
    happened: dict[str, Callable[[], bool]] = {
        "a temporary folder": lambda: any(temporary.iterdir()),
        "prometheus starts": lambda: any(temporary.rglob("prometheus.log")),
        "prometheus answers": lambda: any(temporary.rglob("tsdb/wal")),
        "asking": lambda: b"scrapes" in said.read_bytes(),
    }
    wait(process, happened[moment])
    assert process.poll() is None, said.read_text()
    process.send_signal(number)
    assert process.wait(60) == code
    assert "Traceback" not in said.read_text()
    if number == signal.SIGINT:
        assert said.read_text().rstrip().endswith("interrupted")
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []
    if moment == "asking":
        assert json.loads((tmp_path / "ledger.json").read_text())["items"]


def test_a_secret_is_in_nothing_that_is_written_or_printed(
    prove: Any, serve: Any, temporary: Path, tmp_path: Path
) -> None:
    """One of the endpoints even sends the credentials back, on a page that cannot be read."""
    (tmp_path / "token").write_text(TOKEN)
    temporaries: set[bytes] = set()

    def answer(request: Any) -> None:
        temporaries.update(path.read_bytes() for path in temporary.rglob("*.yml"))
        if request.headers.get("Authorization") == f"Bearer {TOKEN}":
            request.send(PAGE)
        else:
            request.send(f"not {request.headers.get('Authorization')}", 401)

    good, bad = serve(answer), serve(lambda request: request.send(f"{request.headers['Authorization']}\n"))
    process, said = prove(
        "--live-only", "--no-alerts", "--scrape", f"vllm={good.url}", "--scrape", f"vllm={bad.url}",
        "--bearer-token-file", str(tmp_path / "token"),
        "--report", str(tmp_path / "page.html"), "--report", str(tmp_path / "junit.xml"),
    )  # fmt: skip
    wait(process, lambda: b"queries have values" in said.read_bytes())
    command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert {good.seen[-1], bad.seen[-1]} == {f"Bearer {TOKEN}"}
    written = [path for path in tmp_path.iterdir() if path.is_file() and path.name != "token"]
    assert {path.name for path in written} >= {"said", "ledger.json", "page.html", "junit.xml"}
    assert any(b"credentials_file" in text for text in temporaries)
    for text in (command, *temporaries, *(path.read_bytes() for path in written)):
        assert TOKEN.encode() not in text
    assert "Bearer ***" in said.read_text()


def test_endpoints_that_are_all_down_end_it_at_once(prove: Any, serve: Any, tmp_path: Path) -> None:
    gone, page = serve(lambda request: None), serve(lambda request: request.send("<html>", kind="text/html"))
    gone.stop()
    process, said = prove("--live-only", "--scrape", f"vllm={gone.url}", "--scrape", f"vllm={page.url}")
    assert process.wait(60) == 1
    for wanted in (f"{gone.url}: nothing listens there", f"{page.url} answers with a web page"):
        assert wanted in said.read_text()
        assert wanted in (tmp_path / "ledger.json").read_text()
    assert "Traceback" not in said.read_text()


def test_a_slow_endpoint_does_not_hold_up_the_end(prove: Any, serve: Any) -> None:
    slow = serve(lambda request: request.server.ended.wait(600))
    process, _ = prove("--live-only", "--scrape", f"vllm={slow.url}")
    wait(process, lambda: slow.count > 0)
    with Pace() as pace:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert pace.seconds < 7  # the look itself would take ten


def test_an_impatient_second_signal_breaks_nothing_off(prove: Any, temporary: Path) -> None:
    process, said = prove("--live-only")
    wait(process, lambda: any(temporary.rglob("tsdb/wal")))
    for _ in range(5):
        process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "Traceback" not in said.read_text()


def test_a_hung_up_terminal_ends_it_too(prove: Any, temporary: Path) -> None:
    process, _ = prove("--live-only")
    wait(process, lambda: any(temporary.rglob("prometheus.log")))
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 129


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def test_what_is_being_undone_is_not_broken_off() -> None:
    steps = []

    def undo() -> None:
        steps.append("begun")
        send(signal.SIGINT)
        send(signal.SIGINT)
        steps.append("ended")

    with pytest.raises(KeyboardInterrupt), clean_exit(), undone(undo, lambda: steps.append("hurry")):
        steps.append("inside")
    assert steps == ["inside", "begun", "hurry", "ended"]


def test_a_signal_waits_for_what_is_being_made() -> None:
    steps = []

    def make() -> None:
        with shielded():
            with shielded():
                send(signal.SIGTERM)
            steps.append("made")
        steps.append("not reached")

    with pytest.raises(SystemExit) as caught, clean_exit():
        make()
    assert caught.value.code == 143
    assert steps == ["made"]


def test_handlers_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(KeyboardInterrupt), clean_exit(), clean_exit():
        send(signal.SIGINT)
    with clean_exit():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_workfolder_goes_however_its_block_ends(temporary: Path) -> None:
    with workfolder() as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("x")
        assert list(temporary.iterdir()) == [folder]
    with pytest.raises(ZeroDivisionError), workfolder():
        raise ZeroDivisionError
    with pytest.raises(SystemExit), workfolder():
        send(signal.SIGTERM)
    assert list(temporary.iterdir()) == []


def test_other_threads_need_no_signals(temporary: Path) -> None:
    seen: list[bool] = []

    def use() -> None:
        with workfolder() as folder, shielded():
            seen.append(folder.is_dir())

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [True]
    assert list(temporary.iterdir()) == []


def test_a_full_disk_under_the_output_is_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "monitorgen", "profile", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "error: cannot write all of the output: No space left on device\n"
