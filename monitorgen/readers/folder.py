"""Folders and lists of files to one bundle: what we wrote ourselves, or whatever somebody else has.

A bundle of ours is read by its manifest, which also knows what rules and dashboards have no place for. In any
other folder every rule file, dashboard and Prometheus configuration counts, and other files are passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from monitorgen.bundle import Bundle, Dashboard, Origin, RuleGroup, Runbook, ScrapeJob
from monitorgen.errors import InputError
from monitorgen.readers.dashboards import dashboard_of, holds_dashboard
from monitorgen.readers.json_tree import JsonTree
from monitorgen.readers.notes import restored
from monitorgen.readers.rules import groups_of, holds_rules
from monitorgen.readers.scrapes import holds_jobs, jobs_of
from monitorgen.readers.source import read_source
from monitorgen.readers.yaml_nodes import documents

_MANIFEST = "manifest.json"
_YAML = (".yaml", ".yml")
_RUNBOOKS = "runbooks"


@dataclass(slots=True)
class _Found:
    """What was read so far."""

    groups: list[RuleGroup] = field(default_factory=list)
    dashboards: list[Dashboard] = field(default_factory=list)
    jobs: list[ScrapeJob] = field(default_factory=list)
    runbooks: list[Runbook] = field(default_factory=list)

    def bundle(self, name: str) -> Bundle:
        return Bundle(
            name=name,
            groups=tuple(self.groups),
            dashboards=tuple(self.dashboards),
            scrape_jobs=tuple(self.jobs),
            runbooks=tuple(self.runbooks),
        )


def read_folder(path: Path) -> Bundle:
    """The bundle in a folder; files are named relative to it. InputError where it holds nothing to read."""
    if not path.is_dir():
        raise InputError(
            "is not a folder", origin=Origin(file=str(path)), hint="name a folder that holds a bundle"
        )
    notes = _notes(path)
    names = [*_listed(path, notes)] if notes is not None else sorted(_walk(path))
    found = _Found()
    for name in names:
        _read(path / name, name, found, strict=False)
    bundle = found.bundle(path.resolve().name)
    if not any((found.groups, found.dashboards, found.jobs)):
        raise InputError(
            "holds no rule file, no dashboard and no prometheus.yml", origin=Origin(file=str(path))
        )
    return restored(bundle, notes) if notes is not None else bundle


def read_files(paths: Iterable[Path]) -> Bundle:
    """Files and folders as one bundle, named after the first; files keep the names that they were given."""
    paths = list(paths)
    if not paths:
        raise InputError("no file was named", hint="name rule files, dashboards or a folder")
    if len(paths) == 1 and paths[0].is_dir():
        return read_folder(paths[0])
    found = _Found()
    for path in paths:
        if path.is_dir():
            bundle = read_folder(path)
            found.groups += (replace(g, file=str(path / g.file)) for g in bundle.groups)
            found.dashboards += (replace(d, file=str(path / d.file)) for d in bundle.dashboards)
            found.jobs += bundle.scrape_jobs
            found.runbooks += bundle.runbooks
        else:
            _read(path, str(path), found, strict=True)
    return found.bundle(paths[0].stem)


def _read(path: Path, name: str, found: _Found, *, strict: bool) -> None:
    """Add what a file holds. A file that holds nothing for us is passed over, or (`strict`) an InputError."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        tree = JsonTree(read_source(path))
        if strict or holds_dashboard(tree.root):
            found.dashboards.append(dashboard_of(tree, name=name))
    elif suffix in _YAML:
        source = read_source(path)
        nodes = documents(source)
        if holds_rules(nodes):
            found.groups += groups_of(nodes, source, name=name)
        elif holds_jobs(nodes):
            found.jobs += (job for node in nodes for job in jobs_of(node))
        elif strict:
            hint = "a rule file has `groups:`, prometheus.yml has `scrape_configs:`"
            raise InputError("is neither rules nor prometheus.yml", origin=Origin(file=str(path)), hint=hint)
    elif suffix == ".md" and PurePosixPath(name).parent.name == _RUNBOOKS:
        found.runbooks.append(Runbook(path.stem, read_source(path).text))
    elif strict:
        raise InputError(
            "is no kind of file that is read here", origin=Origin(file=str(path)), hint="YAML or JSON"
        )


def _notes(path: Path) -> Mapping[str, object] | None:
    """Our manifest in this folder; None where there is none, or where somebody else's file has that name."""
    manifest = path / _MANIFEST
    if not manifest.is_file() or manifest.is_symlink():
        return None
    root = JsonTree(read_source(manifest)).root
    return root if isinstance(root, dict) and {"files", "format", "generator"} <= set(root) else None


def _listed(path: Path, notes: Mapping[str, object]) -> Iterator[str]:
    """The manifest's files, which must be there and inside the folder."""
    entries = notes["files"]
    for entry in entries if isinstance(entries, list) else []:
        name = entry.get("path") if isinstance(entry, dict) else None
        inside = isinstance(name, str) and (path / name).resolve().is_relative_to(path.resolve())
        if not isinstance(name, str) or not inside:
            raise InputError("the manifest names a file outside", origin=Origin(file=str(path / _MANIFEST)))
        if not (path / name).is_file():
            raise InputError(
                "is missing, though the manifest lists it",
                origin=Origin(file=str(path / name)),
                hint="build the bundle again",
            )
        yield name


def _walk(path: Path) -> Iterator[str]:
    """The files of a folder, hidden ones and links that lead out of it left aside."""
    root = path.resolve()
    for found in path.rglob("*"):
        name = found.relative_to(path)
        if any(part.startswith(".") for part in name.parts) or name.as_posix() == _MANIFEST:
            continue
        if found.is_file() and found.resolve().is_relative_to(root):
            yield name.as_posix()
