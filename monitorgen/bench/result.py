"""What a run measured, as plain data that a file holds whole: run.json."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from monitorgen.bench.targets import BASELINE
from monitorgen.errors import InputError

SCHEMA_VERSION = 1
FLOOR = 0.05  # no gate is finer than this: medians of the same code differ by some percent between runs
SIGMAS = 3.0
IQR_OF_SIGMA = 1.349  # interquartile range of a normal distribution in standard deviations


@dataclass(frozen=True)
class Arm:
    """One arm's samples in milliseconds, in order, and what it counted. `sigma` is the spread of one sample
    as a share of the median, from the quartiles, so that a few hiccups do not widen it."""

    module: str
    flags: list[str]
    device: str
    samples_ms: list[float]
    cold_cache: bool = False
    peak_device_bytes: int = 0
    bytes_moved: float = 0.0
    flops: float = 0.0
    digest: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    roofline: dict[str, float] = field(default_factory=dict)
    operators: list[dict[str, Any]] = field(default_factory=list)
    trace: str = ""

    @property
    def median_ms(self) -> float:
        """The median iteration."""
        return statistics.median(self.samples_ms)

    @property
    def quartiles_ms(self) -> tuple[float, float]:
        """The first and the third quartile; the median twice where there is one sample."""
        if len(self.samples_ms) < 2:
            return self.median_ms, self.median_ms
        low, _, high = statistics.quantiles(self.samples_ms, n=4, method="inclusive")
        return low, high

    @property
    def sigma(self) -> float:
        """Spread of one sample, as a share of the median."""
        low, high = self.quartiles_ms
        return (high - low) / IQR_OF_SIGMA / self.median_ms if self.median_ms else 0.0


@dataclass(frozen=True)
class Result:
    """One target: its arms, whether they agree (`compared` results, what differs), or why it has none."""

    name: str
    group: str
    rivals: bool
    arms: dict[str, Arm]
    compared: int = 0
    differences: list[str] = field(default_factory=list)
    error: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether it ran, and its arms agree where they must."""
        return not self.error and not (self.rivals and self.differences)

    def speedup(self, arm: str) -> float | None:
        """How many times as fast as the baseline; None where that says nothing."""
        if not (self.ok and self.rivals) or arm == BASELINE or not {arm, BASELINE} <= self.arms.keys():
            return None
        return self.arms[BASELINE].median_ms / self.arms[arm].median_ms


@dataclass(frozen=True)
class Provenance:
    """Where numbers come from."""

    git_commit: str
    hardware_key: str
    profile_name: str
    timestamp: str
    iterations: int
    warmup_iterations: int
    dirty: bool = False


@dataclass(frozen=True)
class BenchRun:
    """A run of some targets."""

    provenance: Provenance
    environment: dict[str, Any]
    results: list[Result]
    ceilings: dict[str, float] = field(default_factory=dict)

    def save(self, folder: Path) -> Path:
        """Write run.json."""
        path = folder / "run.json"
        data = {"schema_version": SCHEMA_VERSION, **asdict(self), "medians_ms": self.medians()}
        path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        return path

    def medians(self) -> dict[str, dict[str, float]]:
        """Medians by target and arm."""
        return {one.name: {arm: it.median_ms for arm, it in one.arms.items()} for one in self.results}


def read_run(path: Path) -> BenchRun:
    """A saved run, from its folder or its file. Raises InputError for anything else."""
    file = path / "run.json" if path.is_dir() else path
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"cannot read {file}: {error.strerror}", hint="give the folder of a bench run"
        ) from error
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}") from error
    if not isinstance(data, Mapping) or data.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{file} is no bench run of schema {SCHEMA_VERSION}")
    try:
        results = [
            Result(**{**one, "arms": {name: Arm(**arm) for name, arm in one["arms"].items()}})
            for one in data["results"]
        ]
        return BenchRun(Provenance(**data["provenance"]), data["environment"], results, data["ceilings"])
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is no whole bench run: {error}") from error


def tolerance(*sigmas: float) -> float:
    """How far apart two medians may lie, as a share, before it counts: three times both spreads together,
    and never less than FLOOR."""
    return max(FLOOR, SIGMAS * math.hypot(*sigmas))
