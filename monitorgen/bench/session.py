"""A whole run: the chosen targets one after the other, and where they ran."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitorgen.bench.environment import commit, environment, hardware_key, now
from monitorgen.bench.result import BenchRun, Provenance, Result
from monitorgen.bench.runner import OnProgress, Ran, Settings, run_target
from monitorgen.bench.targets import Chosen
from monitorgen.errors import ToolMissing

PROFILES = ("none", "minimal", "deep_dive", "roofline")


@dataclass(frozen=True, slots=True)
class Origin:
    """The commit that is timed, and whether files differ from it."""

    commit: str
    dirty: bool


def origin(named: str) -> Origin:
    """The checkout's commit; `named` where a copy without git is timed."""
    found, dirty = commit()
    return Origin(named or found, dirty and not named)


def refuse_missing(chosen: Sequence[Chosen]) -> None:
    """Refuse targets whose extra is not installed, before anything is timed."""
    needy = [one.target.name for one in chosen if one.target.extra]
    if needy and importlib.util.find_spec("torch") is None:
        raise ToolMissing(
            f"{', '.join(needy)} need{'s' if len(needy) == 1 else ''} torch, which is not installed",
            hint="pip install 'monitorgen[workloads]'",
        )


def run_all(
    chosen: Sequence[Chosen],
    settings: Settings,
    folder: Path,
    source: Origin,
    progress: Callable[[Chosen], OnProgress],
) -> BenchRun:
    """Time every target; one that fails leaves the others alone."""
    results: list[Result] = []
    device: dict[str, Any] = {}
    limits: dict[str, float] = {}
    started, facts = now(), environment()
    for one in chosen:
        ran: Ran = run_target(one, settings, folder / one.target.name, progress(one))
        results.append(ran.result)
        device = {**device, **ran.device}
        limits = limits or ran.ceilings
    provenance = Provenance(
        git_commit=source.commit,
        hardware_key=hardware_key(device, facts),
        profile_name=settings.profile,
        timestamp=started,
        iterations=settings.iterations,
        warmup_iterations=settings.warmup,
        dirty=source.dirty,
    )
    return BenchRun(provenance, {**facts, "device": device}, results, limits)
