"""What graphs cost: measured on a device and written down, or read back for the simulator.

A calibration is a JSON file beside this one (`graph_costs_*.json`) or the user's own: points by batch size
with the seconds of a replay, of a capture and of a step without a graph, and the bytes that a graph holds,
and where the numbers come from. Between points they are interpolated linearly, below the first they stay,
above the last they go on with the last slope.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from monitorgen.kernels.decode.buckets import Costs
from monitorgen.kernels.workload import UsageError

SCHEMA = 1
_HERE = Path(__file__).parent
_NUMBERS = ("replay_seconds", "capture_seconds", "graph_bytes")


@dataclass(frozen=True, slots=True)
class Point:
    """Costs at one batch size; `eager_seconds` is None where it was not measured."""

    batch: int
    replay_seconds: float
    capture_seconds: float
    graph_bytes: float
    eager_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """Points of one device and model: `measured` by this workload, or `recorded` from an engine's log."""

    name: str
    kind: Literal["measured", "recorded"]
    provenance: Mapping[str, str]
    points: tuple[Point, ...]

    def costs(self) -> Costs:
        """The points as functions of the batch size."""
        batches = [point.batch for point in self.points]
        eager = [point.eager_seconds for point in self.points if point.eager_seconds is not None]
        complete = len(eager) == len(self.points)
        return Costs(
            replay=_line(batches, [point.replay_seconds for point in self.points]),
            capture=_line(batches, [point.capture_seconds for point in self.points]),
            graph_bytes=_line(batches, [point.graph_bytes for point in self.points]),
            eager=_line(batches, eager) if complete else None,
        )

    def document(self) -> dict[str, Any]:
        """The calibration as its JSON file holds it."""
        points = []
        for point in self.points:
            entry = {"batch": point.batch} | {name: getattr(point, name) for name in _NUMBERS}
            if point.eager_seconds is not None:
                entry["eager_seconds"] = point.eager_seconds
            points.append(entry)
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "name": self.name,
            "provenance": dict(self.provenance),
            "points": points,
        }


def _line(batches: Sequence[int], values: Sequence[float]) -> Any:
    """Linear interpolation, constant below the first point, never negative above the last."""

    def at(size: int) -> float:
        index = bisect_left(batches, size)
        if index < len(batches) and batches[index] == size:
            return values[index]
        if index == 0 or len(batches) == 1:
            return values[0]
        low, high = (index - 1, index) if index < len(batches) else (index - 2, index - 1)
        slope = (values[high] - values[low]) / (batches[high] - batches[low])
        return max(0.0, values[low] + slope * (size - batches[low]))

    return at


def load(path: Path | None = None) -> Calibration:
    """A calibration by its file, or the one that is bundled: a measured one before a recorded one.

    Raises UsageError, naming the file, if it cannot be read as one.
    """
    if path is not None:
        return _read(path)
    bundled = [_read(file) for file in sorted(_HERE.glob("graph_costs_*.json"))]
    return min(bundled, key=lambda calibration: calibration.kind != "measured")


def _read(path: Path) -> Calibration:
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is no calibration: {error}") from error
    try:
        if document["schema"] != SCHEMA:
            raise UsageError(f"{path}: schema {document['schema']} is unknown, this is {SCHEMA}")
        kind = document["kind"]
        if kind not in ("measured", "recorded"):
            raise UsageError(f"{path}: kind is {kind!r}, give 'measured' or 'recorded'")
        points = tuple(sorted((_point(entry) for entry in document["points"]), key=lambda point: point.batch))
        made = Calibration(str(document["name"]), kind, dict(document["provenance"]), points)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path} is no calibration: {type(error).__name__} at {error}") from error
    if not points or len({point.batch for point in points}) < len(points):
        raise UsageError(f"{path}: it needs one point or more, each batch size once")
    return made


def _point(entry: Mapping[str, Any]) -> Point:
    eager = entry.get("eager_seconds")
    numbers = {name: float(entry[name]) for name in _NUMBERS}
    made = Point(int(entry["batch"]), eager_seconds=None if eager is None else float(eager), **numbers)
    if made.batch < 1 or min(numbers.values()) < 0 or (made.eager_seconds or 0.0) < 0:
        raise ValueError(f"batch {made.batch}: a size below 1 or a cost below 0")
    return made
