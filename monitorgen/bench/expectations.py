"""What a machine is known to reach: kernels/expectations/HARDWARE.json, and the gates that hold runs to it.

A gate on speedup alone is blind when both arms slow down together, so absolute times and shares of the
roofline are gated, each within the spread that was measured.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from monitorgen.bench.result import BenchRun, Result, tolerance
from monitorgen.bench.targets import BASELINE
from monitorgen.errors import InputError

SCHEMA_VERSION = 1
MIXTURES = ("hardware", "commit", "profile")
KEYS = {"hardware": "hardware_key", "commit": "git_commit", "profile": "profile_name"}


def default_folder() -> Path:
    """Where expectations are kept: beside the workloads."""
    import monitorgen.kernels

    return Path(monitorgen.kernels.__path__[0]) / "expectations"


def load(folder: Path, hardware: str) -> dict[str, Any]:
    """The examples of this hardware by target; none when there is no file."""
    path = folder / f"{hardware}.json"
    if not path.exists():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(data, Mapping) or data.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{path} holds no expectations of schema {SCHEMA_VERSION}")
    if data.get("hardware_key") != hardware:
        raise InputError(f"{path} is of {data.get('hardware_key')!r}, not of {hardware!r}")
    examples = data.get("examples")
    if not isinstance(examples, Mapping) or not all(
        isinstance(one, Mapping) and {"metrics", "provenance"} <= one.keys() for one in examples.values()
    ):
        raise InputError(f"{path}: every example has metrics and provenance")
    return dict(examples)


def metrics_of(result: Result) -> dict[str, Any]:
    """What is expected of a target from now on."""
    found: dict[str, Any] = {}
    others = {name: arm for name, arm in result.arms.items() if name != BASELINE}
    for name, arm in result.arms.items():
        found[f"{name}_time_ms"] = arm.median_ms
        found[f"{name}_spread"] = arm.sigma
        found[f"{name}_flags"] = arm.flags
        if "roofline_share" in arm.roofline:
            found[f"{name}_roofline_share"] = arm.roofline["roofline_share"]
        found |= {f"{name}_{metric}": value for metric, value in arm.metrics.items()}
    if result.rivals and BASELINE in result.arms and others:
        best = min(others.values(), key=lambda arm: arm.median_ms)
        found["best_optimized_time_ms"] = best.median_ms
        found["best_speedup"] = result.arms[BASELINE].median_ms / best.median_ms
    return found


def gate(run: BenchRun, examples: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Lines on what fell short of expectations, and lines worth knowing."""
    short: list[str] = []
    notes: list[str] = []
    if not examples:
        return [], [f"nothing is expected of {run.provenance.hardware_key} yet (--update-expectations)"]
    for result in run.results:
        if not result.ok:
            continue
        if result.name not in examples:
            notes.append(f"{result.name}: no expectation on {run.provenance.hardware_key}")
            continue
        expected = examples[result.name]["metrics"]
        for name, arm in result.arms.items():
            if f"{name}_time_ms" not in expected:
                notes.append(f"{result.name} {name}: no expectation")
            elif expected.get(f"{name}_flags", []) != arm.flags:
                notes.append(f"{result.name} {name}: not held to the expectation, which has other flags")
            else:
                _gate_arm(result.name, name, arm, expected, short, notes)
    return short, notes


def _gate_arm(
    target: str, name: str, arm: Any, expected: Mapping[str, Any], short: list[str], notes: list[str]
) -> None:
    allowed = tolerance(arm.sigma, float(expected.get(f"{name}_spread", 0.0)))
    was = float(expected[f"{name}_time_ms"])
    change = arm.median_ms / was - 1
    if change > allowed:
        short.append(
            f"{target} {name}: {arm.median_ms:.4g} ms is {change:.1%} more than the {was:.4g} ms expected "
            f"(allowed {allowed:.1%})"
        )
    elif change < -allowed / (1 + allowed):
        notes.append(f"{target} {name}: {arm.median_ms:.4g} ms, {was:.4g} ms expected: renew the expectation")
    share, was_share = arm.roofline.get("roofline_share"), expected.get(f"{name}_roofline_share")
    if share is not None and was_share is not None and share < float(was_share) / (1 + allowed):
        short.append(
            f"{target} {name}: {share:.1%} of the roofline, {float(was_share):.1%} expected "
            f"(allowed {allowed:.1%})"
        )


def update(folder: Path, run: BenchRun, mixed: Collection[str] = ()) -> Path:
    """Write this run's targets into the hardware's file.

    Raises InputError, and writes nothing, for results that may not stand as expectations, and where the file
    would then hold examples of more than one hardware, commit or profile that is not named in `mixed`.
    """
    by = run.provenance
    if bad := [one.name for one in run.results if not one.ok]:
        raise InputError(f"no expectations from targets that failed or disagree: {', '.join(bad)}")
    refuse_commit(by.git_commit, by.dirty, mixed)
    examples = load(folder, by.hardware_key)
    for result in run.results:
        provenance = {key: value for key, value in asdict(by).items() if key != "dirty"}
        examples[result.name] = {"metrics": metrics_of(result), "provenance": provenance}
    for mixture in MIXTURES:
        found = {str(one["provenance"].get(KEYS[mixture])) for one in examples.values()}
        if len(found) > 1 and mixture not in mixed:
            raise InputError(
                f"{folder / by.hardware_key}.json would mix the {mixture} of its examples: "
                f"{', '.join(sorted(text[:40] for text in found))}",
                hint=f"run all of its targets at once, or say --allow-mixed {mixture}",
            )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{by.hardware_key}.json"
    data = {"schema_version": SCHEMA_VERSION, "hardware_key": by.hardware_key, "examples": examples}
    part = path.with_suffix(".part")
    part.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(path)
    return path


def refuse_commit(commit: str, dirty: bool, mixed: Collection[str]) -> None:
    """Refuse numbers that no commit stands for."""
    if not commit:
        raise InputError(
            "expectations name the commit that was timed, and this is no git checkout",
            hint="say --git-commit HASH",
        )
    if dirty and "commit" not in mixed:
        raise InputError(
            "expectations name the commit that was timed, and files differ from it",
            hint="commit first, or say --allow-mixed commit",
        )
