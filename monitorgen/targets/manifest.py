"""The manifest: what a written bundle consists of, with digests, and what its files have no place for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monitorgen.bundle import Origin
from monitorgen.errors import InputError

MANIFEST = "manifest.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the bundle: its path in the bundle (with `/`), its digest and its size in bytes."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a bundle, sorted, and what is said about it (generator, profile, notes on items)."""

    files: tuple[Entry, ...]
    about: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def paths(self) -> frozenset[str]:
        """The paths of all files, without the manifest's own."""
        return frozenset(entry.path for entry in self.files)

    def text(self) -> str:
        """The manifest's file: sorted, no clocks, so the same bundle gives the same bytes."""
        tree = {
            "format": _FORMAT,
            "files": [{"path": e.path, "sha256": e.sha256, "size": e.size} for e in self.files],
            **self.about,
        }
        return json.dumps(tree, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def manifest_of(files: Mapping[str, bytes], about: Mapping[str, Any] | None = None) -> Manifest:
    """The manifest of files that are about to be written."""
    entries = tuple(Entry(path, digest(data), len(data)) for path, data in sorted(files.items()))
    return Manifest(entries, dict(about or {}))


def digest(data: bytes) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def read_manifest(out: Path) -> Manifest | None:
    """The manifest of a written bundle; None where there is none. InputError where it cannot be read."""
    path = out / MANIFEST
    if path.is_symlink() or not path.is_file():
        return None
    origin = Origin(file=str(path))
    try:
        tree = json.loads(path.read_bytes().decode("utf-8"))
        files = tuple(
            Entry(str(entry["path"]), str(entry["sha256"]), int(entry["size"])) for entry in tree.pop("files")
        )
        version = tree.pop("format")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            "this manifest is not one of ours, or it is damaged", origin=origin, hint="build the bundle again"
        ) from error
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", origin=origin) from error
    if version != _FORMAT:
        raise InputError(
            f"the manifest has format {version!r}; this version knows {_FORMAT}",
            origin=origin,
            hint="build the bundle again with this version",
        )
    for entry in files:
        check_name(entry.path, origin=origin)
    return Manifest(files, tree)


def check_name(name: str, *, origin: Origin | None = None) -> None:
    """InputError for a file name that would leave the bundle's folder, or that no file system takes."""
    parts = name.split("/")
    bad = (
        not name
        or any(part in ("", ".", "..") or len(part.encode("utf-8", "surrogatepass")) > 255 for part in parts)
        or any(ord(char) < 32 or char in "\\\x7f" or "\ud800" <= char <= "\udfff" for char in name)
    )
    if bad:
        raise InputError(
            f"{name!r} cannot be a file of a bundle",
            origin=origin,
            hint="names are relative, without '..' and control characters",
        )
