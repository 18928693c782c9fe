"""The ledger: every item of a bundle with its proofs, and with the reason where there is none."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

Level: TypeAlias = Literal["static", "simulated", "live"]
LEVELS: tuple[Level, ...] = ("static", "simulated", "live")


@dataclass(frozen=True, slots=True)
class Proof:
    """Evidence for one item: what was claimed, whether it held, what was asked of whom, what came back."""

    item: str
    level: Level
    claim: str
    holds: bool
    source: str
    asked: str = ""
    answer: str = ""
    when: str = ""


@dataclass(slots=True)
class Ledger:
    """All proofs of a bundle. `items` are all that it holds; `reasons` say why something is unproven.

    `beyond` names the levels that an item cannot have by its nature (a scrape job has no simulation).
    """

    bundle: str
    items: tuple[str, ...]
    proofs: list[Proof] = field(default_factory=list)
    reasons: dict[str, dict[str, str]] = field(default_factory=dict)
    beyond: dict[str, tuple[str, ...]] = field(default_factory=dict)
    dormant: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _index: dict[tuple[str, Level], list[Proof]] = field(default_factory=dict, repr=False, compare=False)

    def add(self, proofs: Iterable[Proof]) -> None:
        """Add proofs."""
        for proof in proofs:
            self.proofs.append(proof)
            self._index.setdefault((proof.item, proof.level), []).append(proof)

    def unproven(self, item: str, level: Level, reason: str) -> None:
        """Say why an item has no proof of a level."""
        self.reasons.setdefault(item, {}).setdefault(level, reason)

    def of(self, item: str, level: Level) -> list[Proof]:
        """The proofs of an item at a level."""
        return self._index.get((item, level), [])

    def state(self, item: str, level: Level) -> Literal["proven", "failed", "unproven", "none"]:
        """Where an item stands at a level; `none` if the level says nothing of such an item."""
        if level in self.beyond.get(item, ()):
            return "none"
        proofs = self.of(item, level)
        if any(not proof.holds for proof in proofs):
            return "failed"
        # A reason means that a part of the item, one query of a panel say, is still unproven.
        return "unproven" if not proofs or level in self.reasons.get(item, {}) else "proven"

    def counts(self, level: Level) -> dict[str, int]:
        """How many items are proven, failed and unproven at a level, and how many it concerns."""
        states = [self.state(item, level) for item in self.items]
        return {
            "items": sum(s != "none" for s in states),
            "proven": states.count("proven"),
            "failed": states.count("failed"),
            "unproven": states.count("unproven"),
        }

    @property
    def failed(self) -> list[Proof]:
        """The proofs that did not hold."""
        return [proof for proof in self.proofs if not proof.holds]

    def to_dict(self) -> dict[str, Any]:
        """The ledger as plain data, for JSON."""
        return {
            "bundle": self.bundle,
            "levels": {level: self.counts(level) for level in LEVELS},
            "items": [
                {
                    "item": item,
                    "states": {level: self.state(item, level) for level in LEVELS},
                    "reasons": self.reasons.get(item, {}),
                    "proofs": [asdict(proof) for level in LEVELS for proof in self.of(item, level)],
                }
                for item in self.items
            ],
            "dormant": self.dormant,
            "notes": self.notes,
        }

    def to_json(self) -> str:
        """The ledger as JSON text."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
