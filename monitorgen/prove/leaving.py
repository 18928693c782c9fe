"""Leaving nothing behind, however a run ends: by itself, by an error, by Ctrl-C or by a signal to end.

The first signal unwinds the stack like any error, so that every block undoes what it did; while something is
being made or undone it waits. A second one makes the undoing hasty instead of breaking it off.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from monitorgen.errors import MonitorgenError

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@dataclass
class _Leaving:
    """What is to be undone, and what the signals said; one for the whole process, as signals are."""

    installed: bool = False
    shields: int = 0
    first: int = 0  # the signal that ends us, 0 as long as there was none
    raised: bool = False
    undo: dict[object, Callable[[], None]] = field(default_factory=dict)
    hurry: dict[object, Callable[[], None]] = field(default_factory=dict)

    def on_signal(self, number: int, _: FrameType | None) -> None:
        """Unwind at the first signal, as soon as nothing is half done; hurry at every later one."""
        if self.first:
            for hasten in list(self.hurry.values()):
                hasten()
            return
        self.first = number
        if not self.shields:
            self.unwind()

    def unwind(self) -> None:
        """Raise what ends the program with the exit code that the signal stands for."""
        if not self.first or self.raised:
            return
        self.raised = True
        if self.first == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.first)


_LEAVING = _Leaving()


@contextlib.contextmanager
def clean_exit() -> Iterator[None]:
    """Make Ctrl-C, SIGTERM and SIGHUP undo everything that was begun inside the block.

    Nested blocks, other threads, and programs with handlers of their own are left as they are.
    """
    main = threading.current_thread() is threading.main_thread()
    plain = (signal.SIG_DFL, signal.default_int_handler)
    if not main or _LEAVING.installed or signal.getsignal(signal.SIGTERM) not in plain:
        yield
        return
    old = {number: signal.getsignal(number) for number in SIGNALS}
    mine = {number for number, handler in old.items() if handler in plain}  # nohup ignores SIGHUP: keep it
    _LEAVING.installed, _LEAVING.first, _LEAVING.raised = True, 0, False
    try:
        for number in mine:
            signal.signal(number, _LEAVING.on_signal)
        yield
    finally:
        try:
            with shielded():  # blocks have undone their own by now; this is for what fell between two
                for undo in list(_LEAVING.undo.values())[::-1]:
                    undo()
        finally:
            _LEAVING.installed = False
            for number in mine:
                signal.signal(number, old[number])


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Let signals wait until the block is done, because what it makes or undoes must not stay half so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _LEAVING.shields += 1
    try:
        yield
    finally:
        _LEAVING.shields -= 1
        if not _LEAVING.shields and _LEAVING.installed:
            _LEAVING.unwind()


@contextlib.contextmanager
def undone(undo: Callable[[], None], hurry: Callable[[], None] | None = None) -> Iterator[None]:
    """Call `undo` at the end of the block, once, shielded; `hurry` is called when a second signal comes."""
    key = object()
    _LEAVING.undo[key] = undo
    if hurry:
        _LEAVING.hurry[key] = hurry
    try:
        yield
    finally:
        with shielded():
            try:
                undo()
            finally:
                _LEAVING.undo.pop(key, None)
                _LEAVING.hurry.pop(key, None)


_FOLDERS: set[Path] = set()


@contextlib.contextmanager
def workfolder(prefix: str = "monitorgen-") -> Iterator[Path]:
    """A temporary folder, gone at the end of the block. Raises `MonitorgenError` if there is no room."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(clean_exit())
        with shielded():
            try:
                folder = Path(tempfile.mkdtemp(prefix=prefix)).resolve()
            except OSError as error:
                raise MonitorgenError(
                    f"no temporary folder can be made: {error.strerror or error}",
                    hint="is the disk full? TMPDIR names another place",
                ) from error
            _FOLDERS.add(folder)
            stack.enter_context(undone(lambda: _remove(folder)))
        yield folder


def is_temporary(path: Path) -> bool:
    """Whether a file will be gone with its `workfolder`, so that pointing people to it is of no use."""
    return not _FOLDERS.isdisjoint(path.resolve().parents)


def _remove(folder: Path) -> None:
    _FOLDERS.discard(folder)
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        if folder.exists():  # something in it went by itself
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise MonitorgenError(f"cannot remove {folder}: {error.strerror or error}") from error
