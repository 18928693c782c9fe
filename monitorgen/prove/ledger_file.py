"""Ledgers read from JSON: typed, and every mistake named with its place in the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from monitorgen.bundle import Origin
from monitorgen.errors import InputError
from monitorgen.prove.ledger import KINDS, LEVELS, About, Ledger, Level, Proof

T = TypeVar("T")
_WORDS = {str: "a text", int: "a whole number", bool: "true or false", list: "a list", dict: "an object"}
_NUMBERS = {"NaN": float("nan"), "+Inf": float("inf"), "-Inf": float("-inf")}
_HINT = "give a file that `prove`, `check` or `report` wrote"
_SHOWN = 40  # characters of a wrong value in a message


def read_ledger(path: Path) -> Ledger:
    """The ledger in a file. Raises InputError where it cannot be read or is no ledger."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}", hint=_HINT) from error
    return ledger_of_text(data, str(path))


def ledger_of_text(text: str | bytes, file: str = "") -> Ledger:
    """The ledger of a JSON text. Raises InputError with the line and column where it is no JSON."""
    try:
        plain = json.loads(text)
    except json.JSONDecodeError as error:
        at = Origin(file, error.lineno, error.colno)
        raise InputError(f"this is no JSON: {error.msg}", origin=at, hint=_HINT) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"this is no JSON: {error}", origin=Origin(file), hint=_HINT) from error
    if not isinstance(plain, dict):
        raise InputError("this is no ledger: it is no JSON object", origin=Origin(file), hint=_HINT)
    return ledger_of(plain, file)


def ledger_of(plain: Mapping[str, Any], file: str = "") -> Ledger:
    """The ledger of plain data, as `Ledger.to_dict` gives it. Raises InputError for anything else."""
    top = _Object(plain, "", file)
    items: dict[str, _Object] = {}
    for one in top.objects("items", required=True):
        name = one.get("item", str)
        if name in items:
            one.refuse("item", f"{name!r} is listed twice")
        items[name] = one
    ledger = Ledger(
        top.get("bundle", str),
        tuple(items),
        dormant=top.texts("dormant"),
        notes=top.list_of("notes", str),
        run=top.texts("run"),
        runs=[one.all_texts() for one in top.objects("runs")],
    )
    for name, one in items.items():
        _read_item(ledger, name, one)
    return ledger


def _read_item(ledger: Ledger, item: str, one: _Object) -> None:
    about = one.texts("about")
    known = About(**{key: about.get(key, "") for key in About.__slots__})
    if known != About():
        ledger.about[item] = known
    beyond = tuple(one.level(f"beyond[{i}]", name) for i, name in enumerate(one.list_of("beyond", str)))
    if beyond:
        ledger.beyond[item] = beyond
    for level, reason in one.texts("reasons").items():
        ledger.unproven(item, one.level(f"reasons.{level}", level), reason)
    ledger.add(_proof(item, proof) for proof in one.objects("proofs"))


def _proof(item: str, one: _Object) -> Proof:
    if one.get("item", str, item) != item:
        one.refuse("item", f"this proof is listed under {item!r}")
    kind = one.get("kind", str, "")
    if kind and kind not in KINDS:
        one.refuse("kind", f"{_short(kind)} is none of {', '.join(KINDS)}")
    return Proof(
        item,
        one.level("level", one.get("level", str)),
        one.get("claim", str),
        one.get("holds", bool),
        one.get("source", str, ""),
        one.get("asked", str, ""),
        one.get("answer", str, ""),
        one.get("when", str, ""),
        kind,
        one.get("series", int, 0),
        None if one.plain.get("value") is None else one.number("value", one.plain["value"]),
        tuple(one.point(i, point) for i, point in enumerate(one.list_of("points", list))),
    )


class _Object:
    """A JSON object that knows its place, and refuses what is not as it should be."""

    def __init__(self, plain: Mapping[str, Any], where: str, file: str) -> None:
        self.plain, self.where, self.file = plain, where, file

    def refuse(self, key: str, message: str) -> NoReturn:
        """Raise InputError for the value of a key."""
        place = f"{self.where}.{key}" if self.where else key
        raise InputError(f"{place}: {message}", origin=Origin(self.file), hint=_HINT)

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        """The value of a key, which must be of a type; the default where the key is absent."""
        if key not in self.plain:
            if default is None:
                self.refuse(key, "is missing")
            return default
        return self._typed(key, self.plain[key], kind)

    def list_of(self, key: str, kind: type[T]) -> list[T]:
        """A list whose values are of a type; empty where the key is absent."""
        found: list[Any] = self.get(key, list, [])
        return [self._typed(f"{key}[{i}]", one, kind) for i, one in enumerate(found)]

    def objects(self, key: str, *, required: bool = False) -> list[_Object]:
        """A list of objects, which is empty where the key is absent and not required."""
        if required:
            self.get(key, list)
        place = f"{self.where}.{key}" if self.where else key
        return [_Object(one, f"{place}[{i}]", self.file) for i, one in enumerate(self.list_of(key, dict))]

    def texts(self, key: str) -> dict[str, str]:
        """An object whose values are texts."""
        place = f"{self.where}.{key}" if self.where else key
        found: dict[str, Any] = self.get(key, dict, {})
        return _Object(found, place, self.file).all_texts()

    def all_texts(self) -> dict[str, str]:
        """This object, all of whose values must be texts."""
        return {key: self._typed(key, value, str) for key, value in self.plain.items()}

    def level(self, key: str, name: str) -> Level:
        """The name of a level."""
        if name not in LEVELS:
            self.refuse(key, f"{_short(name)} is no level ({', '.join(LEVELS)})")
        return name

    def number(self, key: str, value: object) -> float:
        """A number, or one of the texts that stand for what JSON has no number for."""
        if isinstance(value, str) and value in _NUMBERS:
            return _NUMBERS[value]
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(key, f"expected a number, found {_short(value)}")
        try:
            return float(value)
        except OverflowError:
            self.refuse(key, "the number is too large")

    def point(self, index: int, point: list[Any]) -> tuple[float, float]:
        """A point of a series: time and value."""
        key = f"points[{index}]"
        if len(point) != 2:
            self.refuse(key, "expected a time and a value")
        return self.number(f"{key}[0]", point[0]), self.number(f"{key}[1]", point[1])

    def _typed(self, key: str, value: object, kind: type[T]) -> T:
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.refuse(key, f"expected {_WORDS[kind]}, found {_short(value)}")
        return value


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
