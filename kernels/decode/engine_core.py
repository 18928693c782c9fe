"""An engine core of ours with the interface of vLLM's V1 `EngineCore`, for when vLLM is not installed.

`step()` returns outputs by client and whether the model was executed. False does not mean that the work is
done. Read from vLLM 0.32's `EngineCore.step`, `step_with_batch_queue` and `Scheduler.schedule`, nothing is
executed although work remains when

* async scheduling is on (its default) and every seat is held by a request whose last token is in flight:
  the requests in the queue find no seat in that step, and get one in the next;
* everything that waits, waits for a grammar to be compiled or for KV from another machine;
* the scheduler is paused with requests kept (weights are being exchanged);
* requests have finished and the workers have yet to be told, so that they drop their state.

All four arise here by the same rules, none is put in. The scheduler frees the KV blocks of a finished request
by itself; `finished_requests` in the outputs says so to the client, and the next batch says so to the
executor.
"""

from __future__ import annotations

from collections import deque

from monitorgen.kernels.decode.engine_types import (
    IN_FLIGHT,
    Batch,
    Clock,
    EngineConfig,
    EngineRequest,
    Executor,
    StepOutputs,
)
from monitorgen.kernels.decode.scheduler import Scheduler

# vLLM's `max_concurrent_batches` for one device: with async scheduling one batch runs while the next is made.
ASYNC_DEPTH = 2


class EngineCore:
    """Schedules requests onto an executor, one step a call. Not thread-safe, as vLLM's is not."""

    def __init__(self, config: EngineConfig, executor: Executor) -> None:
        self.config = config
        self.scheduler = Scheduler(config)
        self.executor = executor
        self.last_batch: Batch | None = None
        self._queue: deque[tuple[Batch, dict[str, int]]] = deque()

    def add_request(self, request: EngineRequest) -> None:
        """Queue a request. Raises UsageError if it can never run here."""
        self.scheduler.add(request)

    def abort_requests(self, request_ids: list[str]) -> None:
        """Drop requests; their blocks are free at once."""
        self.scheduler.abort(request_ids)

    def step(self) -> tuple[dict[int, StepOutputs], bool]:
        """Schedule and execute one batch; with async scheduling hand out the batch before it.

        Returns outputs by client index, and whether this call executed the model.
        """
        self.last_batch = None
        if not self.config.async_scheduling:
            if not self.scheduler.has_requests():
                return {}, False
            batch, sampled = self._launch()
            return self.scheduler.update(batch, sampled), batch.num_tokens > 0
        executed = False
        if self.scheduler.has_requests():
            launched = self._launch()
            executed = launched[0].num_tokens > 0
            self._queue.append(launched)
            if len(self._queue) < ASYNC_DEPTH and (executed or self.scheduler.has_requests()):
                return {}, executed  # filling the queue comes before waiting for results
        elif not self._queue:
            return {}, False
        return self.scheduler.update(*self._queue.popleft()), executed

    def _launch(self) -> tuple[Batch, dict[str, int]]:
        self.last_batch = batch = self.scheduler.schedule()
        return batch, dict(self.executor.execute(batch))

    def has_requests(self) -> bool:
        """Whether another step could do anything: requests, finished ones to report, batches under way."""
        return self.scheduler.has_requests() or bool(self._queue)

    def unfinished(self) -> int:
        """Requests that have not finished, whatever they wait for."""
        return len(self.scheduler.requests)

    def blocks_in_use(self) -> int:
        """KV blocks that are in requests' tables."""
        return int(self.scheduler.pool.total - self.scheduler.pool.num_free)

    def pause(self) -> None:
        """Schedule nothing until `resume`; requests keep their blocks."""
        self.scheduler.paused = True

    def resume(self) -> None:
        """Schedule again."""
        self.scheduler.paused = False


class ArithmeticExecutor:
    """A stand-in for a model whose next token depends on the last token and its position alone.

    Scheduling is what is under test, so a step costs `step_seconds` of the clock and no arithmetic to speak
    of. It keeps a state per request as a worker does, and drops it when a batch says that the request has
    gone: `held` counts what a loop that stops early leaves behind.
    """

    def __init__(self, clock: Clock, step_seconds: float = 0.02, vocabulary: int = 32000) -> None:
        self._clock = clock
        self._step_seconds = step_seconds
        self._vocabulary = vocabulary
        self._last: dict[str, int] = {}

    @property
    def held(self) -> int:
        """Requests whose state is kept."""
        return len(self._last)

    def next_token(self, token: int, position: int) -> int:
        """The token that follows: a linear congruence, so that one wrong token changes all after it."""
        return (token * 2654435761 + position * 40503 + 12345) % 2**32 % self._vocabulary

    def execute(self, batch: Batch) -> dict[str, int]:
        """Sample for every share that asks for it."""
        for gone in batch.finished:
            self._last.pop(gone, None)
        sampled: dict[str, int] = {}
        for share in batch.scheduled:
            last = share.tokens[-1]
            if last == IN_FLIGHT:
                last = self._last[share.request_id]
            if share.samples:
                position = share.start + len(share.tokens) - 1
                self._last[share.request_id] = sampled[share.request_id] = self.next_token(last, position)
        if batch.scheduled:
            self._clock.sleep(self._step_seconds)
        return sampled
