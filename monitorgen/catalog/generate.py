"""Write the catalogs that come with the package, from recorded pages and the table of families.

`python -m monitorgen.catalog.generate --scrapes DIR --families TSV` gives the same bytes
every time.

Three kinds of version, and each family says which evidence it has:

- recorded: scraped by us (`vllm-VERSION[.RUN][.tN].prom`), merged; families that only the source knows are
  added.
- listed: the table says what was seen on the wire, without the page. Help, buckets and values are carried
  over from the recorded versions around it.
- read: only the source is known. What the source reader cannot see (`http_*`, `process_*`, `python_*`) and
  its holes (a family that both versions beside it have) is inferred from both neighbouring recordings:
  origin `neighbour`. Before the first recording there is one neighbour only, and just what the libraries
  expose is taken from it.

Bucket edges are carried over where the recordings around agree; where they do not (token histograms grow with
`--max-model-len`), the edges that both have are kept. The V0 engine's families are left out.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType

from monitorgen.catalog.capture import capture
from monitorgen.catalog.conventions import unit_of
from monitorgen.catalog.declared import prometheus, workload
from monitorgen.catalog.model import Catalog, Family, FamilyType
from monitorgen.catalog.store import DATA, write
from monitorgen.catalog.versions import version_key

OLDEST = (0, 9)
_SCRAPE = re.compile(r"vllm-(\d+(?:\.\d+)*?)((?:-h100)?(?:\.[a-z]\w*)*)\.prom(?:\.gz)?")
_LIBRARIES = ("http_*", "process_*", "python_*")
_LAZY = ("http_*",)  # label values appear with the first such request: those of all recordings are kept
_CONFIG_LABELS = "(all CacheConfig fields)"

# Labels that the reader of the source misses, because vLLM declares them away from the name; read in 0.32.0.
UNSEEN_LABELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("vllm:kv_offload_tiering_promotion_allocation_failures_total", ()),
    ("vllm:kv_offload_tiering_*", ("tier",)),
)

HIDDEN = "--show-hidden-metrics-for-version={previous}"
# What a family needs, by name: for pages (which do not say it) and for the source alike.
NEEDS: tuple[tuple[str, str], ...] = (
    ("process_*", "one API server (no --api-server-count above 1)"),
    ("python_*", "one API server (no --api-server-count above 1)"),
    ("vllm:spec_decode_*", "--speculative-config"),
    ("vllm:diffusion_*", "a diffusion language model"),
    ("vllm:kv_block_*", "--kv-cache-metrics"),
    ("vllm:estimated_*_per_gpu_total", "--enable-mfu-metrics (0 without it)"),
    ("vllm:tool_call_parser_*", "--tool-call-parser"),
    ("vllm:lora_requests_info", "--enable-lora"),
    ("vllm:corrupted_requests_total", "VLLM_COMPUTE_NANS_IN_LOGITS=1"),
    ("vllm:nixl_*", "--kv-transfer-config with NixlConnector"),
    ("vllm:hf3fs_*", "--kv-transfer-config with HF3FSConnector"),
    ("vllm:mooncake_*", "--kv-transfer-config with MooncakeStoreConnector"),
    ("vllm:hisparse_host_block_*", "HiSparse and --kv-cache-metrics"),
    ("vllm:hisparse_*", "--kv-transfer-config with HiSparse"),
    ("vllm:simple_kv_offload_*", "--kv-transfer-config with SimpleCPUOffloadConnector"),
    ("vllm:kv_offload_tiering_*", "KV offloading with tiers"),
    ("vllm:kv_offload_cpu_*", "KV offloading to the CPU"),
    ("vllm:kv_offload_*", "--kv-transfer-config with OffloadingConnector"),
    ("vllm:num_requests_kv_fetch_by_stage", "--kv-transfer-config of a KV consumer"),
    ("vllm:watermark_requests_total", "a watermark configuration"),
    ("vllm:rl_weight_update_*", "weight updates (RL)"),
    ("vllm:sleep_mode_*", "--enable-sleep-mode"),
    ("vllm:websocket_*", "the realtime speech API"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table of families: `wire` where it was seen in a scrape."""

    name: str
    type: FamilyType
    labels: tuple[str, ...]
    wire: bool
    detail: str
    created: bool = False


