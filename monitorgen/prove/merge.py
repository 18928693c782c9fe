"""Several ledgers of one bundle made one: a laptop's runs and a GPU machine's, say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple

from monitorgen.errors import InputError
from monitorgen.prove.ledger import LEVELS, About, Ledger, Level, Proof

_NAMED = 3  # items that a refusal names


def merge(ledgers: Sequence[Ledger], names: Sequence[str] = ()) -> Ledger:
    """One ledger with the proofs of all, equal ones once; `names` are what messages call the ledgers.

    What is proven in one run is proven, and the reasons why others left it unproven are dropped; what failed
    in one run has failed. A single ledger is returned as it is. Raises InputError where there is none, and
    where they are not of the same bundle: other items, or items with other expressions.
    """
    if not ledgers:
        raise InputError("there is no ledger to merge")
    first, *others = ledgers
    if not others:
        return first
    names = names or [f"ledger {number}" for number in range(1, len(ledgers) + 1)]
    for other, name in zip(others, names[1:], strict=True):
        _refuse_different(first, other, names[0], name)
    runs = [run for ledger in ledgers for run in (ledger.runs or [ledger.run]) if run]
    merged = Ledger(
        first.bundle,
        first.items,
        _once(proof for ledger in ledgers for proof in ledger.proofs),
        dormant={name: why for ledger in reversed(ledgers) for name, why in ledger.dormant.items()},
        notes=list(dict.fromkeys(note for ledger in ledgers for note in ledger.notes)),
        run=_common([ledger.run for ledger in ledgers if ledger.run or any(ledger.runs)]),
        runs=[run for index, run in enumerate(runs) if run not in runs[:index]],
    )
    for item in merged.items:
        abouts = (ledger.about[item] for ledger in ledgers if item in ledger.about)
        if about := next(abouts, None):
            merged.about[item] = about
        for level in LEVELS:
            _merge_level(merged, ledgers, item, level)
    return merged


def _merge_level(merged: Ledger, ledgers: Sequence[Ledger], item: str, level: Level) -> None:
    """Beyond and reasons of an item at a level."""
    # A level that one run has proofs of is not beyond the item, whatever another run says: proofs stay seen.
    if any(level in ledger.beyond.get(item, ()) for ledger in ledgers) and not merged.of(item, level):
        merged.beyond[item] = (*merged.beyond.get(item, ()), level)
    said = [ledger.reasons.get(item, {}) for ledger in ledgers]
    # A run that asked all, and has no reason of its own, has the last word, whether it proved or saw fail.
    asked_all = (bool(ledger.of(item, level)) for ledger in ledgers)
    if any(asked and level not in mine for asked, mine in zip(asked_all, said, strict=True)):
        return
    reasons = [mine[level] for mine in said if level in mine]
    if reasons:
        # What was merged before is taken apart, so that it does not matter in which order ledgers are merged.
        parts = dict.fromkeys(part for reason in reasons for part in reason.split("; ") if part)
        merged.unproven(item, level, "; ".join(parts))


def _once(proofs: Iterable[Proof]) -> list[Proof]:
    """The proofs without repetitions; compared as text, for NaN does not equal itself."""
    return list({repr(astuple(proof)): proof for proof in proofs}.values())


def _common(runs: Sequence[dict[str, str]]) -> dict[str, str]:
    """The facts that all runs share."""
    return {
        key: value for run in runs[:1] for key, value in run.items() if all(r.get(key) == value for r in runs)
    }


def _refuse_different(first: Ledger, other: Ledger, first_name: str, other_name: str) -> None:
    if first.bundle != other.bundle:
        raise InputError(
            f"{first_name} is of the bundle {first.bundle}, {other_name} of {other.bundle}",
            hint="only runs of one bundle can be merged",
        )
    sides = ((first_name, first.items, set(other.items)), (other_name, other.items, set(first.items)))
    alone = [(name, [item for item in mine if item not in theirs]) for name, mine, theirs in sides]
    if differences := [f"only {name} has {_listed(items)}" for name, items in alone if items]:
        hint = "prove the same version of the profile on each machine"
        raise InputError("; ".join(differences), hint=hint)
    for item in first.items:
        one, two = (ledger.about.get(item, About()).expr for ledger in (first, other))
        if one and two and one != two:
            raise InputError(
                f"{item} is not the same in {first_name} and {other_name}: {one!r}, and {two!r}",
                hint="prove the same version of the profile, with the same overrides, on each machine",
            )


def _listed(items: Sequence[str]) -> str:
    more = len(items) - _NAMED
    return ", ".join(items[:_NAMED]) + (f" and {more} more" if more > 0 else "")
