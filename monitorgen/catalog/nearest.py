"""Names that a person may have meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher

from monitorgen.catalog.model import Catalog

_WORDS = re.compile(r"[a-z0-9]+")
_ENOUGH = 0.55


def nearest(name: str, catalogs: Iterable[Catalog], n: int = 3) -> tuple[str, ...]:
    """Up to `n` names that PromQL can select in these catalogs and that look like `name`, best first."""
    candidates = {
        series for catalog in catalogs for series in catalog.series if not series.endswith("_created")
    }
    candidates.discard(name)
    words = _words(name)
    scored = ((_likeness(name, words, other), other) for other in candidates)
    best = sorted((pair for pair in scored if pair[0] >= _ENOUGH), key=lambda pair: (-pair[0], pair[1]))
    return tuple(other for _, other in best[:n])


def _likeness(name: str, words: frozenset[str], other: str) -> float:
    """From 0 to 1, by letters and by words: names are misremembered as often as mistyped."""
    matcher = SequenceMatcher(None, name, other, autojunk=False)
    if matcher.real_quick_ratio() < _ENOUGH / 2 or matcher.quick_ratio() < _ENOUGH / 2:
        return 0.0
    theirs = _words(other)
    shared = 2 * len(words & theirs) / max(1, len(words) + len(theirs))
    return max(matcher.ratio(), (matcher.ratio() + shared) / 2)


def _words(name: str) -> frozenset[str]:
    return frozenset(_WORDS.findall(name.lower()))
