"""Puts a bundle on disk, whole or not at all, and tells whether what is there is still what was written.

The files are written into a folder beside the old one, flushed to disk, and swapped in by renaming: the old
folder moves aside, the new one takes its place, the old one goes. A crash in between leaves the old bundle
or the new one; if it left the old one aside, the next call of anything here puts it back first.

    .NAME.monitorgen-new    being written
    .NAME.monitorgen-old    moved aside
    .NAME.monitorgen-lock   held by the writer; a second writer stops with a message
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from monitorgen.bundle import Origin
from monitorgen.errors import InputError
from monitorgen.targets.manifest import (
    MANIFEST,
    Entry,
    Manifest,
    check_name,
    digest,
    manifest_of,
    read_manifest,
)

__all__ = ["Difference", "Entry", "Manifest", "compare", "read_manifest", "recover", "verify", "write"]

_DIFF_LINES = 40


@dataclass(frozen=True, slots=True)
class Difference:
    """A file that differs between a folder and a bundle; `diff` is a short unified diff."""

    path: str
    kind: Literal["missing", "changed", "extra"]
    diff: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}" + (f"\n{self.diff}" if self.diff else "")


def write(
    files: Mapping[str, str | bytes],
    out: Path,
    *,
    about: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Manifest:
    """Make `out` hold exactly these files and a manifest; nothing is touched where it does so already.

    `about` goes into the manifest. InputError where `out` holds files that no manifest of ours lists
    (`force` deletes them), where a name would leave the folder, where another process is writing, or where
    the disk says no.
    """
    data = _bytes(files)
    manifest = manifest_of(data, about)
    everything = {**data, MANIFEST: manifest.text().encode()}
    out = _absolute(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with _locked(out):
            _recover(out)
            _refuse_foreign(out, force=force)
            if out.is_dir() and not any(True for _ in _differences(everything, out)):
                return manifest
            _stage(everything, _beside(out, "new"))
            _swap(out)
    except OSError as error:
        raise _disk_error(error, out) from error
    return manifest


def verify(out: Path) -> list[str]:
    """What is wrong with a written bundle, a sentence each: files missing, changed or added since."""
    out = _absolute(out)
    recover(out)
    manifest = read_manifest(out)
    if manifest is None:
        return [f"{out}: there is no {MANIFEST}: this is not a bundle that was written here"]
    problems = []
    for entry in manifest.files:
        path = out / entry.path
        if _through_link(out, entry.path) or not path.is_file():
            problems.append(f"{entry.path}: is missing")
        elif digest(path.read_bytes()) != entry.sha256:
            problems.append(f"{entry.path}: was changed after it was written")
    extra = sorted(set(_walk(out)) - manifest.paths - {MANIFEST})
    return problems + [f"{path}: is not in the manifest" for path in extra]


def compare(
    files: Mapping[str, str | bytes], out: Path, *, about: Mapping[str, Any] | None = None
) -> list[Difference]:
    """How the folder differs from what `write` would leave there; empty where it does not."""
    data = _bytes(files)
    out = _absolute(out)
    recover(out)
    return sorted(
        _differences({**data, MANIFEST: manifest_of(data, about).text().encode()}, out),
        key=lambda difference: (difference.path == MANIFEST, difference.path),
    )


def recover(out: Path) -> None:
    """Put a bundle back that a crash left aside; nothing where nothing is wrong or somebody is writing."""
    out = _absolute(out)
    if not _beside(out, "old").exists():
        return
    with contextlib.suppress(OSError, InputError), _locked(out):
        _recover(out)


def _bytes(files: Mapping[str, str | bytes]) -> dict[str, bytes]:
    """The files as bytes, names checked: inside the folder, and no file where another needs a folder."""
    for name in files:
        check_name(name)
    if MANIFEST in files:
        raise InputError(f"{MANIFEST!r} is the writer's own file", hint="name the file otherwise")
    folders = {str(parent) for name in files for parent in Path(name).parents} - {"."}
    clash = next(iter(sorted(folders & set(files))), None)
    if clash is not None:
        raise InputError(f"{clash!r} is both a file and a folder of the bundle", hint="rename one of them")
    return {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}


def _absolute(out: Path) -> Path:
    """The folder, its parents resolved; it must be no link itself, for a rename would replace the link."""
    out = Path(os.path.abspath(out))  # noqa: PTH100 - resolve() would follow the last part too
    out = out.parent.resolve() / out.name
    if not out.name:
        raise InputError("the root folder cannot be a bundle", origin=Origin(file=str(out)))
    if out.is_symlink():
        raise InputError(
            "is a symbolic link", origin=Origin(file=str(out)), hint="name the folder that it points to"
        )
    if out.exists() and not out.is_dir():
        raise InputError(
            "is a file, not a folder", origin=Origin(file=str(out)), hint="choose another folder"
        )
    return out


def _beside(out: Path, what: str) -> Path:
    return out.with_name(f".{out.name}.monitorgen-{what}")


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the writer's lock of this folder. The lock file goes with the lock; a crash frees it."""
    path = _beside(out, "lock")
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last holder may have removed the file between our open and our lock: then take the new one.
            if _same_file(lock, path):
                break
        except BlockingIOError:
            os.close(lock)
            raise InputError(
                "another process is writing this bundle",
                origin=Origin(file=str(out)),
                hint="wait for it to end",
            ) from None
        os.close(lock)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    here = os.fstat(descriptor)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _recover(out: Path) -> None:
    """Undo what an interrupted write left, under the lock."""
    old, new = _beside(out, "old"), _beside(out, "new")
    if old.exists():
        if out.exists():
            shutil.rmtree(old)
        else:
            old.rename(out)
    if new.exists():
        shutil.rmtree(new)


