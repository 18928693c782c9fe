"""Mutations that nobody could ever observe, each family of them with its reason. They are not put to the test."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from mutation import Mutation

Predicate = Callable[[Mutation, str, str], bool]

# What yields whole numbers from 1 up, or nothing: counts, and absent().
_FROM_ONE = re.compile(r"\s*\(?\s*(absent\(|count by )")
# Values of these are small whole or half numbers, which print alike with and without `humanize`.
_SMALL = re.compile(r"alert/(TargetDown|MetricsGone|JobGone|GraphModeDrift)/")


def reason(mutation: Mutation, original: object) -> str:
    """Why a mutation changes nothing that can be seen; "" for the others. `original` is the value it replaces."""
    if not isinstance(original, str) or not isinstance(mutation.value, str):
        return ""
    return next((why for why, holds in REASONS if holds(mutation, original, mutation.value)), "")


def _count_compared_with_less_than_one(mutation: Mutation, old: str, new: str) -> bool:
    same = re.search(r"(>=?)\s+([\d.]+)\s*$", new)
    if mutation.kind == "guard dropped":
        return bool(_FROM_ONE.match(old)) and re.search(r">\s+0\s*$", old) is not None and same is None
    if mutation.kind not in ("comparison lets the limit pass", "threshold changed") or same is None:
        return False
    return bool(_FROM_ONE.match(old)) and (float(same[2]) < 1 or same[0].startswith(">= 1"))


def _limit_of_a_measured_value(mutation: Mutation, old: str, new: str) -> bool:
    if mutation.kind != "comparison lets the limit pass":
        return False
    before = next(i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b)
    compared = re.findall(r"[\w:]+", old[:before])
    number = re.match(r"[><]?\s*([\d.]+)", old[before - 1 :].lstrip("><= "))
    measured = bool(compared) and re.search(r":(p\d+_\w+|\w*rate\d\w*|mean_\w+)$|_rate$", compared[-1])
    return bool(measured) and number is not None and float(number[1]) != 0


def _inside_a_product_with_zero(mutation: Mutation, old: str, new: str) -> bool:
    if mutation.kind not in ("aggregation changed", "arithmetic operator", "function changed"):
        return False
    return any(_within(old, new, start, end) for start, end in _zeros(old, inner=True))


def _in_a_branch_that_never_speaks(mutation: Mutation, old: str, new: str) -> bool:
    """`of or 0 * (of + rest)`: without `of` there is no total either."""
    for start, end in _zeros(old, inner=False):
        counted = re.findall(r"rate\(([\w:]+)", old[:start])
        total = old[start:end]
        if counted and re.search(rf"\+\s+.*{re.escape(counted[0])}\b", total, re.DOTALL):
            low = old.rfind("or", 0, start)
            return _within(old, new, low, end)
    return False


def _label_that_the_instance_implies(mutation: Mutation, old: str, new: str) -> bool:
    return mutation.kind == "legend changed" and "{{instance}}" in new and old.replace(" {{job}}", "") == new


def _humanize_of_a_small_number(mutation: Mutation, old: str, new: str) -> bool:
    del old, new
    slight = mutation.note.endswith(("to {{ $value }}", "humanize1024 }}"))
    return mutation.kind == "humanizer changed" and slight and bool(_SMALL.match(mutation.item))


def _zeros(expr: str, *, inner: bool) -> Iterator[tuple[int, int]]:
    """The places of `0 * ( ... )`, or of what stands in these brackets."""
    for match in re.finditer(r"(?<![\w.])0\s+\*\s+\(", expr):
        depth, end = 1, match.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(expr[end], 0)
            end += 1
        yield (match.end() if inner else match.start()), end


def _within(old: str, new: str, start: int, end: int) -> bool:
    """Whether everything in which the two differ lies between these places of the old one."""
    return old[:start] == new[:start] and new.endswith(old[end:])


REASONS: tuple[tuple[str, Predicate], ...] = (
    ("a count is at least 1 where it is there at all", _count_compared_with_less_than_one),
    ("a rate, a quantile or a mean never reads exactly its threshold", _limit_of_a_measured_value),
    ("0 times anything is 0", _inside_a_product_with_zero),
    ("the branch never speaks: its total is missing whenever its left side is", _in_a_branch_that_never_speaks),
    ("an instance belongs to one job, so the instance tells the series apart", _label_that_the_instance_implies),
    ("small whole and half numbers print alike", _humanize_of_a_small_number),
)
