"""Files that a run leaves behind: whole or not at all, also when the disk is full."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path

from monitorgen.errors import InputError, MonitorgenError
from monitorgen.prove.formats import format_of
from monitorgen.prove.ledger import Ledger

FULL = {
    errno.ENOSPC: "no space is left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than this process may write",
}


class DiskFullError(MonitorgenError):
    """There is no room for a file that has to be written."""


def cannot_write(path: Path, error: OSError, *, hint: str = "") -> MonitorgenError:
    """The error to raise for a file that cannot be written: `DiskFullError`, else `InputError`."""
    if error.errno in FULL:
        return DiskFullError(f"cannot write {path}: {FULL[error.errno]}", hint=hint)
    return InputError(f"cannot write {path}: {error.strerror or error}")


class LedgerFile:
    """A ledger's place: each `save` replaces the whole file, so that it always holds one whole ledger."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._saved = False

    def prepare(self) -> None:
        """Make the folder and see that the file can be written, before anything long begins.

        Raises `InputError` or `DiskFullError`. A file that is there is left as it is.
        """
        if self.path.is_dir():
            raise InputError(f"cannot write {self.path}: it is a folder")
        format_of(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._part.write_bytes(b"")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        finally:
            self._drop_part()

    def save(self, ledger: Ledger) -> None:
        """Write the ledger in the format that the file's suffix says."""
        self.write(format_of(self.path)(ledger))

    def write(self, text: str) -> None:
        """Replace the file's text. Raises `DiskFullError` or `InputError`; what was there then stays."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._part.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())  # some file systems notice only now that they are full
            self._part.replace(self.path)
        except OSError as error:
            kept = "it holds what was saved before" if self._saved else ""
            raise cannot_write(self.path, error, hint=kept) from error
        finally:
            self._drop_part()
        self._saved = True

    @property
    def _part(self) -> Path:
        return self.path.with_name(f".{self.path.name}.part")

    def _drop_part(self) -> None:
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)


def prepare_reports(paths: Sequence[Path]) -> None:
    """See that a ledger can be written to each path, before the work begins; raises as `prepare` does."""
    for path in paths:
        LedgerFile(path).prepare()


def write_reports(ledger: Ledger, paths: Sequence[Path]) -> None:
    """Write the ledger to each path, in the format of its suffix; raises as `prepare` and `write` do."""
    prepare_reports(paths)
    for path in paths:
        LedgerFile(path).save(ledger)
