"""A scheduler with the rules of vLLM's V1 scheduler that decide what runs: small, exact about KV blocks.

What is kept of it: running requests come first, in order; a step's tokens are bounded by a budget, and a
prefill is cut where the budget ends; when blocks run out the request admitted last is preempted, loses its
blocks and is computed again; nothing is admitted in a step that preempted; a waiting request is admitted in
order, if the whole of it fits the free blocks and a seat is free; one that waits for a grammar or for remote
KV is passed over; with async scheduling a request whose last token is in flight is not scheduled again.
What is left out: prefix caching, speculation, LoRA, encoders, priorities, Mamba.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from monitorgen.kernels.decode.engine_types import (
    IN_FLIGHT,
    Batch,
    EngineConfig,
    EngineRequest,
    RequestOutput,
    Scheduled,
    StepOutputs,
)
from monitorgen.kernels.workload import UsageError

Status = Literal["waiting", "loading", "running", "preempted"]


class BlockPool:
    """KV blocks 1 .. num_blocks - 1: each is free or in exactly one request's table."""

    def __init__(self, num_blocks: int) -> None:
        self._free = deque(range(1, num_blocks))
        self.total = num_blocks - 1

    @property
    def num_free(self) -> int:
        """Blocks that can be taken now."""
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """Take so many blocks; the caller has checked that they are there."""
        return [self._free.popleft() for _ in range(count)]

    def give(self, blocks: list[int]) -> None:
        """Give a table back, its last block first, so that a prompt's first blocks live longest."""
        self._free.extend(reversed(blocks))
        blocks.clear()


