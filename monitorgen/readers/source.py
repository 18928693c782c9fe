"""The text of a file that somebody else wrote: never too much of it, and clear messages if there is none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from monitorgen.bundle import Origin
from monitorgen.errors import InputError

LARGEST = 16 * 2**20  # bytes; the largest dashboards in the wild have about one


@dataclass(frozen=True, slots=True)
class Source:
    """A file's text, and its name as messages show it."""

    name: str
    text: str

    def at(self, offset: int, path: str = "") -> Origin:
        """The place of a character, as a 1-based line and column."""
        line = self.text.count("\n", 0, offset) + 1
        return Origin(self.name, line, offset - self.text.rfind("\n", 0, offset), path)


def read_source(path: Path) -> Source:
    """The file's text. InputError where it is missing, no file, larger than 16 MiB or not UTF-8."""
    origin = Origin(file=str(path))
    try:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "is not there"
            raise InputError(what, origin=origin, hint="name a file")
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", origin=origin) from error
    if len(data) > LARGEST:
        raise InputError(f"is larger than {LARGEST >> 20} MiB", origin=origin, hint="split it")
    try:
        return Source(str(path), data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise InputError(
            "is not UTF-8",
            origin=Origin(str(path), line, column),
            hint=f"byte 0x{data[error.start]:02x} stands there; save the file as UTF-8",
        ) from error
