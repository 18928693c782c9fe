"""Lookup on the device finds what a plain search finds."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the workloads' extra is not installed")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from monitorgen.kernels.speculative.accept import make_proposal  # noqa: E402
from monitorgen.kernels.speculative.ngram import NgramDrafter  # noqa: E402
from monitorgen.kernels.speculative.sequences import make_sequences  # noqa: E402
from monitorgen.kernels.workload import UsageError  # noqa: E402


def searched(tokens: list[int], least: int, longest: int, k: int) -> list[int]:
    """What followed the latest earlier place of the longest suffix that has one."""
    for size in range(min(longest, len(tokens) - 1), least - 1, -1):
        for start in range(len(tokens) - size - 1, -1, -1):
            if tokens[start : start + size] == tokens[-size:]:
                return tokens[start + size : start + size + k]
    return []


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=24), min_size=1, max_size=4),
    least=st.integers(1, 3),
    more=st.integers(0, 2),
    k=st.integers(1, 8),
)
def test_lookup_is_the_plain_search(rows: list[list[int]], least: int, more: int, k: int) -> None:
    sequences = make_sequences(len(rows), 32, -1, "cpu")
    sequences.tokens.fill_(1)  # what was there before is no match
    for row, tokens in enumerate(rows):
        sequences.tokens[row, : len(tokens)] = torch.tensor(tokens)
        sequences.lengths[row] = len(tokens)
    proposal = make_proposal(len(rows), 8, 3, drawn=False, device="cpu")
    NgramDrafter(least, least + more).propose(sequences, k, proposal)
    found = [proposal.tokens[:count, row].tolist() for row, count in enumerate(proposal.count.tolist())]
    assert found == [searched(tokens, least, least + more, k) for tokens in rows]


@pytest.mark.parametrize(("least", "longest"), [(0, 2), (3, 2)])
def test_impossible_lengths_are_refused(least: int, longest: int) -> None:
    with pytest.raises(UsageError, match=f"ngram lengths {least} to {longest}"):
        NgramDrafter(least, longest)
