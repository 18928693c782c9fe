"""Our engine core: every request gets exactly its tokens, and KV blocks add up, whatever the sizes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitorgen.kernels.decode.engine_core import ArithmeticExecutor, EngineCore
from monitorgen.kernels.decode.engine_types import (
    Batch,
    EngineConfig,
    EngineRequest,
    Gate,
    VirtualClock,
    outputs_of,
)
from monitorgen.kernels.decode.polling import poll_until_done
from monitorgen.kernels.workload import UsageError

VOCABULARY = 101


def expected(request: EngineRequest, max_model_len: int) -> list[int]:
    """What a request alone would get: the executor's rule, applied one token after the other."""
    rule = ArithmeticExecutor(VirtualClock(), vocabulary=VOCABULARY)
    tokens = list(request.prompt_token_ids)
    while len(tokens) < max_model_len and len(tokens) - len(request.prompt_token_ids) < request.max_tokens:
        tokens.append(rule.next_token(tokens[-1], len(tokens) - 1))
        if tokens[-1] in request.stop_token_ids:
            break
    return tokens[len(request.prompt_token_ids) :]


@st.composite
def configs(draw: st.DrawFn) -> EngineConfig:
    block_size = draw(st.integers(1, 8))
    max_model_len = draw(st.integers(2, 40))
    least = -(-max_model_len // block_size) + 1
    return EngineConfig(
        num_blocks=least + draw(st.integers(0, 12)),
        block_size=block_size,
        max_num_seqs=draw(st.integers(1, 5)),
        max_num_batched_tokens=draw(st.integers(1, 24)),
        max_model_len=max_model_len,
        async_scheduling=draw(st.booleans()),
    )


@st.composite
def workloads(draw: st.DrawFn) -> tuple[EngineConfig, list[EngineRequest], VirtualClock]:
    config, clock = draw(configs()), VirtualClock()
    requests = []
    for index in range(draw(st.integers(1, 9))):
        kind = draw(st.sampled_from(["", "", "grammar", "remote_kv"]))
        gate = Gate(kind, draw(st.floats(0, 0.3)), clock) if kind else None  # type: ignore[arg-type]
        length = draw(st.integers(1, config.max_model_len - 1))
        prompt = tuple(draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=length, max_size=length)))
        stops = frozenset(draw(st.sets(st.integers(0, VOCABULARY - 1), max_size=2)))
        requests.append(EngineRequest(str(index), prompt, draw(st.integers(1, 12)), stops, index % 3, gate))
    return config, requests, clock


class Watching(ArithmeticExecutor):
    """Checks every batch against the sizes and every block table against the others."""

    core: EngineCore

    def execute(self, batch: Batch) -> dict[str, int]:
        config = self.core.config
        assert batch.num_tokens <= config.max_num_batched_tokens
        assert len(batch.scheduled) <= config.max_num_seqs
        for share in batch.scheduled:
            end = share.start + len(share.tokens)
            assert end <= len(share.blocks) * config.block_size, "a position without a slot"
        self.check_blocks()
        return super().execute(batch)

    def check_blocks(self) -> None:
        scheduler = self.core.scheduler
        tables = [block for live in scheduler.requests.values() for block in live.blocks]
        assert len(tables) == len(set(tables)), "a block in two tables"
        assert 0 not in tables, "the null block in a table"
        assert len(tables) + scheduler.pool.num_free == scheduler.pool.total, "a block lost or made"


@given(workloads())
@settings(max_examples=150, deadline=None)
def test_every_request_gets_its_own_tokens_and_every_block_comes_back(
    work: tuple[EngineConfig, list[EngineRequest], VirtualClock],
) -> None:
    config, requests, clock = work
    executor = Watching(clock, vocabulary=VOCABULARY)
    core = executor.core = EngineCore(config, executor)
    for request in requests:
        core.add_request(request)
    served = poll_until_done(core, clock)
    assert served.tokens == {r.request_id: expected(r, config.max_model_len) for r in requests}
    assert served.reclaimed == {r.request_id for r in requests}
    assert (served.stranded_requests, served.stranded_blocks, executor.held) == (0, 0, 0)
    assert not core.has_requests()


def engine(clock: VirtualClock, **sizes: object) -> tuple[EngineCore, ArithmeticExecutor]:
    executor = ArithmeticExecutor(clock, vocabulary=VOCABULARY)
    return EngineCore(EngineConfig(**sizes), executor), executor  # type: ignore[arg-type]


def test_a_long_prompt_is_computed_in_chunks_of_the_budget() -> None:
    core, _ = engine(VirtualClock(), max_num_batched_tokens=8, async_scheduling=False)
    core.add_request(EngineRequest("long", tuple(range(20)), 1))
    sizes = []
    while core.has_requests():
        core.step()
        sizes.append(core.last_batch.num_tokens)
    assert sizes == [8, 8, 4, 0]  # the last step only tells the executor that the request has gone


def test_decoding_comes_before_a_new_prompt() -> None:
    core, _ = engine(VirtualClock(), max_num_batched_tokens=8, async_scheduling=False)
    core.add_request(EngineRequest("a", (1, 2), 4))
    core.step()
    core.add_request(EngineRequest("b", tuple(range(9)), 4))
    core.step()
    shares = [(share.request_id, len(share.tokens)) for share in core.last_batch.scheduled]
    assert shares == [("a", 1), ("b", 7)]


