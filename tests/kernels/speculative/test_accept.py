"""Speculative sampling draws from the target's distribution: chi-square tests on small vocabularies.

The seeds are fixed, so a test passes or fails for good. The level is 0.1%: of right programs with other
seeds, one in a thousand would fail. That the tests have power is tested as well.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workloads' extra is not installed")
sys.path.insert(0, str(Path(__file__).parent))

from speculative_models import CONTEXT, drafter, noisy, speculator, target, with_head  # noqa: E402

from monitorgen.kernels.decode.config import Config  # noqa: E402
from monitorgen.kernels.decode.sampling import Sampling, kept_logits  # noqa: E402
from monitorgen.kernels.speculative.accept import (  # noqa: E402
    Proposal,
    accept_greedy,
    accept_sampling,
    make_proposal,
)
from monitorgen.kernels.speculative.draft_model import draw  # noqa: E402
from monitorgen.kernels.speculative.full_pass import hidden_states, logits_of  # noqa: E402

LEVEL = 0.001
ROWS = 20_000
V = 5


def p_value(counts: Any, chances: Any) -> float:
    """Pearson's chi-square test: how likely counts as far off as these are, if the chances are right."""
    wanted = chances.double() * counts.sum()
    possible = wanted > 0
    assert counts[~possible].sum() == 0, "a token that cannot be was drawn"
    assert wanted[possible].min() >= 5, "too few expected in a cell for the test"
    statistic = ((counts[possible].double() - wanted[possible]) ** 2 / wanted[possible]).sum()
    return float(
        torch.special.gammaincc(torch.tensor((int(possible.sum()) - 1) / 2.0).double(), statistic / 2)
    )


