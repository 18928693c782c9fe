"""How to speculate, typed: what a person writes in a file or as flags, checked before any work.

A file is YAML, one mapping of the fields of `Settings`, with - or _ in their names:

    method: draft-model
    k: 4
    adaptive: true
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from monitorgen.kernels.workload import UsageError

METHODS = ("draft-model", "ngram", "head")
LONGEST_DRAFT = 32
KINDS = {"str": str, "int": int, "float": (int, float), "bool": bool}


@dataclass(frozen=True, slots=True)
class Settings:
    """One way to speculate. Raises UsageError, naming the field, for what cannot be.

    `k` is the length of a draft, the longest one if `adaptive`. `draft` names a draft of the pair, or the
    folder of a checkpoint. `temperature` 0 is greedy.
    """

    method: str = "draft-model"
    k: int = 4
    adaptive: bool = False
    draft: str = ""
    ngram_min: int = 2
    ngram_max: int = 4
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(
                f"method {self.method!r}: there are {', '.join(METHODS)}{near(self.method, METHODS)}"
            )
        if not 1 <= self.k <= LONGEST_DRAFT:
            raise UsageError(f"k {self.k}: a draft has 1 to {LONGEST_DRAFT} tokens")
        if not 1 <= self.ngram_min <= self.ngram_max:
            raise UsageError(
                f"ngram-min {self.ngram_min}, ngram-max {self.ngram_max}: from at least 1 upwards is wanted"
            )
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature {self.temperature:g}: it must be 0 (greedy) or more")
        if self.top_k < 0 or not 0 < self.top_p <= 1:
            raise UsageError(f"top-k {self.top_k} must be 0 or more, top-p {self.top_p:g} over 0 and up to 1")

    def __str__(self) -> str:
        """The fields that are not the defaults, for tables."""
        method = f"{self.method} {self.draft}".strip()
        k = f"k to {self.k}" if self.adaptive else f"k={self.k}"
        heat = f", temperature {self.temperature:g}" if self.temperature else ""
        return f"{method}, {k}{heat}"


NAMES = tuple(field.name for field in fields(Settings))


def settings_of(said: Any, where: str) -> Settings:
    """Settings from what a file says. Raises UsageError naming the place and the key."""
    if not isinstance(said, Mapping):
        raise UsageError(f"{where}: a mapping of settings is wanted, such as `method: ngram`, not {said!r}")
    kinds = {field.name: str(field.type) for field in fields(Settings)}
    found: dict[str, Any] = {}
    for key, value in said.items():
        name = str(key).replace("-", "_")
        if name not in kinds:
            raise UsageError(f"{where}: unknown key {key!r}; there are {', '.join(NAMES)}{near(name, NAMES)}")
        kind: Any = KINDS[kinds[name]]
        if not isinstance(value, kind) or (isinstance(value, bool) and kinds[name] != "bool"):
            raise UsageError(f"{where}: {key} is {value!r}, {kinds[name]} is wanted")
        found[name] = float(value) if kinds[name] == "float" else value
    try:
        return Settings(**found)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def read_yaml(path: Path) -> Any:
    """What a YAML file says. Raises UsageError with the line of a mistake."""
    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{line} is no YAML: {getattr(error, 'problem', error)}") from None


def settings_from(flags: Mapping[str, Any]) -> Settings:
    """The settings of a file (`config`), over them those of the flags that were given (not None)."""
    path = flags.get("config")
    base = settings_of(read_yaml(Path(path)), str(path)) if path else Settings()
    given = {name: flags[name] for name in NAMES if flags.get(name) is not None}
    return replace(base, **given)


def near(name: str, names: tuple[str, ...]) -> str:
    """`; did you mean X?` if a name is like one of the others, else nothing."""
    found = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {found[0]}?" if found else ""
