"""What people name on the command line: `vllm@0.32`, `vllm` (the newest), or a catalog file."""

from __future__ import annotations

from pathlib import Path

from monitorgen.catalog.model import Catalog
from monitorgen.catalog.store import engines, load, versions
from monitorgen.errors import InputError


def resolve(reference: str) -> Catalog:
    """The catalog that a reference names. InputError if there is none."""
    engine, at, version = reference.partition("@")
    if engine in engines():
        if at and not version:
            raise InputError(f"{reference!r} names no version", hint=f"there are: {_listed(engine)}")
        return load(engine, version or versions(engine)[-1])
    path = Path(reference)
    if path.is_file():
        from monitorgen.catalog.userfile import read

        return read(path)
    known = ", ".join(f"{name}@{versions(name)[-1]}" for name in engines())
    raise InputError(f"{reference!r} is neither a catalog nor a file", hint=f"for example {known}")


def _listed(engine: str) -> str:
    return ", ".join(versions(engine))
