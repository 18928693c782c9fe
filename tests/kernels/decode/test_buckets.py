"""Buckets: vLLM's sizes, what a set costs, and that the best set is the best of all sets."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitorgen.kernels.decode.buckets import (
    Costs,
    best_buckets,
    bill,
    bucket_of,
    checked_sizes,
    vllm_sizes,
)
from monitorgen.kernels.workload import UsageError


@pytest.mark.parametrize(
    ("arguments", "count", "first", "last"),
    [
        ({}, 51, [1, 2, 4, 8, 16], [480, 496, 512]),  # 51: as captured by a real vLLM on an H100
        ({"ceiling": 1024}, 83, [1, 2, 4, 8], [1008, 1024]),  # 83: as vLLM's own comment for gpt-oss says
        ({"max_num_seqs": 4}, 4, [1, 2, 4, 8], [8]),
        ({"max_num_seqs": 1}, 2, [1, 2], [2]),
        ({"max_num_seqs": 13}, 7, [1, 2, 4, 8, 13, 16, 24], [24]),
        ({"max_num_batched_tokens": 100}, 16, [1, 2, 4, 8], [96, 100]),
    ],
)
def test_vllms_sizes(arguments: dict[str, int], count: int, first: list[int], last: list[int]) -> None:
    sizes = vllm_sizes(**arguments)
    assert (len(sizes), sizes[: len(first)], sizes[-len(last) :]) == (count, first, last)


@pytest.mark.parametrize(("size", "bucket"), [(1, 2), (2, 2), (3, 8), (8, 8), (9, None)])
def test_a_step_takes_the_smallest_bucket_that_holds_it(size: int, bucket: int | None) -> None:
    assert bucket_of(size, (2, 8)) == bucket


COSTS = Costs(
    replay=lambda n: 10 + n, capture=lambda n: 100.0, eager=lambda n: 50 + n, graph_bytes=lambda n: 3.0
)


def test_a_bill_adds_up() -> None:
    bought = bill([1, 3, 3, 8, 9], (2, 8), COSTS)
    assert (bought.steps, bought.rows, bought.padding_rows, bought.eager_steps) == (5, 24, 1 + 5 + 5, 1)
    assert bought.replays == {2: 1, 8: 3}
    assert bought.step_seconds == (10 + 2) + 3 * (10 + 8) + (50 + 9)
    assert (bought.capture_seconds, bought.graph_bytes) == (200.0, 6.0)
    assert bought.padding_share == pytest.approx(11 / 35)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[int], Costs, int | None]:
    """A trace of up to 7 rows, and a price for each size: not always rising, as measured times are not."""
    top = draw(st.integers(1, 7))
    trace = draw(st.lists(st.integers(1, top), min_size=1, max_size=12))
    replay = draw(st.lists(st.integers(1, 30), min_size=top, max_size=top))
    capture = draw(st.lists(st.integers(0, 60), min_size=top, max_size=top))
    eager = draw(st.none() | st.lists(st.integers(1, 90), min_size=top, max_size=top))
    costs = Costs(
        replay=lambda n: replay[n - 1],
        capture=lambda n: capture[n - 1],
        eager=None if eager is None else lambda n: eager[n - 1],
    )
    return trace, costs, draw(st.none() | st.integers(1, 4))


@given(problems())
@settings(max_examples=300, deadline=None)
def test_the_best_buckets_are_the_best_of_all_subsets(problem: tuple[list[int], Costs, int | None]) -> None:
    trace, costs, most = problem
    chosen = best_buckets(trace, costs, most)
    assert most is None or len(chosen) <= most
    every = range(1, max(trace) + 1)
    prices = []
    for count in range(0, (most or len(every)) + 1):
        for subset in combinations(every, count):
            if costs.eager is None and (not subset or subset[-1] < max(trace)):
                continue  # it has no price
            prices.append(bill(trace, subset, costs).seconds)
    assert bill(trace, chosen, costs).seconds == min(prices)


def test_free_captures_give_every_size_its_own_bucket_and_dear_ones_give_one() -> None:
    trace = [3, 5, 5, 9] * 10
    free = Costs(replay=lambda n: float(n), capture=lambda n: 0.0)
    dear = Costs(replay=lambda n: float(n), capture=lambda n: 1e9)
    assert best_buckets(trace, free) == (3, 5, 9)
    assert best_buckets(trace, dear) == (9,)


def test_candidates_bound_the_choice() -> None:
    chosen = best_buckets([3, 5, 9], Costs(lambda n: float(n), lambda n: 0.0), candidates=[4, 8, 16])
    assert chosen == (4, 8, 16)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: checked_sizes([]), "no bucket size"),
        (lambda: checked_sizes([4, 0]), "bucket size 0 is impossible"),
        (lambda: best_buckets([], COSTS), "the trace is empty"),
        (lambda: best_buckets([1], COSTS, most=0), "at most 0 buckets"),
        (lambda: bill([9], (8,), Costs(lambda n: 1.0, lambda n: 1.0)), "give a bucket of 9 or more"),
        (
            lambda: best_buckets([9], Costs(lambda n: 1.0, lambda n: 1.0), candidates=[8]),
            "no candidate holds the largest step of 9",
        ),
    ],
)
def test_impossible_input_is_said(call, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        call()
