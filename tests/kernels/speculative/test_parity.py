"""Greedy speculative decoding gives exactly the tokens of plain decoding, whoever drafts and whatever."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workloads' extra is not installed")
sys.path.insert(0, str(Path(__file__).parent))

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from speculative_models import (  # noqa: E402
    CONTEXT,
    END,
    VOCAB,
    ScriptedDrafter,
    drafter,
    noisy,
    plain_tokens,
    requests,
    speculator,
    target,
    with_head,
)

from monitorgen.kernels.decode.model import generate  # noqa: E402
from monitorgen.kernels.decode.state import static_cache  # noqa: E402
from monitorgen.kernels.decode.torch_ops import TorchOps  # noqa: E402
from monitorgen.kernels.speculative.adaptive import AdaptiveK  # noqa: E402
from monitorgen.kernels.speculative.full_pass import hidden_states, logits_of  # noqa: E402
from monitorgen.kernels.speculative.head import following  # noqa: E402
from monitorgen.kernels.speculative.parity import check_greedy  # noqa: E402
from monitorgen.kernels.workload import UsageError  # noqa: E402

WEIGHTS = target()
DRAFT = noisy(WEIGHTS)
PROMPTS, ANSWERS = requests(200)


@pytest.fixture(scope="module")
def wanted() -> list[list[int]]:
    return plain_tokens(WEIGHTS, PROMPTS, ANSWERS)


def test_plain_decode_is_the_decoders_own_cut_at_ends_and_limits(wanted: list[list[int]]) -> None:
    cache, state = static_cache(WEIGHTS.config, 200, CONTEXT, device="cpu", dtype=torch.float32)
    full = generate(WEIGHTS, cache, state, TorchOps(WEIGHTS), PROMPTS, max(ANSWERS))
    for tokens, mine, most in zip(full, wanted, ANSWERS, strict=True):
        end = tokens.index(END) + 1 if END in tokens else most
        assert mine == tokens[: min(end, most)]
    # The rest of this file says something only if some rows end early and others at their limits.
    ended = sum(tokens[-1] == END for tokens in wanted)
    assert 20 < ended < 180


@pytest.mark.parametrize("method", ["draft-model", "ngram", "head"])
@pytest.mark.parametrize("k", range(1, 9))
def test_200_prompts_get_the_same_tokens(method: str, k: int, wanted: list[list[int]]) -> None:
    loop = (
        with_head(WEIGHTS, 200, k)
        if method == "head"
        else speculator(WEIGHTS, drafter(method, DRAFT, 200), 200, k)
    )
    loop.start(PROMPTS, ANSWERS)
    found = loop.run()
    assert found.tokens == wanted
    # Neither nothing nor everything was accepted, or rolling back was not tried.
    assert 0 < loop.speculation.accepted_tokens < loop.speculation.draft_tokens
    if k == 3:  # a run leaves nothing behind that the next one could see
        loop.reset()
        assert loop.run() == found


def test_a_draft_that_is_the_target_is_accepted_whole(wanted: list[list[int]]) -> None:
    loop = speculator(WEIGHTS, drafter("draft-model", WEIGHTS, 200), 200, 3)
    loop.start(PROMPTS, ANSWERS)
    answers = loop.run()
    assert answers.tokens == wanted
    # Only a draft whose cache has no hole, also after its last token was accepted, can always be right.
    assert loop.speculation.accepted_tokens == loop.speculation.draft_tokens
    assert len(answers.steps) == -(-(max(map(len, wanted)) - 1) // 4)


def test_adapting_k_changes_no_token_and_finds_the_short_draft(wanted: list[list[int]]) -> None:
    loop = speculator(
        WEIGHTS, drafter("draft-model", noisy(WEIGHTS, 3.0), 200), 200, 6, adaptive=AdaptiveK(6, 0.3)
    )
    loop.start(PROMPTS, ANSWERS)
    answers = loop.run()
    assert answers.tokens == wanted
    assert answers.steps[0].k == 6
    assert {step.k for step in answers.steps[3:]} == {1}


LOOP = speculator(WEIGHTS, ScriptedDrafter(), 3, 8)


@st.composite
def scripts(draw: Any) -> tuple[list[list[int]], list[int], list[Any]]:
    """Three requests, and for each a recipe: at each length, how many right tokens and what wrong ones."""
    token = st.integers(0, VOCAB - 1)
    prompts = draw(st.lists(st.lists(token, min_size=1, max_size=12), min_size=3, max_size=3))
    answers = draw(st.lists(st.integers(1, 20), min_size=3, max_size=3))
    step = st.tuples(st.integers(0, 8), st.lists(st.one_of(token, st.just(END)), max_size=8))
    recipe = draw(st.lists(st.lists(step, min_size=21, max_size=21), min_size=3, max_size=3))
    return prompts, answers, recipe


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(scripts())
def test_any_draft_is_rolled_back_to_what_the_target_says(case: tuple[Any, Any, Any]) -> None:
    prompts, answers, recipe = case
    endless = plain_tokens(WEIGHTS, prompts, [40, 40, 40], end=-1)  # what comes next, ends or not
    assert isinstance(LOOP.drafter, ScriptedDrafter)
    LOOP.drafter.script = [
        {
            len(prompt) + done: [*after[done : done + right], *wrong][:8]
            for done, (right, wrong) in enumerate(steps, 1)
        }
        for prompt, after, steps in zip(prompts, endless, recipe, strict=True)
    ]
    LOOP.start(prompts, answers)
    found = LOOP.run()
    for tokens, after, most in zip(found.tokens, endless, answers, strict=True):
        end = after.index(END) + 1 if END in after[:most] else most
        assert tokens == after[: min(end, most)]
    # Each step tells of every row what follows from the script and the target's own continuation.
    places = [1, 1, 1]
    for step in found.steps:
        for row, place in enumerate(places):
            over = place >= len(found.tokens[row])
            draft = [] if over else LOOP.drafter.script[row].get(len(prompts[row]) + place, [])
            assert step.drafted[row] == len(draft)
            same = [one == other for one, other in zip(draft, endless[row][place:], strict=False)]
            assert step.accepted[row] == (same.index(False) if False in same else len(draft))
            assert step.emitted[row] == min(
                0 if over else step.accepted[row] + 1, len(found.tokens[row]) - place
            )
            places[row] += step.emitted[row]
    assert places == [len(tokens) for tokens in found.tokens]


def test_the_end_token_counts_inside_a_draft_only_up_to_where_it_is_accepted() -> None:
    prompts = PROMPTS[:3]
    endless = plain_tokens(WEIGHTS, prompts, [24, 24, 24], end=-1)
    end = endless[0][4]
    loop = speculator(WEIGHTS, ScriptedDrafter(), 3, 8, end=end)
    assert isinstance(loop.drafter, ScriptedDrafter)
    # Row 0 drafts over its end; row 1 drafts an end that the target rejects; row 2 drafts nothing.
    loop.drafter.script = [
        {len(prompts[0]) + 1: endless[0][1:9]},
        {len(prompts[1]) + 1: [end if endless[1][1] != end else end + 1]},
        {},
    ]
    loop.start(prompts, [24, 24, 24])
    found = loop.run()
    assert found.tokens == plain_tokens(WEIGHTS, prompts, [24, 24, 24], end=end)
    assert found.tokens[0] == endless[0][: endless[0].index(end) + 1]
    assert found.steps[0].accepted[:2] == [8, 0]
    assert found.steps[0].emitted[0] == endless[0].index(end)


def test_parity_finds_a_token_that_is_not_the_targets(wanted: list[list[int]]) -> None:
    fine = check_greedy(WEIGHTS, PROMPTS[:20], wanted[:20])
    assert (fine.tokens, fine.not_first, fine.holds) == (sum(map(len, wanted[:20])), 0, True)
    wrong = [list(tokens) for tokens in wanted[:20]]
    longest = max(range(20), key=lambda row: len(wrong[row]))
    wrong[longest][-1] = (wrong[longest][-1] + 1) % VOCAB
    found = check_greedy(WEIGHTS, PROMPTS[:20], wrong)
    assert found.not_first == 1
    assert not found.holds
    assert "FAILS" in str(found)


@pytest.mark.parametrize(
    ("prompts", "answers", "said"),
    [
        (
            [[1] * 60, [2]],
            [29, 4],
            r"request 0: 60 prompt tokens, 29 to decode and drafts of 8 need 97 places",
        ),
        ([[1], []], [4, 4], "request 1: a prompt of 0 tokens"),
        ([[1], [2]], [4, 0], "request 1: .* 0 to decode"),
    ],
)
def test_what_outgrows_the_cache_is_said_before_any_work(
    prompts: list[list[int]], answers: list[int], said: str
) -> None:
    loop = speculator(WEIGHTS, ScriptedDrafter(), 2, 8)
    before = loop.verifier.cache.k.clone()
    with pytest.raises(UsageError, match=said):
        loop.start(prompts, answers)
    assert torch.equal(loop.verifier.cache.k, before)


def test_a_request_that_just_fits_is_decoded() -> None:
    loop = speculator(WEIGHTS, drafter("draft-model", DRAFT, 1), 1, 8, end=-1)
    loop.start([[1] * 60], [28])
    assert loop.run().tokens == plain_tokens(WEIGHTS, [[1] * 60], [28], end=-1)


def test_a_head_starts_from_the_state_that_the_last_token_was_chosen_from() -> None:
    prompts, _ = requests(20, seed=9)
    loop = with_head(WEIGHTS, 20, 3, end=-1)
    loop.start(prompts, [20] * 20)
    for index in range(4):
        sequences, rows = loop.sequences, torch.arange(20)
        states = hidden_states(WEIGHTS, sequences.tokens[:, :-1])
        state, tokens = states[rows, sequences.lengths - 2], sequences.last()
        assert torch.allclose(loop.verifier.hidden, state, atol=1e-4)
        loop.drafter.propose(sequences, 3, loop.proposal)
        for step in range(3):
            state = following(loop.drafter.head, WEIGHTS, state, tokens)
            tokens = logits_of(WEIGHTS, state).argmax(-1)
            assert torch.equal(loop.proposal.tokens[step], tokens)
        loop.step(index, 3)
    assert loop.sequences.lengths.unique().numel() > 5  # rows were accepted to different lengths
