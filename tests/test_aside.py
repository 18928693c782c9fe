"""Work in a copy of the process: the same results and errors as without, and nothing that stays behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from monitorgen.aside import Aside, can_copy

# A process of its own: test runners have threads, and then nothing is copied.
PREAMBLE = """
import errno, json, os, signal, sys, time
from monitorgen.aside import Aside
home = os.getpid()

def leftovers():
    'Child processes that nobody waited for, and files that are open.'
    try:
        os.waitpid(-1, os.WNOHANG)
        children = 'some'
    except ChildProcessError:
        children = 'none'
    return [children, len(os.listdir('/proc/self/fd'))]

before = leftovers()
"""

needs_copies = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="copies need Linux and two cores"
)


def run(code: str) -> Any:
    """What a program prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


@needs_copies
def test_it_runs_in_another_process_and_knows_what_this_one_knew() -> None:
    result, elsewhere, same = run("""
known = {'a': 1}
def work(more, *, again):
    return [os.getpid(), {**known, **more, **again}]
with Aside(work) as aside:
    known['too late'] = 2
    aside.send({'b': 2}, again={'c': 3})
    pid, result = aside.result()
print(json.dumps([result, pid != home, leftovers() == before]))
""")
    assert result == {"a": 1, "b": 2, "c": 3}
    assert elsewhere
    assert same


@needs_copies
def test_it_gets_ready_before_it_is_asked() -> None:
    # The pipe speaks before anything is sent: else this waits for ever.
    assert run("""
hear, say = os.pipe()
with Aside(lambda: 'done', ready=lambda: os.write(say, b'ready')) as aside:
    heard = os.read(hear, 5).decode()
    aside.send()
    print(json.dumps([heard, aside.result()]))
""") == ["ready", "done"]


@needs_copies
@pytest.mark.parametrize("size", [0, 70_000, 3_000_000], ids=str)
def test_any_amount_goes_both_ways(size: int) -> None:
    """A pipe holds 64 KiB at a time."""
    assert run(f"""
with Aside(lambda text: text[::-1]) as aside:
    aside.send('a' * {size} + 'b')
    text = aside.result()
print(json.dumps([len(text), text[0], leftovers() == before]))
""") == [size + 1, "b", True]


@needs_copies
@pytest.mark.parametrize(
    "failure",
    [
        "raise ValueError('there only')",
        "os._exit(3)",
        "os._exit(0)",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "raise KeyboardInterrupt",
        "return lambda: 'what cannot be pickled'",
    ],
)
def test_what_fails_there_is_done_here(failure: str) -> None:
    assert run(f"""
def work(x):
    if os.getpid() != home:
        {failure}
    return x + 1
with Aside(work) as aside:
    aside.send(1)
    result = aside.result()
print(json.dumps([result, leftovers() == before]))
""") == [2, True]


@needs_copies
def test_one_that_does_not_get_ready_is_done_without() -> None:
    assert run("""
def ready():
    raise ImportError
with Aside(len, ready=ready) as aside:
    aside.send('x' * 200_000)  # more than the pipe holds: nobody reads it
    print(json.dumps([aside.result()]))
""") == [200_000]


@needs_copies
def test_an_error_is_raised_here_as_itself() -> None:
    assert run("""
from monitorgen.errors import InputError
def work():
    raise InputError('wrong', hint='do this')
with Aside(work) as aside:
    aside.send()
    try:
        aside.result()
    except InputError as error:
        caught = str(error)
print(json.dumps([caught, leftovers() == before]))
""") == ["wrong (do this)", True]


@needs_copies
def test_one_that_nobody_asks_is_stopped() -> None:
    """Else the program would wait for what the copy waits for, for ever."""
    assert run("""
try:
    with Aside(len, ready=lambda: signal.pause()):
        raise RuntimeError('on the way')
except RuntimeError as error:
    print(json.dumps([str(error), leftovers() == before]))
""") == ["on the way", True]


@needs_copies
def test_what_was_not_printed_yet_is_printed_once() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PREAMBLE + "print('once', end='')\nwith Aside(len) as a: a.send(''); a.result()",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "once"


def test_beside_threads_it_is_done_here() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert not can_copy()
        with Aside(os.getpid) as aside:
            aside.send()
            assert aside.result() == os.getpid()
    finally:
        stop.set()
        thread.join()
