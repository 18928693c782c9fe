"""Catalog files: the ones that come with the package, and how a catalog is written.

A file is YAML in flow style, a family a line, kept inside the subset that is also JSON: people and `git
diff` read lines, and the loader reads a version in a millisecond or two. What people write themselves goes
through `userfile.read`, which takes any YAML and checks it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from monitorgen.catalog.conventions import grows
from monitorgen.catalog.model import Catalog, Family
from monitorgen.catalog.versions import is_version, matches, version_key
from monitorgen.errors import InputError

DATA = Path(__file__).parent / "data"


@lru_cache(maxsize=1)
def engines() -> tuple[str, ...]:
    """The engines that have catalogs."""
    return tuple(sorted(path.name for path in DATA.iterdir() if path.is_dir()))


@lru_cache(maxsize=16)
def versions(engine: str) -> tuple[str, ...]:
    """The versions of an engine that have a catalog, oldest first. InputError for an unknown engine."""
    if engine not in engines():
        raise InputError(f"no catalog of engine {engine!r}", hint=f"there are: {', '.join(engines())}")
    names = (path.name.removesuffix(".yaml") for path in (DATA / engine).glob("*.yaml"))
    return tuple(sorted(filter(is_version, names), key=version_key))


def load(engine: str, version: str) -> Catalog:
    """The catalog of a version; `0.32` stands for the newest 0.32.x. InputError if there is none."""
    known = versions(engine)
    if version in known:
        return _load(engine, version)
    fitting = [name for name in known if is_version(version) and matches(name, f"=={version}")]
    if not fitting:
        raise InputError(f"no catalog of {engine} {version}", hint=f"there are: {', '.join(known)}")
    return _load(engine, fitting[-1])


def in_range(engine: str, spec: str) -> tuple[Catalog, ...]:
    """The catalogs of all versions in a range such as `>=0.9, <0.33`, oldest first."""
    return tuple(_load(engine, version) for version in versions(engine) if matches(version, spec))


def recorded(engine: str, spec: str) -> tuple[Catalog, ...]:
    """Those of `in_range` that rest on a scrape of our own."""
    fitting = (version for version in versions(engine) if matches(version, spec))
    return tuple(_load(engine, version) for version in fitting if _is_recorded(engine, version))


def _is_recorded(engine: str, version: str) -> bool:
    """Read off the lines before the families: four times as many versions are not, and none is parsed."""
    with (DATA / engine / f"{version}.yaml").open(encoding="utf-8") as file:
        for line in file:
            if line.startswith(('"recorded":', '"families":')):
                return line.startswith('"recorded": true')
    return False


@lru_cache(maxsize=128)
def _load(engine: str, version: str) -> Catalog:
    return from_plain(json.loads((DATA / engine / f"{version}.yaml").read_text("utf-8")))


def from_plain(plain: Mapping[str, Any]) -> Catalog:
    """A catalog from the plain data of a file that is known to be right."""
    families = {name: _family(name, row) for name, row in plain["families"].items()}
    return Catalog(
        engine=plain["engine"],
        version=plain["version"],
        families=MappingProxyType(families),
        provenance=plain.get("provenance", ""),
        recorded=plain.get("recorded", False),
    )


def _family(name: str, row: Mapping[str, Any]) -> Family:
    values = {label: tuple(seen) for label, seen in row.get("values", {}).items()}
    return Family(
        name=name,
        type=row["type"],
        unit=row.get("unit", ""),
        help=row.get("help", ""),
        labels=tuple(row.get("labels", ())),
        values=MappingProxyType(values),
        buckets=tuple(map(float, row.get("buckets", ()))),
        origin=row.get("origin", "wire"),
        needs=row.get("needs", ""),
        created=row.get("created", False),
        grows=grows(name),
    )


def dumps(catalog: Catalog) -> str:
    """The text of a catalog file: families sorted by name, a line each, defaults left out."""
    head = [
        f'"engine": {_quoted(catalog.engine)}',
        f'"version": {_quoted(catalog.version)}',
        f'"provenance": {_quoted(catalog.provenance)}',
        f'"recorded": {_value(catalog.recorded)}',
    ]
    lines = [f"{_quoted(name)}: {_row(catalog.families[name])}" for name in sorted(catalog.families)]
    families = '"families": {' + "".join(f"\n  {line}," for line in lines).removesuffix(",") + "\n}"
    return "{" + ",\n".join([*head, families]) + "}\n"


def write(catalog: Catalog, path: Path) -> None:
    """Write a catalog file. InputError if the place cannot be written."""
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(dumps(catalog), "utf-8")
        partial.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def _row(family: Family) -> str:
    fields: dict[str, Any] = {
        "type": family.type,
        "unit": family.unit,
        "labels": list(family.labels),
        "values": {label: list(family.values[label]) for label in sorted(family.values)},
        "buckets": list(family.buckets),
        "origin": "" if family.origin == "wire" else family.origin,
        "needs": family.needs,
        "created": family.created,
        "help": family.help,
    }
    return _value({key: value for key, value in fields.items() if value or key == "unit"})


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case float():
            return _number(value)
        case list():
            return "[" + ", ".join(map(_value, value)) + "]"
        case dict():
            return "{" + ", ".join(f"{_quoted(key)}: {_value(item)}" for key, item in value.items()) + "}"
        case _:
            return _quoted(str(value))


def _number(value: float) -> str:
    """A number that JSON and YAML 1.1 both read as one: `1e-05` would be text in YAML, `1.0e-05` is not."""
    if value.is_integer() and abs(value) < 1e16:
        return str(int(value))
    text = repr(value)
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


# JSON leaves these as they are, and YAML refuses them unless they are escaped.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def _quoted(text: str) -> str:
    plain = json.dumps(text, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found.group()):04x}", plain)
