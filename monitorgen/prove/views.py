"""What every report of a ledger shows: claims put together, reasons, and which source proved how much."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from monitorgen.prove.ledger import KINDS, Kind, Ledger, Level, Proof

KIND_WORDS = {"record": "recording rules", "alert": "alerts", "panel": "panels", "scrape": "scrape jobs"}
"""The kinds of items as the first part of an item's name has them, and what many of them are called."""
ALERT_STEPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("silent while calm", ("silent",)),
    ("pending, then firing", ("pending", "fires")),
    ("right labels and texts", ("labels",)),
    ("delivered", ("reaches",)),
    ("nobody else named", ("names",)),
    ("resolved", ("resolves",)),
)
"""The steps of an alert that is provoked live, and how the claims about each begin."""
NOT_ASKED = "nothing was asked of it"
UNNAMED = "a source that the proof does not name"
_COMPARED = re.compile(r"exp: ?(?P<exp>.*?),?\s+got: ?(?P<got>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Claim:
    """What was claimed of an item at a level, with all proofs of it: of several programs, or queries."""

    text: str
    proofs: tuple[Proof, ...]

    @property
    def holds(self) -> bool:
        """Whether every proof holds."""
        return all(proof.holds for proof in self.proofs)

    @property
    def asked(self) -> tuple[tuple[str, str], ...]:
        """Each query once, with the time that it was asked for."""
        return tuple(dict.fromkeys((p.asked, p.when) for p in self.proofs if p.asked))

    @property
    def answers(self) -> tuple[str, ...]:
        """Each answer once."""
        return tuple(dict.fromkeys(proof.answer for proof in self.proofs if proof.answer))

    @property
    def failed(self) -> tuple[Proof, ...]:
        """One proof of each answer that did not hold to a query."""
        unlike = {(p.asked, p.when, p.answer): p for p in reversed(self.proofs) if not p.holds}
        return tuple(reversed(unlike.values()))


def kind_of(item: str) -> str:
    """The kind of an item: `record`, `alert`, `panel`, `scrape`, or what else its name begins with."""
    return item.partition("/")[0]


def kinds_of(ledger: Ledger) -> dict[str, list[str]]:
    """The items of each kind that the ledger has; the known kinds first."""
    found: dict[str, list[str]] = {kind: [] for kind in KIND_WORDS}
    for item in ledger.items:
        found.setdefault(kind_of(item), []).append(item)
    return {kind: items for kind, items in found.items() if items}


def claims_of(ledger: Ledger, item: str, level: Level) -> tuple[Claim, ...]:
    """The claims made of an item at a level, what failed first, the steps of an alert in their order."""
    by_text: dict[str, list[Proof]] = {}
    for proof in ledger.of(item, level):
        by_text.setdefault(proof.claim, []).append(proof)
    claims = (Claim(text, tuple(proofs)) for text, proofs in by_text.items())
    # Simulated claims come in the order of their times; some begin with the same words.
    return tuple(
        sorted(claims, key=lambda claim: (claim.holds, step_of(claim.text) if level == "live" else 0))
    )


def step_of(claim: str) -> int:
    """Which step of an alert a claim is about: its place in ALERT_STEPS, or the number of them."""
    return next((i for i, (_, how) in enumerate(ALERT_STEPS) if claim.startswith(how)), len(ALERT_STEPS))


def failures_of(ledger: Ledger) -> dict[str, list[tuple[Level, Claim]]]:
    """The claims that did not hold, by item."""
    found: dict[str, dict[tuple[Level, str], list[Proof]]] = {}
    for proof in ledger.failed:
        found.setdefault(proof.item, {}).setdefault((proof.level, proof.claim), []).append(proof)
    return {
        item: [(level, Claim(text, tuple(proofs))) for (level, text), proofs in claims.items()]
        for item, claims in found.items()
    }


def reason_of(ledger: Ledger, item: str, level: Level) -> str:
    """Why an item is unproven at a level."""
    return ledger.reasons.get(item, {}).get(level, NOT_ASKED)


def unproven_by_reason(ledger: Ledger, level: Level) -> dict[str, list[str]]:
    """The unproven items of a level under the reason that they share, by reason."""
    found: dict[str, list[str]] = {}
    for item in ledger.items:
        if ledger.state(item, level) == "unproven":
            found.setdefault(reason_of(ledger, item, level), []).append(item)
    return dict(sorted(found.items()))


def source_of(ledger: Ledger, item: str) -> Kind | None:
    """The most telling kind of source that proved an item live; None where it is not proven.

    An alert's source is the one on which it fired: that it was silent on another says less.
    """
    if ledger.state(item, "live") != "proven":
        return None
    proofs = ledger.of(item, "live")
    telling = [proof for proof in proofs if not proof.claim.startswith("silent")]
    kinds = {proof.kind for proof in telling or proofs}
    return next((kind for kind in KINDS if kind in kinds), "")


def proven_by(ledger: Ledger) -> dict[Kind, dict[str, int]]:
    """How many items of each kind were proven live by each kind of source.

    An item counts once, for the most telling source that it has a proof of, so that the numbers add up to
    what is proven live. Sources that proved nothing are left out; the empty kind is an unnamed source.
    """
    found: dict[Kind, dict[str, int]] = {kind: {} for kind in (*KINDS, "")}
    for item in ledger.items:
        source = source_of(ledger, item)
        if source is not None:
            counts = found[source]
            counts[kind_of(item)] = counts.get(kind_of(item), 0) + 1
    return {kind: counts for kind, counts in found.items() if counts}


def source_words(kind: Kind) -> str:
    """What a kind of source is."""
    return KINDS.get(kind, UNNAMED)


def sources_text(proofs: Iterable[Proof]) -> str:
    """The sources of proofs, each once; `promtool 2.42.0, 2.53.3` for several versions of one program."""
    names: dict[str, list[str]] = {}
    for source in dict.fromkeys(proof.source for proof in proofs):
        name, _, version = source.rpartition(" ") if source.startswith("promtool ") else (source, "", "")
        names.setdefault(name, []).append(version)
    return "; ".join(f"{name} {', '.join(versions)}".strip() for name, versions in names.items())


def expected_and_got(answer: str) -> tuple[str, str] | None:
    """What promtool expected and what it got, of an answer that says so."""
    match = _COMPARED.search(answer)
    return (match["exp"].strip(), match["got"].strip()) if match else None