def _refuse_foreign(out: Path, *, force: bool) -> None:
    """InputError where the folder holds something that we did not write: it would be lost."""
    if not out.exists():
        return
    origin = Origin(file=str(out))
    if Path.cwd().is_relative_to(out):
        raise InputError("is the folder you are in", origin=origin, hint="name a folder inside it")
    if (out / ".git").exists():
        raise InputError("is a git repository", origin=origin, hint="name a folder inside it")
    try:
        manifest = read_manifest(out)
    except InputError:
        manifest = None  # damaged: then nothing vouches for what lies there
    ours = manifest.paths | {MANIFEST} if manifest else frozenset()
    foreign = sorted(set(_walk(out)) - ours)
    if foreign and not force:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise InputError(
            f"holds {foreign[0]}{more}, which no manifest of ours lists; it would be lost",
            origin=origin,
            hint="choose another folder, or give --force to delete what is there",
        )


def _walk(out: Path) -> Iterator[str]:
    """All that is no plain folder in a folder, as paths with `/`; links are listed, never followed."""
    for folder, folders, names in os.walk(out):
        here = Path(folder)
        links = [name for name in folders if (here / name).is_symlink()]
        yield from ((here / name).relative_to(out).as_posix() for name in (*names, *links))


def _through_link(out: Path, name: str) -> bool:
    """Whether a path in the bundle passes a symbolic link, so that it would lead out of the folder."""
    path = out / name
    return any(
        part.is_symlink() for part in (path, *path.parents) if part != out and part.is_relative_to(out)
    )


def _stage(files: Mapping[str, bytes], new: Path) -> None:
    """Write all files into a fresh folder and flush them to disk; nothing stays where that fails."""
    new.mkdir()
    try:
        folders = {new}
        for name in sorted(files):
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            folders.update(parent for parent in path.parents if parent.is_relative_to(new))
            with path.open("xb") as file:
                file.write(files[name])
        # All writes, then all flushes, is three times as fast: the first flush takes the others along.
        for path in (*(new / name for name in sorted(files)), *sorted(folders)):
            _flush(path)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swap(out: Path) -> None:
    """The new folder takes the old one's place; where that fails, the old one is put back."""
    old, new = _beside(out, "old"), _beside(out, "new")
    moved = False
    try:
        if out.exists():
            out.rename(old)
            moved = True
        new.rename(out)
    except BaseException:
        if moved and not out.exists():
            old.rename(out)
        shutil.rmtree(new, ignore_errors=True)
        raise
    _flush(out.parent)
    if moved:
        shutil.rmtree(old, ignore_errors=True)  # what stays is removed by the next write


def _differences(files: Mapping[str, bytes], out: Path) -> Iterator[Difference]:
    there = set(_walk(out)) if out.is_dir() else set()
    for name in sorted(there - set(files)):
        yield Difference(name, "extra")
    for name, data in files.items():
        path = out / name
        if name not in there or _through_link(out, name) or not path.is_file():
            yield Difference(name, "missing")
        elif (found := path.read_bytes()) != data:
            yield Difference(name, "changed", "" if name == MANIFEST else _diff(name, found, data))


def _diff(name: str, found: bytes, wanted: bytes) -> str:
    """A short unified diff, from what is there to what should be."""
    lines: Sequence[str] = list(
        difflib.unified_diff(
            found.decode("utf-8", "replace").splitlines(),
            wanted.decode("utf-8", "replace").splitlines(),
            f"{name} (there)",
            f"{name} (should be)",
            lineterm="",
            n=1,
        )
    )
    if len(lines) > _DIFF_LINES:
        lines = [*lines[:_DIFF_LINES], f"... {len(lines) - _DIFF_LINES} lines more"]
    return "\n".join(lines)


def _disk_error(error: OSError, out: Path) -> InputError:
    place = str(error.filename) if error.filename else str(out)
    return InputError(
        f"the bundle was not written: {error.strerror or error}",
        origin=Origin(file=place),
        hint="what was there before is untouched; make room or choose another folder",
    )