def test_the_request_admitted_last_is_preempted_and_computed_again() -> None:
    core, _ = engine(VirtualClock(), num_blocks=5, block_size=4, max_model_len=16, async_scheduling=False)
    core.add_request(EngineRequest("first", (1,) * 7, 6))
    core.add_request(EngineRequest("second", (2,) * 7, 6))
    preempted: set[str] = set()
    restarted = []
    while core.has_requests():
        core.step()
        preempted |= core.last_batch.preempted
        restarted += [s.request_id for s in core.last_batch.scheduled if s.start == 0]
    assert preempted == {"second"}
    assert restarted == ["first", "second", "second"]
    assert core.scheduler.preemptions == 1


def test_remote_kv_holds_the_whole_prompts_blocks_and_then_computes_one_token() -> None:
    clock = VirtualClock()
    core, _ = engine(clock, block_size=4, async_scheduling=False)
    core.add_request(EngineRequest("far", tuple(range(10)), 2, gate=Gate("remote_kv", 1.0, clock)))
    _, executed = core.step()
    assert (executed, core.blocks_in_use(), core.has_requests()) == (False, 3, True)
    clock.sleep(1.0)
    _, executed = core.step()
    assert executed
    assert [(s.start, s.tokens) for s in core.last_batch.scheduled] == [(9, (9,))]


def test_a_grammar_being_compiled_holds_no_blocks() -> None:
    clock = VirtualClock()
    core, _ = engine(clock, async_scheduling=False)
    core.add_request(EngineRequest("json", (1, 2, 3), 2, gate=Gate("grammar", 1.0, clock)))
    assert core.step() == ({}, False)
    assert (core.blocks_in_use(), core.unfinished()) == (0, 1)


def test_with_async_scheduling_full_seats_make_an_idle_step_that_still_hands_out_tokens() -> None:
    core, _ = engine(VirtualClock(), max_num_seqs=1, async_scheduling=True)
    core.add_request(EngineRequest("seated", (1,), 1))
    core.add_request(EngineRequest("queued", (2,), 1))
    assert core.step() == ({}, True)  # the queue of batches is filled first
    results, executed = core.step()
    assert not executed
    assert [(o.request_id, o.finish_reason) for o in outputs_of(results)] == [("seated", "length")]
    assert core.unfinished() == 1


def test_pausing_keeps_blocks_and_schedules_nothing() -> None:
    core, _ = engine(VirtualClock(), async_scheduling=False)
    core.add_request(EngineRequest("a", (1, 2, 3), 5))
    core.step()
    core.pause()
    assert core.step() == ({}, False)
    assert (core.has_requests(), core.unfinished(), core.blocks_in_use()) == (False, 1, 1)
    core.resume()
    assert core.step()[1]


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
@pytest.mark.parametrize("async_scheduling", [False, True])
def test_aborting_gives_blocks_back_at_any_moment(steps: int, async_scheduling: bool) -> None:
    core, executor = engine(VirtualClock(), async_scheduling=async_scheduling)
    for name in ("kept", "dropped"):
        core.add_request(EngineRequest(name, (1, 2, 3), 4))
    for _ in range(steps):
        core.step()
    core.abort_requests(["dropped", "never seen"])
    served = poll_until_done(core, VirtualClock())
    assert (core.blocks_in_use(), executor.held, core.unfinished()) == (0, 0, 0)
    assert served.finish_reasons == {"kept": "length"}
    assert served.reclaimed == {"kept", "dropped"}


def test_clients_get_their_own_outputs() -> None:
    core, _ = engine(VirtualClock(), async_scheduling=False)
    core.add_request(EngineRequest("a", (1,), 1, client_index=0))
    core.add_request(EngineRequest("b", (1,), 1, client_index=7))
    results, _ = core.step()
    assert {client: [o.request_id for o in out.outputs] for client, out in results.items()} == {
        0: ["a"],
        7: ["b"],
    }
    assert {client: out.finished_requests for client, out in results.items()} == {0: {"a"}, 7: {"b"}}


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"max_num_seqs": 0}, "max_num_seqs is 0"),
        ({"block_size": 0}, "block_size is 0"),
        ({"max_num_batched_tokens": -1}, "max_num_batched_tokens is -1"),
        ({"max_model_len": 1}, "max_model_len is 1"),
        ({"num_blocks": 32, "block_size": 16, "max_model_len": 512}, "give 33 or more"),
    ],
)
def test_sizes_with_which_a_request_would_wait_for_ever_are_refused(sizes: dict[str, int], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        EngineConfig(**sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (EngineRequest("x", (), 1), "a prompt of 0 tokens"),
        (EngineRequest("x", (1,) * 512, 1), "a prompt of 512 tokens"),
        (EngineRequest("x", (1,), 0), "max_tokens is 0"),
    ],
)
def test_requests_that_can_never_run_are_refused(request_: EngineRequest, says: str) -> None:
    core, _ = engine(VirtualClock())
    with pytest.raises(UsageError, match=says):
        core.add_request(request_)


def test_a_request_id_cannot_be_used_twice_at_once() -> None:
    core, _ = engine(VirtualClock())
    core.add_request(EngineRequest("x", (1,), 1))
    with pytest.raises(UsageError, match="already running"):
        core.add_request(EngineRequest("x", (1,), 1))
