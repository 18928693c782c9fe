"""Traces of batch sizes: one number a decode step, drawn or read from a file."""

from __future__ import annotations

import json
import random
from pathlib import Path

from monitorgen.kernels.workload import UsageError

WIDEST_MOVE = 3
"""Requests that come or go between two steps of a drawn trace, at most."""


def ragged_trace(steps: int, low: int, high: int, seed: int) -> tuple[int, ...]:
    """Batch sizes of a server at work: a walk between `low` and `high`, as requests come and finish.

    Raises UsageError for impossible bounds.
    """
    if steps < 1:
        raise UsageError(f"--steps {steps}: a trace has 1 step or more")
    if not 1 <= low <= high:
        raise UsageError(
            f"batch sizes from {low} to {high} are impossible: give 1 <= --min-batch <= --max-batch"
        )
    dice = random.Random(seed)
    size, sizes = dice.randint(low, high), []
    for _ in range(steps):
        sizes.append(size)
        size = min(high, max(low, size + dice.randint(-WIDEST_MOVE, WIDEST_MOVE)))
    return tuple(sizes)


def read_trace(path: Path) -> tuple[int, ...]:
    """Batch sizes of a file: a JSON list, or numbers between white space. Raises UsageError."""
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {getattr(error, 'strerror', None) or 'it is no text'}") from error
    try:
        numbers = json.loads(text) if text.startswith("[") else [int(word) for word in text.split()]
    except ValueError as error:
        raise UsageError(f"{path} is no trace of batch sizes: {error}") from error
    if not numbers or any(type(number) is not int or number < 1 for number in numbers):
        raise UsageError(f"{path} is no trace of batch sizes: it needs whole numbers of 1 or more")
    return tuple(numbers)
