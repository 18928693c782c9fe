"""The folder of a run: what was measured, whole, and pages and pictures of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monitorgen.bench.plots import samples_svg
from monitorgen.bench.result import BenchRun
from monitorgen.errors import InputError


def make_folder(out: Path | None, timestamp: str) -> Path:
    """The run's own folder. Raises InputError for one that holds files already."""
    folder = out or Path("artifacts") / "bench" / timestamp.replace(":", "")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} holds files already", hint="name another folder with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {folder}: {error.strerror}") from error
    return folder


def write(run: BenchRun, folder: Path, page: str = "", told: Mapping[str, Any] | None = None) -> None:
    """run.json with every sample, a picture a target, report.md with `page`, report.json with `told`."""
    run.save(folder)
    for result in run.results:
        if result.arms:
            (folder / result.name).mkdir(exist_ok=True)
            (folder / result.name / "samples.svg").write_text(samples_svg(result), encoding="utf-8")
    if page:
        (folder / "report.md").write_text(page, encoding="utf-8")
    if told is not None:
        (folder / "report.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