@dataclass(slots=True)
class Live:
    """A request inside the scheduler. `computed` counts the tokens whose KV is or will be in the cache."""

    spec: EngineRequest
    tokens: list[int]
    status: Status = "waiting"
    blocks: list[int] = field(default_factory=list)
    computed: int = 0
    placeholders: int = 0  # tokens sampled in batches that have not come back
    in_flight: int = 0  # tokens computed in batches that have not come back
    stale: int = 0  # of these, the ones that a preemption has made worthless for `computed`
    preemptions: int = 0

    @property
    def num_output(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - len(self.spec.prompt_token_ids)

    def last_token_in_flight(self) -> bool:
        """True when a batch under way samples the last token that the request may have."""
        return self.placeholders > 0 and self.num_output + self.placeholders >= self.spec.max_tokens


class Scheduler:
    """Decides what each step computes and keeps the block tables; it runs no model."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.pool = BlockPool(config.num_blocks)
        self.requests: dict[str, Live] = {}
        self.waiting: deque[Live] = deque()
        self.loading: deque[Live] = deque()  # waiting too, but with blocks: these go first
        self.running: list[Live] = []
        self.paused = False
        self.preemptions = 0
        self._finished: set[str] = set()
        self._finished_by_client: dict[int, set[str]] = {}

    def add(self, spec: EngineRequest) -> None:
        """Queue a request. Raises UsageError if it can never run here."""
        length = len(spec.prompt_token_ids)
        if not 0 < length < self.config.max_model_len:
            raise UsageError(
                f"request {spec.request_id}: a prompt of {length} tokens does not fit max_model_len "
                f"{self.config.max_model_len} (1 to {self.config.max_model_len - 1})"
            )
        if spec.max_tokens < 1:
            raise UsageError(f"request {spec.request_id}: max_tokens is {spec.max_tokens}, give 1 or more")
        if spec.request_id in self.requests:
            raise UsageError(f"request {spec.request_id} is already running")
        live = Live(spec, list(spec.prompt_token_ids))
        if spec.gate and spec.gate.kind == "grammar":
            spec.gate.start()
        self.requests[spec.request_id] = live
        self.waiting.append(live)

    def has_requests(self) -> bool:
        """Whether a step could do anything; a paused scheduler has only finished requests to report."""
        return bool(self._finished) or bool(self.requests and not self.paused)

    def schedule(self) -> Batch:
        """The next step's batch, blocks allocated; requests finished since the last one are told with it."""
        budget = 0 if self.paused else self.config.max_num_batched_tokens
        shares: list[Scheduled] = []
        preempted: set[str] = set()
        budget = self._schedule_running(budget, shares, preempted)
        if not preempted and not self.paused:
            self._schedule_waiting(budget, shares)
        batch = Batch(tuple(shares), frozenset(self._finished), frozenset(preempted))
        self._finished = set()
        return batch

    def _schedule_running(self, budget: int, shares: list[Scheduled], preempted: set[str]) -> int:
        index = 0
        while index < len(self.running) and budget > 0:
            live = self.running[index]
            index += 1
            if live.last_token_in_flight():
                continue
            count = len(live.tokens) + live.placeholders - live.computed
            count = min(count, budget, self.config.max_model_len - 1 - live.computed)
            if count <= 0:
                continue
            while not self._allocate(live, live.computed + count):
                victim = self.running.pop()
                self._preempt(victim)
                preempted.add(victim.spec.request_id)
                if victim is live:
                    return budget  # it was the last one itself: nobody behind it can run either
            shares.append(self._share(live, count))
            budget -= count
        return budget

    def _schedule_waiting(self, budget: int, shares: list[Scheduled]) -> None:
        loading: list[Live] = []
        passed_over: list[Live] = []
        while budget > 0 and len(self.running) < self.config.max_num_seqs:
            queue = self.loading or self.waiting
            if not queue:
                break
            live = queue[0]
            if not self._gate_open(live) or live.stale:
                (loading if live.status == "loading" else passed_over).append(queue.popleft())
                continue
            if live.status == "waiting" and live.spec.gate and live.spec.gate.kind == "remote_kv":
                if not self._admit_load(live):
                    break
                loading.append(queue.popleft())
                continue
            count = min(len(live.tokens) - live.computed, budget)
            # The whole of it has to fit, not just this chunk: half a prompt would only wait and hold blocks.
            if self.config.blocks_of(len(live.tokens)) - len(live.blocks) > self.pool.num_free:
                break
            self._allocate(live, live.computed + count)
            live.status = "running"
            self.running.append(queue.popleft())
            shares.append(self._share(live, count))
            budget -= count
        self.loading.extendleft(reversed(loading))
        self.waiting.extendleft(reversed(passed_over))

    @staticmethod
    def _gate_open(live: Live) -> bool:
        """Whether nothing outside holds the request back; a load that has arrived is taken over here."""
        gate = live.spec.gate
        if gate and gate.kind == "grammar":
            return bool(gate.ready())
        if live.status == "loading":
            assert gate is not None
            # The last prompt token is computed here, because its logits give the first token.
            live.computed = len(live.tokens) - 1
            return bool(gate.ready())
        return True

    def _admit_load(self, live: Live) -> bool:
        """Reserve blocks for a whole remote prompt, leaving those that prefills under way still need."""
        owed = sum(
            max(0, self.config.blocks_of(len(other.tokens)) - len(other.blocks)) for other in self.running
        )
        need = self.config.blocks_of(len(live.tokens))
        if need > self.pool.num_free - owed:
            return False
        assert live.spec.gate is not None
        live.blocks += self.pool.take(need)
        live.status = "loading"
        live.spec.gate.start()
        return True

    def _allocate(self, live: Live, tokens: int) -> bool:
        need = self.config.blocks_of(tokens) - len(live.blocks)
        if need > self.pool.num_free:
            return False
        live.blocks += self.pool.take(max(0, need))
        return True

    def _share(self, live: Live, count: int) -> Scheduled:
        start = live.computed
        known = live.tokens[start : start + count]
        tokens = tuple(known) + (IN_FLIGHT,) * (count - len(known))
        live.computed += count
        live.in_flight += count
        samples = live.computed >= len(live.tokens) + live.placeholders
        live.placeholders += samples
        return Scheduled(live.spec.request_id, start, tokens, tuple(live.blocks), samples)

    def _preempt(self, live: Live) -> None:
        """Take a request's blocks; tokens under way still count as its output, not as computed."""
        self.pool.give(live.blocks)
        live.status, live.computed, live.placeholders = "preempted", 0, 0
        live.stale = live.in_flight
        live.preemptions += 1
        self.preemptions += 1
        self.waiting.appendleft(live)

    def update(self, batch: Batch, sampled: dict[str, int]) -> dict[int, StepOutputs]:
        """Take a batch's tokens in: what each client is told, finished requests' blocks given back."""
        results: dict[int, StepOutputs] = {}
        for share in batch.scheduled:
            live = self.requests.get(share.request_id)
            if live is None:
                continue  # it finished while this batch was under way: its token is surplus
            live.in_flight -= len(share.tokens)
            if live.stale:
                live.stale -= len(share.tokens)
            elif share.samples:
                live.placeholders -= 1
            if not share.samples:
                continue
            live.tokens.append(sampled[share.request_id])
            reason = self._finish_reason(live)
            output = RequestOutput(share.request_id, (live.tokens[-1],), reason)
            results.setdefault(live.spec.client_index, StepOutputs()).outputs.append(output)
            if reason:
                self._finish(live)
        for client, finished in self._finished_by_client.items():
            results.setdefault(client, StepOutputs()).finished_requests |= finished
        self._finished_by_client.clear()
        return results

    def _finish_reason(self, live: Live) -> Literal["stop", "length"] | None:
        if live.num_output >= live.spec.max_tokens or len(live.tokens) >= self.config.max_model_len:
            return "length"
        return "stop" if live.tokens[-1] in live.spec.stop_token_ids else None

    def abort(self, request_ids: list[str]) -> None:
        """Drop requests that a client no longer wants; ids that are not here are passed over."""
        for request_id in request_ids:
            if request_id in self.requests:
                self._finish(self.requests[request_id])

    def _finish(self, live: Live) -> None:
        queues = {"running": self.running, "loading": self.loading}
        queues.get(live.status, self.waiting).remove(live)
        self.pool.give(live.blocks)
        del self.requests[live.spec.request_id]
        self._finished.add(live.spec.request_id)
        self._finished_by_client.setdefault(live.spec.client_index, set()).add(live.spec.request_id)
