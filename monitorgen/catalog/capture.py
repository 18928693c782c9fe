"""From pages to a catalog: what a server exposed, over one or several scrapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from math import isfinite
from types import MappingProxyType

from monitorgen.catalog.conventions import unit_of
from monitorgen.catalog.exposition import Exposed
from monitorgen.catalog.model import Catalog, Family
from monitorgen.catalog.transport import LIMIT, read
from monitorgen.catalog.versions import is_version
from monitorgen.errors import InputError

_ADDED = frozenset({"le", "quantile"})
_NAMES = frozenset({"model_name", "engine", "instance", "job", "pod", "node", "uuid", "device", "hostname"})
_ENUMERABLE = 24  # more values than this are identities, not kinds


def capture(
    sources: Sequence[str],
    *,
    engine: str,
    version: str,
    needs: Mapping[str, str] | None = None,
    timeout: float = 10.0,
    limit: int = LIMIT,
) -> Catalog:
    """The catalog of a server, from its URL or recorded pages; several are merged.

    `needs` maps family names (or patterns with `*`) to the flag or condition that they need; a family that
    some of the pages lack says so where nothing else is known. Raises InputError for what cannot be read.
    """
    if not is_version(version):
        raise InputError(f"{version!r} is not a version", hint="write numbers and dots, such as 0.32.0")
    pages = [read(source, timeout=timeout, limit=limit) for source in sources]
    if not any(pages):
        raise InputError(f"{', '.join(sources)}: no metrics in there")
    families = {family.name: family for family in merge(pages, needs or {})}
    noun = "scrape" if len(pages) == 1 else "scrapes"
    return Catalog(
        engine=engine,
        version=version,
        families=MappingProxyType(families),
        provenance=f"recorded from {len(pages)} {noun}",
        recorded=True,
    )


def merge(pages: Sequence[Iterable[Exposed]], needs: Mapping[str, str]) -> tuple[Family, ...]:
    """The families of several pages of one engine, sorted by name."""
    seen: dict[str, list[Exposed]] = {}
    for page in pages:
        for exposed in page:
            seen.setdefault(exposed.name, []).append(exposed)
    unused = [pattern for pattern in needs if not any(fnmatchcase(name, pattern) for name in seen)]
    if unused:
        raise InputError(f"--needs names {unused[0]!r}, which no page exposes")
    return tuple(_family(seen[name], needs, len(pages)) for name in sorted(seen))


def _family(parts: Sequence[Exposed], needs: Mapping[str, str], pages: int) -> Family:
    first = parts[0]
    types = {part.type for part in parts} - {"unknown"}
    if len(types) > 1:
        raise InputError(
            f"{first.name} has several types: {', '.join(sorted(types))}", hint="one engine at a time"
        )
    kind = types.pop() if types else "unknown"
    labels: dict[str, set[str]] = {}
    edges: set[float] = set()
    for sample in (sample for part in parts for sample in part.samples):
        for label, value in sample.labels.items():
            if label == "le" and kind == "histogram":
                edges.add(float(value))
            else:
                labels.setdefault(label, set()).add(value)
    why = next((flag for pattern, flag in needs.items() if fnmatchcase(first.name, pattern)), "")
    some = f"seen in {len(parts)} of {pages} scrapes" if len(parts) < pages else ""
    return Family(
        name=first.name,
        type=kind,
        unit=unit_of(first.name, kind),
        help=next((part.help.strip() for part in parts if part.help.strip()), ""),
        labels=tuple(sorted(labels.keys() - _ADDED)),
        values=MappingProxyType(_values(first.name, kind, labels)),
        buckets=tuple(sorted(filter(isfinite, edges))),
        needs=why or some,
        created=any(part.created for part in parts),
    )


def _values(name: str, kind: str, labels: Mapping[str, set[str]]) -> dict[str, tuple[str, ...]]:
    """The values of labels that are kinds of things; those of an info metric are facts about one server."""
    if kind == "info" or name.endswith("_info"):
        return {}
    kept = ("quantile",) if kind == "summary" else ()
    return {
        label: tuple(sorted(seen))
        for label, seen in sorted(labels.items())
        if (label in kept or label not in _ADDED | _NAMES) and len(seen) <= _ENUMERABLE
    }
