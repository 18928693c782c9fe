"""The commented starter that `profile new` writes."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from monitorgen.errors import InputError
from monitorgen.profile.load import builtin_names


def write_starter(file: Path, extends: str) -> None:
    """Write the starter to `file`. Raises InputError if it exists or if `extends` is unknown."""
    if extends not in builtin_names():
        raise InputError(f"there is no profile {extends!r}", hint=f"there are {', '.join(builtin_names())}")
    text = (files("monitorgen.templates") / "starter.yaml.j2").read_text(encoding="utf-8")
    try:
        with file.open("x", encoding="utf-8") as handle:
            handle.write(text.replace("[[ extends ]]", extends))
    except FileExistsError as error:
        raise InputError(f"{file} exists already", hint="choose another name") from error
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror or error}") from error
