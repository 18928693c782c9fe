"""Versions of engines and ranges over them: `>=0.9, <0.33`, where 0.9 stands for every 0.9.x."""

from __future__ import annotations

import re
from functools import lru_cache

from monitorgen.errors import InputError

_VERSION = re.compile(r"\d+(?:\.\d+)*", re.ASCII)
_WHOLE = re.compile(r"\d+(?:\.\d+)*(?:[-+.]?[A-Za-z][A-Za-z0-9.+-]*)?", re.ASCII)
_CLAUSE = re.compile(r"(>=|<=|==|!=|>|<|)\s*(\d+(?:\.\d+)*)(?:\.\*)?", re.ASCII)


def is_version(text: str) -> bool:
    """Whether the text is a version: numbers and dots, perhaps with a tag such as `rc1` or `+cpu`."""
    return _WHOLE.fullmatch(text) is not None


def version_key(version: str) -> tuple[int, ...]:
    """The numbers of a version, for ordering; tags after them (`rc1`, `+cpu`) do not count."""
    found = _VERSION.match(version)
    if found is None:
        raise InputError(f"{version!r} is not a version", hint="write numbers and dots, such as 0.32.0")
    return tuple(int(part) for part in found.group().split("."))


@lru_cache(maxsize=256)
def parse_spec(spec: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The clauses of a range as (operator, numbers); empty text is a range without limits."""
    clauses = []
    for part in filter(None, (piece.strip() for piece in spec.split(","))):
        found = _CLAUSE.fullmatch(part)
        if found is None:
            raise InputError(
                f"{part!r} is not a version range", hint='write it like ">=0.9, <0.33" or "0.32"'
            )
        clauses.append((found.group(1) or "==", version_key(found.group(2))))
    return tuple(clauses)


def matches(version: str, spec: str) -> bool:
    """Whether a version is in a range.

    A clause looks at as many numbers as it was written with, so `==0.9` and `<=0.9` hold for 0.9.2,
    and `>0.9` does not.
    """
    numbers = version_key(version)
    return all(_holds(numbers, operator, limit) for operator, limit in parse_spec(spec))


def _holds(numbers: tuple[int, ...], operator: str, limit: tuple[int, ...]) -> bool:
    cut = (*numbers, *(0,) * len(limit))[: len(limit)]
    match operator:
        case ">=":
            return cut >= limit
        case "<=":
            return cut <= limit
        case ">":
            return cut > limit
        case "<":
            return cut < limit
        case "!=":
            return cut != limit
        case _:
            return cut == limit