def chains(seed: int) -> tuple[Any, Any]:
    """Logits of a target and of a draft as Markov chains, [V, V]: by the last token, of the next one."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.randn(V, V, generator=generator)
    return p, p + torch.randn(V, V, generator=generator)


def decode(p: Any, q: Any, sampling: Sampling, k: int, steps: int, certain: str) -> Any:
    """`steps` speculative steps of all rows from token 0: tokens [B, >= steps], padded with -1.

    `certain`: where drafts come from: "no": drawn from q; "yes": a fixed token each; "ragged": the same, but
    only as many as the row's number says.
    """
    said = [[] for _ in range(ROWS)]
    last = torch.zeros(ROWS, dtype=torch.int64)
    for _ in range(steps):
        proposal = make_proposal(ROWS, k, V, drawn=certain == "no", device="cpu")
        proposal.count.fill_(k)
        if certain == "ragged":
            proposal.count.copy_(torch.arange(ROWS) % (k + 1))
        before = last
        for at in range(k):
            if certain == "no":
                draw(q[before], sampling, proposal, at)
            else:
                proposal.tokens[at] = q[before].argmax(-1)
            before = proposal.tokens[at]
        inputs = torch.cat((last[None], proposal.tokens)).t()  # [B, k + 1]
        emitted, accepted = accept_sampling(p[inputs], proposal, k, sampling)
        for row, (tokens, count) in enumerate(zip(emitted.tolist(), accepted.tolist(), strict=True)):
            said[row] += tokens[: count + 1]
        last = emitted.gather(1, accepted[:, None])[:, 0]
    return said


def joint(p: Any, sampling: Sampling, length: int) -> Any:
    """The exact chances of all sequences of a length from token 0, [V^length]."""
    chances = kept_logits(p, sampling).softmax(-1)
    found = chances[0]
    for _ in range(length - 1):
        found = found[..., None] * chances  # [..., last, next]
    return found.flatten()


def counts_of(said: Any, length: int) -> Any:
    """How often each sequence of the first `length` tokens came, of the rows that have as many."""
    places = [
        sum(token * V ** (length - 1 - at) for at, token in enumerate(tokens[:length]))
        for tokens in said
        if len(tokens) >= length
    ]
    assert len(places) == ROWS
    return torch.bincount(torch.tensor(places), minlength=V**length)


CASES = [
    ("no", {}, 3),
    ("no", {"temperature": 0.6}, 2),
    ("no", {"top_k": 3}, 3),
    ("no", {"top_p": 0.8}, 1),
    ("yes", {}, 3),
    ("ragged", {}, 3),
]


@pytest.mark.parametrize(("certain", "how", "k"), CASES, ids=lambda value: str(value))
def test_sequences_are_distributed_as_the_targets(certain: str, how: dict[str, Any], k: int) -> None:
    p, q = chains(seed=4)
    sampling = Sampling(torch.Generator().manual_seed(11), **how)
    # Three steps give at least three tokens: where each step ends is decided by what was accepted.
    said = decode(p, q, sampling, k, steps=3, certain=certain)
    for length in (1, 2, 3):
        chances = joint(p, sampling, length)
        if (chances * ROWS)[chances > 0].min() < 5:
            continue  # so rare a sequence that the test does not hold; the shorter ones were tested
        assert p_value(counts_of(said, length), chances) > LEVEL
    assert len({len(tokens) for tokens in said}) > 1  # some drafts were accepted, others were not


def test_the_test_would_notice_a_rule_that_is_not_lossless() -> None:
    """Accepting every draft, and drawing the last token from p instead of what is left of it: both show."""
    p, q = chains(seed=4)
    sampling = Sampling(torch.Generator().manual_seed(11))
    proposal = make_proposal(ROWS, 1, V, drawn=True, device="cpu")
    proposal.count.fill_(1)
    draw(q[torch.zeros(ROWS, dtype=torch.int64)], sampling, proposal, 0)
    first = torch.bincount(proposal.tokens[0], minlength=V)
    assert p_value(first, joint(p, sampling, 1)) < LEVEL

    emitted, accepted = accept_sampling(
        p[torch.stack((torch.zeros(ROWS, dtype=torch.int64), proposal.tokens[0]), 1)], proposal, 1, sampling
    )
    again = torch.multinomial(p[0].softmax(-1), ROWS, True, generator=torch.Generator().manual_seed(1))
    biased = torch.where(accepted > 0, emitted[:, 0], again)
    assert p_value(torch.bincount(biased, minlength=V), joint(p, sampling, 1)) < LEVEL


def test_acceptance_is_as_often_as_the_distributions_overlap() -> None:
    p, q = chains(seed=4)
    sampling = Sampling(torch.Generator().manual_seed(3))
    proposal = make_proposal(ROWS, 1, V, drawn=True, device="cpu")
    proposal.count.fill_(1)
    start = torch.zeros(ROWS, dtype=torch.int64)
    draw(q[start], sampling, proposal, 0)
    _, accepted = accept_sampling(p[torch.stack((start, proposal.tokens[0]), 1)], proposal, 1, sampling)
    # Leviathan et al. 2023, theorem 3.5: sum over x of min(p(x), q(x)).
    overlap = torch.minimum(p[0].softmax(-1), q[0].softmax(-1)).sum()
    chances = torch.stack((1 - overlap, overlap))
    assert p_value(torch.bincount(accepted, minlength=2), chances) > LEVEL


@pytest.mark.parametrize("method", ["draft-model", "ngram", "head"])
def test_the_whole_loop_samples_as_the_target_does(method: str) -> None:
    """A real target of 6 tokens and its noisy draft: the first three tokens after one prompt, 6,000 times."""
    shape = Config(
        "toy", 6, hidden=16, layers=1, heads=2, kv_heads=1, head_dim=8, intermediate=16, positions=CONTEXT
    )
    weights, rows, prompt = target(shape, seed=8), 6000, [1, 2, 3, 1, 2]
    # Sharp logits would make rare cells; over 1.5 the rarest of the 216 sequences is expected often enough.
    draws = [Sampling(torch.Generator().manual_seed(seed), temperature=1.5) for seed in (1, 2)]
    if method == "head":
        loop = with_head(weights, rows, 2, end=-1, draws=draws)
    else:
        draft = drafter(method, noisy(weights, 0.5), rows, draws[0])
        loop = speculator(weights, draft, rows, 2, end=-1, sampling=draws[1])
    loop.start([prompt] * rows, [3] * rows)
    tokens = torch.tensor(loop.run().tokens)
    assert 0 < loop.speculation.accepted_tokens < loop.speculation.draft_tokens

    every = torch.cartesian_prod(*[torch.arange(6)] * 3)  # [216, 3]
    full = torch.cat((torch.tensor(prompt).expand(216, -1), every), 1)
    logits = kept_logits(logits_of(weights, hidden_states(weights, full)).flatten(0, 1), draws[1])
    chances = logits.softmax(-1).view(216, full.shape[1], 6)[:, len(prompt) - 1 : -1]
    chances = chances.gather(2, every[:, :, None])[:, :, 0].prod(1)
    counts = torch.bincount(tokens[:, 0] * 36 + tokens[:, 1] * 6 + tokens[:, 2], minlength=216)
    common = chances * rows >= 5
    grouped = torch.cat((counts[common], counts[~common].sum()[None]))
    chances = torch.cat((chances[common], chances[~common].sum()[None]))
    assert common.sum() > 60
    assert p_value(grouped, chances) > LEVEL


def test_greedy_acceptance_stops_at_the_first_difference_and_at_the_count() -> None:
    logits = torch.zeros(4, 4, V)
    choices = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [0, 0, 0, 0]])
    logits.scatter_(2, choices[:, :, None], 1.0)
    proposal = Proposal(
        tokens=torch.tensor([[1, 2, 3], [1, 0, 3], [1, 2, 3], [1, 0, 0]]).t().contiguous(),
        count=torch.tensor([3, 3, 2, 0]),
        probability=None,
    )
    emitted, accepted = accept_greedy(logits, proposal, 3)
    assert accepted.tolist() == [3, 1, 2, 0]
    assert torch.equal(emitted, choices)


def test_equal_distributions_reject_nothing() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25]])
    proposal = make_proposal(1, 1, 3, drawn=True, device="cpu")
    proposal.count.fill_(1)
    proposal.probability[0] = p
    for seed in range(200):
        sampling = Sampling(torch.Generator().manual_seed(seed))
        proposal.tokens[0] = seed % 3
        emitted, accepted = accept_sampling(p.log()[:, None].expand(1, 2, 3), proposal, 1, sampling)
        assert accepted.tolist() == [1]
        assert emitted[0, 0] == seed % 3
