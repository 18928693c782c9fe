"""Our decoder driven by an engine: slots and page tables for its requests, one captured step a bucket.

A step of n requests runs the program of the smallest bucket that holds n. The rows beyond n name the scratch
slot, whose keys and values go to a scratch page: that is the mask, nothing else has to know of padding. All
programs share one workspace, state and cache, allocated once.

On CUDA a program is a CUDA graph. On the CPU it is the step traced for one batch size into a graph of ATen
operations (`make_fx`): the model's Python runs while it is captured and never again, which is what a CUDA
graph saves too, but operations are still launched one by one. So a capture is counted and timed on both, and
the mode that is exported is `full` only where a CUDA graph runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from monitorgen.kernels.counters import DecodeCounters
from monitorgen.kernels.decode.buckets import bucket_of
from monitorgen.kernels.decode.model import Ops, decode_step, prefill
from monitorgen.kernels.decode.state import Cache, State, Workspace, make_cache, make_state
from monitorgen.kernels.decode.step_graphs import load_tracer
from monitorgen.kernels.decode.weights import Weights

WARMUPS = 2


@dataclass(frozen=True, slots=True)
class Captured:
    """A step for exactly `rows.numel()` rows: set `rows`, call `run`, read `chosen`."""

    rows: torch.Tensor  # [bucket] int64: slots
    chosen: torch.Tensor  # [bucket] int64: the tokens that were decoded
    run: Callable[[], object]


class BucketDecoder:
    """A decoder with slots for `slots` requests over `pages` pages of `page_size` tokens.

    `buckets` are captured by `warm_up`, largest first, and must hold `slots`. With `buckets` None every batch
    size is captured when it is first seen, and counted as a recapture.
    """

    def __init__(
        self,
        weights: Weights,
        ops: Ops,
        counters: DecodeCounters,
        *,
        slots: int,
        pages: int,
        page_size: int,
        width: int,
        buckets: Sequence[int] | None,
    ) -> None:
        device, dtype = weights.device, weights.dtype
        self.weights, self.counters = weights, counters
        self.buckets = None if buckets is None else tuple(sorted(buckets))
        self.cache = make_cache(weights.config, pages, page_size, device=device, dtype=dtype)
        self.state = make_state(slots, width, pages, device)
        self.ops = ops
        widest = max(self.buckets or (slots,))
        self.work = self.ops.workspace(widest, width * page_size)
        self.graphs = device.type == "cuda"
        self._programs: dict[int, Captured] = {}
        self._pool: Any = None
        self._pool_bytes = 0
        self._slots: dict[str, int] = {}
        self._free = list(range(slots))
        if not self.graphs:
            load_tracer()
        counters.graphs = self.graphs
        counters.mode = "full" if self.graphs else "eager"
        counters.allocator_bytes = self.allocator_bytes
        counters.pool_bytes = lambda: self._pool_bytes

    def allocator_bytes(self) -> int:
        """Device memory that the allocator holds; on the CPU the bytes of every tensor of this decoder."""
        if self.graphs:
            return int(torch.cuda.memory_reserved())
        tensors = {t.data_ptr(): t.nbytes for t in self.weights.tensors()}
        held = [self.cache.k, self.cache.v, *self.state.tensors(), *self.work.tensors()]
        for program in list(self._programs.values()):
            held += [program.rows, program.chosen]
        return int(sum(tensors.values()) + sum(tensor.nbytes for tensor in held))

    def warm_up(self) -> None:
        """Capture every bucket, largest first."""
        for size in sorted(self.buckets or (), reverse=True):
            self._capture(size, planned=True)

    @property
    def requests(self) -> int:
        """Requests that have a slot."""
        return len(self._slots)

    def admit(self, request_id: str) -> None:
        """Give a request a slot; there is one, as the engine runs no more than it was made for."""
        self._slots[request_id] = self._free.pop()

    def holds(self, request_id: str) -> bool:
        """Whether the request has a slot, and with it its keys and values."""
        return request_id in self._slots

    def release(self, request_id: str) -> None:
        """Take a request's slot back; one that has none is passed over."""
        slot = self._slots.pop(request_id, None)
        if slot is not None:
            self._free.append(slot)

    def set_pages(self, request_id: str, pages: Sequence[int]) -> None:
        """Write a request's page table: as many pages as its tokens need, the others scratch."""
        row = [*pages, *[self.cache.pages] * (self.state.table.shape[1] - len(pages))]
        self.state.table[self._slots[request_id]] = torch.tensor(row, dtype=torch.int32)

    def prefill(self, request_id: str, tokens: Sequence[int]) -> int:
        """Compute a whole prompt and return the greedy token after it, which the next step will read."""
        device = self.weights.device
        slot = torch.tensor([self._slots[request_id]], device=device)
        length = torch.tensor([len(tokens)], device=device)
        with torch.inference_mode():
            logits = prefill(
                self.weights,
                self.cache,
                self.state,
                slot,
                torch.tensor([list(tokens)], device=device),
                length,
            )
            self.state.tokens[slot] = chosen = logits.argmax(-1)
        return int(chosen)

    def force(self, request_ids: Sequence[str], tokens: Sequence[int]) -> None:
        """Make the next step read these tokens, whatever was decoded before."""
        rows = self._rows(request_ids)
        self.state.tokens[rows] = torch.tensor(list(tokens), device=rows.device)

    def decode(self, request_ids: Sequence[str]) -> list[int]:
        """One token for each request, greedily: n rows on the smallest captured bucket that holds them."""
        begin = time.perf_counter()
        count = len(request_ids)
        size = count if self.buckets is None else bucket_of(count, self.buckets)
        assert size is not None, "the engine runs no more requests than there are slots"
        if size not in self._programs:
            self._capture(size, planned=False)
        program = self._programs[size]
        program.rows.fill_(self.state.slots)
        program.rows[:count] = self._rows(request_ids)
        with torch.inference_mode():
            program.run()
        tokens: list[int] = program.chosen[:count].tolist()  # waits for the device
        self.counters.step(count, size, time.perf_counter() - begin)
        self.counters.replayed(size)
        return tokens

    def _rows(self, request_ids: Sequence[str]) -> torch.Tensor:
        return torch.tensor([self._slots[name] for name in request_ids], device=self.weights.device)

    def _capture(self, size: int, planned: bool) -> None:
        begin = time.perf_counter()
        device = self.weights.device
        # Captured on scratch rows only, so that running it for real changes no request.
        rows = torch.full((size,), self.state.slots, dtype=torch.int64, device=device)
        chosen = torch.zeros(size, dtype=torch.int64, device=device)
        work = self.work.rows(size)
        run = self._cuda_graph(rows, chosen, work) if self.graphs else self._traced(rows, chosen, work)
        self._programs[size] = Captured(rows, chosen, run)
        self.counters.captured(time.perf_counter() - begin, None if planned else "new_shape")

    def _cuda_graph(self, rows: torch.Tensor, chosen: torch.Tensor, work: Workspace) -> Callable[[], object]:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()

        def step() -> None:
            decode_step(self.weights, self.cache, self.state, rows, self.ops, work, chosen)

        side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), torch.inference_mode():
            for _ in range(WARMUPS):
                step()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        before = torch.cuda.memory_reserved()
        graph = torch.cuda.CUDAGraph()
        # thread_local: a scrape may ask the driver something while this thread captures.
        options = {"pool": self._pool, "capture_error_mode": "thread_local"}
        with torch.inference_mode(), torch.cuda.graph(graph, **options):
            step()
        torch.cuda.synchronize()
        self._pool_bytes += max(0, torch.cuda.memory_reserved() - before)
        return graph.replay

    def _traced(self, rows: torch.Tensor, chosen: torch.Tensor, work: Workspace) -> Callable[[], object]:
        """The step as a graph of ATen operations for these shapes; tensors are inputs, weights constants."""
        from torch.fx.experimental.proxy_tensor import make_fx

        weights, ops, names = self.weights, self.ops, [entry.name for entry in fields(Workspace)]

        def step(*tensors: torch.Tensor) -> torch.Tensor:
            k, v, tokens, positions, table, batch, out, *room = tensors
            decode_step(
                weights,
                Cache(k, v),
                State(tokens, positions, table),
                batch,
                ops,
                Workspace(**dict(zip(names, room, strict=True))),
                out,
            )
            return out

        inputs = (self.cache.k, self.cache.v, *self.state.tensors(), rows, chosen, *work.tensors())
        with torch.inference_mode():
            program = make_fx(step)(*inputs)
        return lambda: program(*inputs)


def bucket_sizes(slots: int, sizes: Iterable[int]) -> tuple[int, ...]:
    """Of these sizes the ones that a decoder of `slots` can use, and the first that holds them all."""
    chosen = sorted(sizes)
    used = [size for size in chosen if size < slots]
    return (*used, next((size for size in chosen if size >= slots), slots))
