"""Mutations that nobody could ever observe, and why. They are not put to the test."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from mutation import Mutation

Predicate = Callable[[Mutation, str, str], bool]

# What yields whole numbers from 1 up, 0 or nothing: counts, and absent().
_COUNTED = re.compile(r"[\s(]*(absent\(|count by )")
# A signal that is measured: a rate, a ratio of rates, a quantile, a mean.
_MEASURED = re.compile(r":(p\d+_\w+|(\w+_)?rate\w+|mean_\w+)$|_rate$")
# Values of these are small whole or half numbers, which print alike with and without `humanize`.
_SMALL = re.compile(r"alert/(TargetDown|MetricsGone|JobGone|GraphModeDrift)/")
# What the workloads export has a model and a target, nothing else: one series in each group.
_ALONE = re.compile(r"(sum|max) by \(job, instance, model_name\) \((rate\()?vllm:decode_\w+")


# What may happen to a branch that has only zeros, which are filtered out.
_OF_A_FILTERED_BRANCH = (
    "or: right side dropped",
    "set operator changed",
    "matcher removed",
    "grouping label removed",
    "matcher operator",
)


def reason(mutation: Mutation, original: object) -> str:
    """Why a mutation changes nothing that can be seen; "" for the others. `original` is what it replaces."""
    if not isinstance(original, str) or not isinstance(mutation.value, str):
        return ""
    return next((why for why, holds in REASONS if holds(mutation, original, mutation.value)), "")


def _count_compared_with_less_than_one(mutation: Mutation, old: str, new: str) -> bool:
    if not _COUNTED.match(old) or re.search(r">\s+0$", old) is None:
        return False
    if mutation.kind == "guard dropped":
        return old.startswith("absent(")
    return mutation.kind == "threshold changed" and re.search(r">\s+0\.\d+$", new) is not None


def _limit_of_a_measured_value(mutation: Mutation, old: str, new: str) -> bool:
    if mutation.kind != "comparison lets the limit pass":
        return False
    place = next(i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b)
    signal = re.findall(r"[\w:]+", old[: place - 1])
    limit = re.match(r"[\s<>]*([\d.]+)", old[place - 1 :])
    return bool(signal and limit) and bool(_MEASURED.search(signal[-1])) and float(limit[1]) > 0


def _scale_of_all_buckets(mutation: Mutation, old: str, new: str) -> bool:
    del new
    alike = old.startswith("histogram_quantile(") and not re.search(r"\sor\s", old)
    return mutation.note.startswith("rate to increase") and alike


def _aggregation_of_one_series(mutation: Mutation, old: str, new: str) -> bool:
    if mutation.kind != "aggregation changed" or " to count" in mutation.note:
        return False
    return any(_within(old, new, *match.span(1)) for match in _ALONE.finditer(old))


def _inside_a_product_with_zero(mutation: Mutation, old: str, new: str) -> bool:
    slight = mutation.kind in ("arithmetic operator", "or: sides swapped")
    return slight and any(_within(old, new, *place) for place in _zeros(old, inner=True))


def _in_a_branch_that_never_speaks(mutation: Mutation, old: str, new: str) -> bool:
    """`(x or 0 * y) > 0` lets no 0 through."""
    return any(
        mutation.kind in _OF_A_FILTERED_BRANCH
        and re.match(r"[\s)]*>\s+0$", old[end:]) is not None
        and _within(old, new, old.rfind("or", 0, start), end)
        for start, end in _zeros(old, inner=False)
    )


def _label_that_the_instance_implies(mutation: Mutation, old: str, new: str) -> bool:
    return mutation.kind == "legend changed" and "{{instance}}" in new and old.replace(" {{job}}", "") == new


def _legend_of_a_heatmap(mutation: Mutation, old: str, new: str) -> bool:
    return mutation.kind == "legend changed" and (old, new) == ("{{le}}", "")


def _humanize_of_a_small_number(mutation: Mutation, old: str, new: str) -> bool:
    del old, new
    dropped = mutation.note.endswith("to {{ $value }}")
    return mutation.kind == "humanizer changed" and dropped and bool(_SMALL.match(mutation.item))


def _zeros(expr: str, *, inner: bool) -> Iterator[tuple[int, int]]:
    """The places of `0 * ...(...)`, or of what stands behind its `*`."""
    for match in re.finditer(r"(?<![\w.])0\s+\*\s+(count by \([^)]*\) )?\(", expr):
        depth, end = 1, match.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(expr[end], 0)
            end += 1
        yield (match.end() if inner else match.start()), end


def _within(old: str, new: str, start: int, end: int) -> bool:
    """Whether everything in which the two differ lies between these places of the old one."""
    before, after, new = ("".join(text.split()) for text in (old[:start], old[end:], new))
    return new.startswith(before) and new.endswith(after) and len(new) >= len(before) + len(after)


REASONS: tuple[tuple[str, Predicate], ...] = (
    ("a count is at least 1 where it is there at all", _count_compared_with_less_than_one),
    ("a rate, a quantile or a mean never reads exactly its threshold", _limit_of_a_measured_value),
    ("a quantile stays where it is when all buckets grow alike", _scale_of_all_buckets),
    ("there is one series in each group", _aggregation_of_one_series),
    ("0 times anything is 0", _inside_a_product_with_zero),
    ("the branch never speaks", _in_a_branch_that_never_speaks),
    (
        "an instance belongs to one job, so the instance tells the series apart",
        _label_that_the_instance_implies,
    ),
    ("Grafana reads a bucket's edge from its label le, and shows no legend", _legend_of_a_heatmap),
    ("small whole and half numbers print alike", _humanize_of_a_small_number),
)