def read_table(path: Path) -> dict[str, dict[str, Row]]:
    """The table of families: version -> name -> row, V1 engine only, `_created` folded into its family."""
    table: dict[str, dict[str, Row]] = {}
    created: set[tuple[str, str]] = set()
    with (
        gzip.open(path, "rt", encoding="utf-8")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8") as file
    ):
        for line in csv.DictReader(file, delimiter="\t"):
            version, name = line["version"], line["family"]
            if version_key(version) < OLDEST or line["origin"] == "source(V0 engine)":
                continue
            if name.endswith("_created"):
                created.add((version, name.removesuffix("_created")))
                continue
            unseen = next((more for pattern, more in UNSEEN_LABELS if fnmatchcase(name, pattern)), ())
            labels = tuple(sorted({*filter(None, line["labels"].split(",")), *unseen}))
            row = Row(name, line["type"], labels, line["origin"] == "scrape", line["detail"])  # type: ignore[arg-type]
            known = table.setdefault(version, {}).get(name)
            if known is None or (row.wire and not known.wire):
                table[version][name] = row
    for version, base in created:
        for name in (base, f"{base}_total"):
            if row := table[version].get(name):  # type: ignore[assignment]
                table[version][name] = replace(row, created=True)
    return table


def scrapes_of(folder: Path) -> dict[str, list[Path]]:
    """The recorded pages of a folder by version, in the order of their names."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if match := _SCRAPE.fullmatch(path.name):
            found.setdefault(match[1], []).append(path)
    return {version: found[version] for version in sorted(found, key=version_key)}


def needs_of(name: str, version: str = "", detail: str = "") -> str:
    """The flag or condition that a family of vLLM needs; empty: none."""
    if "show_hidden_metrics" in detail:
        major, minor, *_ = version_key(version)
        return HIDDEN.format(previous=f"{major}.{minor - 1}")
    return next((flag for pattern, flag in NEEDS if fnmatchcase(name, pattern)), "")


def record(version: str, pages: Sequence[Path]) -> Catalog:
    """The catalog of a recorded version: the pages alone."""
    catalog = capture([str(page) for page in pages], engine="vllm", version=version)
    families = {
        name: replace(family, needs=needs_of(name) or family.needs)
        for name, family in catalog.families.items()
    }
    runs = sorted(
        {(_SCRAPE.fullmatch(page.name) or [""] * 3)[2].partition(".t")[0].strip(".-") for page in pages}
    )
    told = ", ".join(run or "default flags" for run in runs)
    provenance = f"{catalog.provenance} of a running server ({told})"
    return replace(catalog, families=MappingProxyType(families), provenance=provenance)


def build(scrapes: Path, table: Path) -> tuple[Catalog, ...]:
    """All catalogs of vLLM, oldest first."""
    rows = read_table(table)
    recordings = {version: record(version, pages) for version, pages in scrapes_of(scrapes).items()}
    recordings = _with_lazy_values(recordings)
    order = sorted(rows.keys() | recordings.keys(), key=version_key)
    return tuple(_complete(version, order, rows, recordings) for version in order)


def _with_lazy_values(recordings: Mapping[str, Catalog]) -> dict[str, Catalog]:
    everything = [family for catalog in recordings.values() for family in catalog.families.values()]
    whole = {
        family.name: _values([other for other in everything if other.name == family.name])
        for family in everything
        if _fits(family.name, _LAZY)
    }
    return {
        version: replace(
            catalog,
            families=MappingProxyType(
                {
                    name: replace(family, values=whole.get(name, family.values))
                    for name, family in catalog.families.items()
                }
            ),
        )
        for version, catalog in recordings.items()
    }


def _complete(
    version: str,
    order: Sequence[str],
    rows: Mapping[str, Mapping[str, Row]],
    recordings: Mapping[str, Catalog],
) -> Catalog:
    own = rows.get(version, {})
    around = _around(version, recordings)
    if version in recordings:
        base = recordings[version]
        families = dict(base.families)
        provenance = base.provenance
        around = [base, *around]
    else:
        base, families = None, {}
        near = " and ".join(catalog.version for catalog in around)
        seen = "seen on the wire, and read" if any(row.wire for row in own.values()) else "read"
        provenance = f"{seen} in the source of vLLM; help, edges and values as recorded of {near}"
    for name, row in own.items():
        if name not in families:
            families[name] = _from_row(version, row, _having(name, around), recordings)
    if base is None:
        for name in _missing(version, order, rows, around):
            families[name] = _carried(version, name, _having(name, around))
    return Catalog("vllm", version, MappingProxyType(families), provenance, recorded=base is not None)


def _around(version: str, recordings: Mapping[str, Catalog]) -> list[Catalog]:
    """The recordings before and after a version (one of them at an end)."""
    key = version_key(version)
    before = [catalog for name, catalog in recordings.items() if version_key(name) < key]
    after = [catalog for name, catalog in recordings.items() if version_key(name) > key]
    return [*before[-1:], *after[:1]]


def _having(name: str, catalogs: Iterable[Catalog]) -> list[Family]:
    return [catalog.families[name] for catalog in catalogs if name in catalog.families]


def _missing(
    version: str, order: Sequence[str], rows: Mapping[str, Mapping[str, Row]], around: Sequence[Catalog]
) -> list[str]:
    """The names that the source reader cannot or did not see at a version, and that were surely there."""
    own = rows.get(version, {})
    at = order.index(version)
    both: set[str] = set.intersection(*(set(catalog.families) for catalog in around))
    if len(around) < 2:
        both = {name for name in both if _fits(name, _LIBRARIES)}
    if 0 < at < len(order) - 1:
        sides = (rows.get(order[at - 1], {}), rows.get(order[at + 1], {}))
        both |= {name for name in sides[0].keys() & sides[1].keys() if _having(name, around)}
    return sorted(both - own.keys())


def _from_row(version: str, row: Row, known: Sequence[Family], recordings: Mapping[str, Catalog]) -> Family:
    """A family of the table, with what the recordings around (or else any) say about it."""
    known = [family for family in known if family.type == row.type]
    ever = known or [f for f in _having(row.name, recordings.values()) if f.type == row.type]
    labels = _common_labels(known) if row.labels == (_CONFIG_LABELS,) else row.labels
    return Family(
        name=row.name,
        type=row.type,
        unit=unit_of(row.name, row.type),
        help=next((family.help for family in ever), ""),
        labels=labels,
        values=MappingProxyType({k: seen for k, seen in _values(ever).items() if k in (*labels, "quantile")}),
        buckets=_common_edges(ever),
        origin="wire" if row.wire else "source",
        needs=needs_of(row.name, version, row.detail),
        created=row.created or (not row.wire and any(family.created for family in ever)),
    )


def _carried(version: str, name: str, known: Sequence[Family]) -> Family:
    return replace(
        known[0],
        labels=_common_labels(known),
        values=MappingProxyType(_values(known)),
        buckets=_common_edges(known),
        origin="neighbour",
        needs=needs_of(name, version),
        created=all(family.created for family in known),
    )


def _common_labels(families: Sequence[Family]) -> tuple[str, ...]:
    return tuple(sorted(set.intersection(*(set(family.labels) for family in families)))) if families else ()


def _common_edges(families: Sequence[Family]) -> tuple[float, ...]:
    return tuple(sorted(set.intersection(*(set(family.buckets) for family in families)))) if families else ()


def _values(families: Sequence[Family]) -> dict[str, tuple[str, ...]]:
    labels = sorted({label for family in families for label in family.values})
    return {
        label: tuple(sorted({value for family in families for value in family.values.get(label, ())}))
        for label in labels
    }


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def generate(scrapes: Path, table: Path, out: Path) -> tuple[Path, ...]:
    """Write all catalog files under `out` (ENGINE/VERSION.yaml); returns what was written."""
    paths = []
    for catalog in (*build(scrapes, table), prometheus(), workload()):
        path = out / catalog.engine / f"{catalog.version}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(catalog, path)
        paths.append(path)
    return tuple(paths)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(
        prog="python -m monitorgen.catalog.generate", description="Renew the catalogs."
    )
    parser.add_argument("--scrapes", type=Path, required=True, help="folder with recorded pages")
    parser.add_argument("--families", type=Path, required=True, help="the table of families by version")
    parser.add_argument("--out", type=Path, default=DATA, help="where to write (default: the package's data)")
    chosen = parser.parse_args(arguments)
    for path in generate(chosen.scrapes, chosen.families, chosen.out):
        print(path)


if __name__ == "__main__":
    main()
