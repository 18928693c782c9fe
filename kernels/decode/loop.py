"""A decode loop over a ragged trace: requests come and go, pages move, tokens reach the host.

One loop serves both arms; `Policy` is all that differs. A pass decodes the whole trace. The host stays one
step ahead of the device: it launches a step, then takes the tokens of the one before, as an engine does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from monitorgen.kernels.counters import DecodeCounters, RecaptureReason
from monitorgen.kernels.decode.graphs import capture, cuda, run_aside
from monitorgen.kernels.decode.model import Ops, decode_step, prefill
from monitorgen.kernels.decode.pool import Compaction, PagePool
from monitorgen.kernels.decode.state import Cache, State, Workspace, make_cache, make_state
from monitorgen.kernels.decode.trace import Plan, Step
from monitorgen.kernels.decode.weights import Weights

StepFunction = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Policy:
    """How a loop treats shapes, memory and holes.

    `buckets` are the batch sizes to pad to, captured before the first step in one shared pool, largest first,
    on preallocated workspaces; empty: each batch size gets a graph (of its own pool) and a workspace when it
    is first seen. `pages` is the size of the KV pool, 0 to start with what the first step needs and double
    when it runs out. `keep` keeps graphs and workspaces of earlier passes.
    """

    buckets: tuple[int, ...] = ()
    pages: int = 0
    fragmentation: float = 0.0
    age: int = 0
    keep: bool = False

    def padded(self, rows: int) -> int:
        """The least bucket that holds `rows`."""
        return next((bucket for bucket in self.buckets if bucket >= rows), rows)


@dataclass(slots=True)
class Batch:
    """The static buffers of one batch size, and its graph where there is one."""

    rows: Tensor  # [B] int64: slots
    chosen: Tensor  # [B] int64: the tokens that a step chose
    work: Workspace
    graph: Any = None


@dataclass(slots=True)
class Request:
    """A request that is being decoded."""

    slot: int
    tokens: int  # in the cache
    pages: list[int] = field(default_factory=list)


class DecodeLoop:
    """Decodes a plan's steps; `tokens` holds what each request got, the prefill's token first.

    `step` computes one decode step (`model.decode_step`, or a compiled one). Counters count decode steps;
    prompts are prefilled between them, for both arms alike, and `prefill_seconds` is what that took.
    """

    def __init__(
        self,
        weights: Weights,
        ops: Ops,
        plan: Plan,
        policy: Policy,
        counters: DecodeCounters,
        *,
        page_size: int = 16,
        step: StepFunction = decode_step,
    ) -> None:
        self.weights, self.ops, self.plan, self.policy, self.counters = weights, ops, plan, policy, counters
        self.page_size, self.step_function = page_size, step
        self.width = -(-plan.context // page_size)
        self.batches: dict[int, Batch] = {}
        self.lost: set[int] = set()  # sizes whose graph the allocator took
        self.largest = max((plan.largest, *policy.buckets))
        self.shared: Workspace | None = None
        self.moved = self.growths = self.prefilled = 0
        self.prefill_seconds = 0.0
        self.state = self._state(0)
        self.cache = self._cache(self._first_pages())
        self._staging()
        self.reset()
        if policy.buckets:
            self._warm_up()
        elif self.on_cuda:
            # Compiling kernels is no part of capturing: it happens once, before the first step.
            batch = self._batch(self.largest, None)
            run_aside(lambda: self._compute(batch))

    @property
    def on_cuda(self) -> bool:
        """Whether steps are graphs on a CUDA device."""
        return bool(self.weights.device.type == "cuda")

    def _first_pages(self) -> int:
        if self.policy.pages:
            return self.policy.pages
        first = self.plan.steps[0]
        return sum(len(self.plan.prompts[request]) // self.page_size + 1 for request in first.admitted)

    def _cache(self, pages: int) -> Cache:
        weights = self.weights
        return make_cache(weights.config, pages, self.page_size, device=weights.device, dtype=weights.dtype)

    def _state(self, scratch: int) -> State:
        return make_state(self.plan.largest, self.width, scratch, self.weights.device)

    def _staging(self) -> None:
        """Host buffers, two of each in turn: the device may still read the ones of the step before."""
        pin, slots = torch.cuda.is_available(), self.plan.largest
        self.table = torch.empty(slots + 1, self.width, dtype=torch.int32)
        self.tables = [torch.empty_like(self.table, pin_memory=pin) for _ in range(2)]
        self.rows = [torch.empty(self.largest, dtype=torch.int64, pin_memory=pin) for _ in range(2)]
        self.out = [torch.empty(self.largest, dtype=torch.int64, pin_memory=pin) for _ in range(2)]
        self.done = [cuda.Event() for _ in range(2)] if self.on_cuda else []

    def reset(self) -> None:
        """Forget all requests, and unless the policy keeps them, graphs made on the way."""
        if not self.policy.buckets and not self.policy.keep:
            self.batches.clear()
            self.lost.clear()
            if self.cache.pages != self._first_pages():
                self.cache = self._cache(self._first_pages())
        self.pool = PagePool(self.cache.pages)
        self.compaction = Compaction(self.policy.fragmentation, self.policy.age)
        self.live: dict[int, Request] = {}
        self.slots = list(range(self.plan.largest - 1, -1, -1))
        self.tokens: list[list[int]] = [[] for _ in self.plan.prompts]
        self.table.fill_(self.cache.pages)
        self.state.table.copy_(self.table)
        self.state.tokens.zero_()
        self.state.positions.zero_()
        self.table_changed = False

    def tensors(self) -> Iterator[Tensor]:
        """All that the loop holds on its device."""
        yield from self.weights.tensors()
        yield from (self.cache.k, self.cache.v, *self.state.tensors())
        for batch in list(self.batches.values()):
            yield from (batch.rows, batch.chosen, *batch.work.tensors())

    # Graphs

    def _warm_up(self) -> None:
        """Make the batches of all buckets, largest first: the smaller graphs fit into what it allocated."""
        self.shared = self.ops.workspace(self.largest, self.width * self.page_size)
        pool = cuda.graph_pool_handle() if self.on_cuda else None
        for size in sorted(self.policy.buckets, reverse=True):
            self.batches[size] = self._make(size, self.shared.rows(size), pool, None)

    def _batch(self, size: int, work: Workspace | None) -> Batch:
        """The buffers of a batch size, all rows on the scratch slot; a new workspace without `work`."""
        device = self.weights.device
        return Batch(
            rows=torch.full((size,), self.state.slots, dtype=torch.int64, device=device),
            chosen=torch.empty(size, dtype=torch.int64, device=device),
            work=work or self.ops.workspace(size, self.width * self.page_size),
        )

    def _make(self, size: int, work: Workspace | None, pool: Any, reason: RecaptureReason | None) -> Batch:
        """The buffers of a batch size and, on CUDA, its graph, captured with all rows on the scratch slot."""
        started = time.perf_counter()
        batch = self._batch(size, work)
        if self.on_cuda:
            batch.graph = capture(lambda: self._compute(batch), pool)
            cuda.synchronize()
            self.counters.captured(time.perf_counter() - started, reason)
        return batch

    def _compute(self, batch: Batch) -> None:
        self.step_function(
            self.weights, self.cache, self.state, batch.rows, self.ops, batch.work, batch.chosen
        )

    def batch_for(self, size: int) -> Batch:
        """The buffers of a batch size; one not seen before is made, and on CUDA captured."""
        if size not in self.batches:
            reason: RecaptureReason = "allocator" if size in self.lost else "new_shape"
            self.lost.discard(size)
            self.batches[size] = self._make(size, None, None, reason)
        return self.batches[size]

    # Pages

    def _page(self) -> int:
        if not self.pool.free:
            self._grow()
        page: int = self.pool.take()
        return page

    def _grow(self) -> None:
        """Double the KV pool: a new allocation, so that every graph that knew the old one is lost."""
        old, before = self.cache, self.cache.pages
        self.cache = self._cache(max(1, 2 * before))
        self.cache.k[:, :before].copy_(old.k[:, :before])
        self.cache.v[:, :before].copy_(old.v[:, :before])
        self.pool.grow(self.cache.pages)
        self.table[self.table == before] = self.cache.pages  # scratch is the last page
        self.state.table.copy_(self.table)  # at once: a capture's run aside writes to the scratch page
        self.growths += 1
        if self.on_cuda:
            cuda.synchronize()  # the step in flight still reads the old pages
            self.lost.update(self.batches)
            self.batches.clear()
            if self.policy.buckets:
                self._warm_up()

    def _own(self, request: Request, tokens: int) -> None:
        """Give a request the pages for its first `tokens` tokens."""
        while len(request.pages) * self.page_size < tokens:
            page = self._page()
            self.table[request.slot, len(request.pages)] = page
            request.pages.append(page)
            self.table_changed = True

    def _compact(self) -> None:
        """Move the used pages together, on the device and in every table."""
        moves = self.pool.compact()
        self.cache.move(list(moves), list(moves.values()))
        for request in self.live.values():
            request.pages = [moves.get(page, page) for page in request.pages]
            self.table[request.slot, : len(request.pages)] = torch.tensor(request.pages, dtype=torch.int32)
        self.table_changed = True
        self.moved += len(moves)
        self.counters.compactions += 1

    # Steps

    def run(self) -> None:
        """Decode the whole plan; at the end all tokens are on the host."""
        self.before = time.perf_counter()
        ahead: tuple[int, Step, int] | None = None
        for index, step in enumerate(self.plan.steps):
            launched: tuple[int, Step, int] | None = (index, step, self._launch(index, step))
            if self.on_cuda:
                launched, ahead = ahead, launched
            if launched is not None:
                self._collect(*launched)
        if ahead is not None:
            self._collect(*ahead)

    def _launch(self, index: int, step: Step) -> int:
        """Do all that a step needs, and launch it; returns the batch size that it was padded to."""
        for number in step.finished:
            request = self.live.pop(number)
            self.pool.give(request.pages)
            self.slots.append(request.slot)
            self.table[request.slot] = self.cache.pages
            self.table_changed = True
        if self.compaction.due(self.pool, index):
            self._compact()
        for number in step.admitted:
            self.live[number] = Request(self.slots.pop(), len(self.plan.prompts[number]))
        for number in step.rows:
            request = self.live[number]
            self._own(request, request.tokens + 1)
            request.tokens += 1
        size: int = self.policy.padded(len(step.rows))
        batch = self.batch_for(size)
        self._upload(index, step, batch)
        if step.admitted:
            self._prefill(step.admitted)
        if batch.graph is None:
            self._compute(batch)
        else:
            batch.graph.replay()
            self.counters.replayed(size)
        self.out[index % 2][: len(step.rows)].copy_(batch.chosen[: len(step.rows)], non_blocking=True)
        if self.on_cuda:
            self.done[index % 2].record()
        return size

    def _upload(self, index: int, step: Step, batch: Batch) -> None:
        """Bring slots and, where they changed, pages to the device. Padded rows name the scratch slot."""
        rows = self.rows[index % 2][: len(batch.rows)]
        rows.fill_(self.state.slots)
        rows[: len(step.rows)] = torch.tensor([self.live[number].slot for number in step.rows])
        batch.rows.copy_(rows, non_blocking=True)
        if self.table_changed:
            self.tables[index % 2].copy_(self.table)
            self.state.table.copy_(self.tables[index % 2], non_blocking=True)
            self.table_changed = False

    def _prefill(self, admitted: tuple[int, ...]) -> None:
        """Prefill new requests as one batch; the likeliest tokens become their first."""
        device = self.weights.device
        prompts = [self.plan.prompts[number] for number in admitted]
        longest = max(map(len, prompts))
        tokens = torch.tensor(
            [(*prompt, *[0] * (longest - len(prompt))) for prompt in prompts], device=device
        )
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        slots = torch.tensor([self.live[number].slot for number in admitted], device=device)
        started = self._mark()
        first = prefill(self.weights, self.cache, self.state, slots, tokens, lengths).argmax(-1)
        self.state.tokens[slots] = first
        ended = self._mark()
        self.prefilled += sum(map(len, prompts))
        for number, token in zip(admitted, first.tolist(), strict=True):  # waits for the device
            self.tokens[number].append(token)
        self.prefill_seconds += started.elapsed_time(ended) / 1000 if self.on_cuda else ended - started

    def _mark(self) -> Any:
        """This moment: on CUDA the stream's, so that the step still in flight before it does not count."""
        if not self.on_cuda:
            return time.perf_counter()
        event = cuda.Event(enable_timing=True)
        event.record()
        return event

    def _collect(self, index: int, step: Step, size: int) -> None:
        """Take the tokens of a launched step, once the device has them, and count the step."""
        if self.on_cuda:
            self.done[index % 2].synchronize()
        for number, token in zip(step.rows, self.out[index % 2][: len(step.rows)].tolist(), strict=True):
            self.tokens[number].append(token)
        now = time.perf_counter()
        self.counters.step(len(step.rows), size, now - self.before)
        self.before = now
