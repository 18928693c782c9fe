"""The ledger: every item of a bundle with its proofs, and with the reason where there is none."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeAlias

from monitorgen.bundle import Bundle

Level: TypeAlias = Literal["static", "simulated", "live"]
LEVELS: tuple[Level, ...] = ("static", "simulated", "live")
State: TypeAlias = Literal["proven", "failed", "unproven", "none"]
Kind: TypeAlias = Literal["", "vllm", "workload", "scrape", "prometheus", "replayed", "scenario"]
KINDS: dict[Kind, str] = {
    "vllm": "a real vLLM that this run started",
    "workload": "a bundled workload that does real work",
    "scrape": "an endpoint of the user",
    "prometheus": "a Prometheus that was running already",
    "replayed": "recordings of a real server, played back",
    "scenario": "an exporter that plays a made-up course of values",
}
"""Where the samples of a live proof came from, the most telling first."""


@dataclass(frozen=True, slots=True)
class Proof:
    """Evidence for one item: what was claimed, whether it held, what was asked of whom, what came back.

    A live proof says with `kind` where its samples came from; `series` counts the series with finite values,
    `value` is one of their last values, and `points` (seconds since the epoch, value) are for a small plot.
    """

    item: str
    level: Level
    claim: str
    holds: bool
    source: str
    asked: str = ""
    answer: str = ""
    when: str = ""
    kind: Kind = ""
    series: int = 0
    value: float | None = None
    points: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class About:
    """What a reader of the ledger wants to know of an item: its signal, unit, place in the profile."""

    signal: str = ""
    unit: str = ""
    help: str = ""
    expr: str = ""
    origin: str = ""


@dataclass(slots=True)
class Ledger:
    """All proofs of a bundle. `items` are all that it holds; `reasons` say why something is unproven.

    `beyond` names the levels that an item cannot have by its nature (a scrape job has no simulation).
    `run` says what the live proofs were made with (`prometheus`, `time_scale`, `started`, `seconds`, ...);
    where several runs were merged, `runs` has each run's own, and `run` what they have in common.
    """

    bundle: str
    items: tuple[str, ...]
    proofs: list[Proof] = field(default_factory=list)
    reasons: dict[str, dict[str, str]] = field(default_factory=dict)
    beyond: dict[str, tuple[str, ...]] = field(default_factory=dict)
    dormant: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    about: dict[str, About] = field(default_factory=dict)
    run: dict[str, str] = field(default_factory=dict)
    runs: list[dict[str, str]] = field(default_factory=list)
    _index: dict[tuple[str, Level], list[Proof]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.proofs, given = [], self.proofs
        self.add(given)

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

    def state(self, item: str, level: Level) -> State:
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

    def exit_code(self, required: Collection[str] = ()) -> int:
        """1 if a proof failed, or an item is unproven at a level that is required; else 0."""
        lacking = any(self.counts(level)["unproven"] for level in LEVELS if level in required)
        return 1 if self.failed or lacking else 0

    def to_dict(self) -> dict[str, Any]:
        """The ledger as plain data, for JSON."""
        return {
            "bundle": self.bundle,
            "levels": {level: self.counts(level) for level in LEVELS},
            "items": [
                {
                    "item": item,
                    "about": asdict(self.about.get(item, About())),
                    "beyond": list(self.beyond.get(item, ())),
                    "states": {level: self.state(item, level) for level in LEVELS},
                    "reasons": self.reasons.get(item, {}),
                    "proofs": [_plain(proof) for level in LEVELS for proof in self.of(item, level)],
                }
                for item in self.items
            ],
            "dormant": self.dormant,
            "notes": self.notes,
            "run": self.run,
            "runs": self.runs,
        }

    def to_json(self) -> str:
        """The ledger as JSON text; numbers that JSON does not have are the texts NaN, +Inf and -Inf."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], file: str = "") -> Ledger:
        """The ledger that `to_dict` gave. Raises InputError, which names `file`, for anything else.

        Counts and states are worked out anew from the proofs; keys that no ledger has are passed over.
        """
        from monitorgen.prove.ledger_file import ledger_of

        return ledger_of(plain, file)

    @classmethod
    def from_json(cls, text: str | bytes, file: str = "") -> Ledger:
        """The ledger of a JSON text. Raises InputError as `from_dict` does, and where it is no JSON."""
        from monitorgen.prove.ledger_file import ledger_of_text

        return ledger_of_text(text, file)


def plain_number(value: float) -> float | str:
    """A number as JSON has it: what is not finite becomes a text, as in the Prometheus API."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def _plain(proof: Proof) -> dict[str, Any]:
    return {
        **{name: getattr(proof, name) for name in _PROOF_FIELDS},
        "value": None if proof.value is None else plain_number(proof.value),
        "points": [[plain_number(at), plain_number(value)] for at, value in proof.points],
    }


_PROOF_FIELDS = tuple(one.name for one in fields(Proof))


def about_items(bundle: Bundle) -> dict[str, About]:
    """What the bundle itself says of each of its items."""
    found: dict[str, About] = {}
    for rule in bundle.recording_rules:
        found[rule.id] = About(rule.signal, rule.unit, rule.help, rule.expr, str(rule.origin))
    for alert in bundle.alerts:
        summary = dict(alert.annotations).get("summary", "")
        found[alert.id] = About(next(iter(alert.signals), ""), "", summary, alert.expr, str(alert.origin))
    for board in bundle.dashboards:
        for panel in board.panels:
            signal = panel.signal or next((q.shows.partition(".")[0] for q in panel.queries if q.shows), "")
            exprs = "\n".join(query.expr for query in panel.queries)
            found[board.panel_item(panel)] = About(
                signal, panel.unit, panel.description, exprs, str(panel.origin)
            )
    for job in bundle.scrape_jobs:
        found[job.id] = About("", "", f"targets of {job.engine or 'any engine'}", "", str(job.origin))
    return found
