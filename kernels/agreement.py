"""Whether two arms of a workload came to the same result, and a digest to tell results of two runs apart."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from monitorgen.kernels.workload import Outcome

SHOWN = 60  # letters of a value in a message
NOT_ITSELF = ": not equal, not even to itself"  # nan


def differences(first: Outcome, second: Outcome) -> list[str]:
    """What is not the same, a line for each; empty when the arms agree.

    Exact values must be equal. Numbers agree when |a - b| / |a|, as norms of the whole list, is at most the
    stricter of the two tolerances. What only one arm reports is a difference: it was not compared.
    """
    found = []
    for name in sorted(first.exact.keys() | second.exact.keys()):
        if name not in first.exact or name not in second.exact:
            found.append(f"{name}: one arm only reports it")
        elif (why := _unequal(first.exact[name], second.exact[name])) is not None:
            found.append(f"{name}{why}")
    for name in sorted(first.close.keys() | second.close.keys()):
        if name not in first.close or name not in second.close:
            found.append(f"{name}: one arm only reports it")
            continue
        (one, tolerance), (other, as_well) = first.close[name], second.close[name]
        if len(one) != len(other):
            found.append(f"{name}: {len(one)} numbers, and {len(other)}")
            continue
        error, most = relative_error(one, other), min(tolerance, as_well)
        if not error <= most:  # nan is a difference too
            found.append(f"{name}: relative error {error:.3g}, at most {most:.3g}")
    return found


def compared(outcome: Outcome) -> int:
    """How many results an arm offers for comparison."""
    return len(outcome.exact) + len(outcome.close)


def relative_error(one: Any, other: Any) -> float:
    """The norm of the difference over that of `one`; that of the difference itself where `one` is zero."""
    norm = math.sqrt(math.fsum(a * a for a in one))
    apart = math.sqrt(math.fsum((a - b) ** 2 for a, b in zip(one, other, strict=True)))
    return apart / norm if norm else apart


def digest(outcome: Outcome) -> str:
    """A digest of the exact values."""
    text = json.dumps(_plain(outcome.exact), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _unequal(one: Any, other: Any) -> str | None:
    """Where two values first differ, or None."""
    one, other = _plain(one), _plain(other)
    if one == other:
        return None
    if isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return f": {len(one)} items, and {len(other)}"
        place = next(n for n, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
        return f"[{place}]{_unequal(one[place], other[place]) or NOT_ITSELF}"
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(one.keys() | other.keys(), key=str)
        key = next(key for key in keys if key not in one or key not in other or one[key] != other[key])
        return f"[{key!r}]{_unequal(one.get(key), other.get(key)) or NOT_ITSELF}"
    return f": {repr(one)[:SHOWN]}, and {repr(other)[:SHOWN]}"


def _plain(value: Any) -> Any:
    """Tuples as lists and mappings as dicts, so that only what they hold counts."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict) or hasattr(value, "items"):
        return {key: _plain(item) for key, item in value.items()}
    return value
