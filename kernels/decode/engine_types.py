"""What an engine of ours takes, hands out and runs on: plain data, named as in vLLM's V1 engine.

`StepOutputs` and `RequestOutput` carry the fields of vLLM's `EngineCoreOutputs` and `EngineCoreOutput` that a
polling loop reads, under the same names, so that one loop serves both engines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from monitorgen.kernels.workload import UsageError

IN_FLIGHT = -1
"""Stands for a token that the executor has sampled and the scheduler has not seen yet (async scheduling)."""


class Clock(Protocol):
    """Time as the engine and its loop see it."""

    def now(self) -> float:
        """Seconds since some fixed moment."""

    def sleep(self, seconds: float) -> None:
        """Let that much time pass."""


class RealClock:
    """The machine's own time."""

    def now(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Give up the processor for that long."""
        time.sleep(seconds)


class VirtualClock:
    """Time that passes only when somebody sleeps: a simulated run gives the same result on any machine."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        """Simulated seconds since the start."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Move on by that much, at once."""
        self._now += seconds


@dataclass(slots=True)
class Gate:
    """Something outside the engine that a request waits for before it can run.

    `remote_kv` holds blocks for the whole prompt while another machine's KV cache is copied into them;
    `grammar` holds none while a grammar for structured output is compiled. vLLM calls these states
    WAITING_FOR_REMOTE_KVS and WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR. It starts when the engine says so and
    takes `seconds` of the clock.
    """

    kind: Literal["remote_kv", "grammar"]
    seconds: float
    clock: Clock
    _due: float | None = None

    def start(self) -> None:
        """Begin the transfer or the compilation; a second call changes nothing."""
        if self._due is None:
            self._due = self.clock.now() + self.seconds

    def ready(self) -> bool:
        """True once it has started and its time has passed."""
        return self._due is not None and self.clock.now() >= self._due


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One request: token ids in, at most `max_tokens` out, sooner if one of `stop_token_ids` is sampled."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    max_tokens: int
    stop_token_ids: frozenset[int] = frozenset()
    client_index: int = 0
    gate: Gate | None = None


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """New tokens of one request in one step; it has finished when `finish_reason` is not None."""

    request_id: str
    new_token_ids: tuple[int, ...]
    finish_reason: Literal["stop", "length", "abort"] | None = None


@dataclass(slots=True)
class StepOutputs:
    """What one step has for one client, and which of its requests have finished (their KV is reclaimed)."""

    outputs: list[RequestOutput] = field(default_factory=list)
    finished_requests: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A request's share of a batch: `tokens` are computed at positions `start`, `start + 1`, ...

    A token is IN_FLIGHT where the executor itself holds the one that belongs there. `blocks` is the block
    table after this step. `samples` says that the next token is to be sampled after the last position.
    """

    request_id: str
    start: int
    tokens: tuple[int, ...]
    blocks: tuple[int, ...]
    samples: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's work, and the requests whose state the executor may drop since the last one."""

    scheduled: tuple[Scheduled, ...]
    finished: frozenset[str] = frozenset()
    preempted: frozenset[str] = frozenset()

    @property
    def num_tokens(self) -> int:
        """Tokens computed in this step; 0 in an idle step."""
        return sum(len(share.tokens) for share in self.scheduled)


class Executor(Protocol):
    """Runs batches on a model. An empty batch still tells it which requests have gone."""

    def execute(self, batch: Batch) -> Mapping[str, int]:
        """The token sampled for each share that samples, by request id."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Sizes of an engine, by vLLM's names. Block 0 is the null block, as in vLLM, and is never handed out.

    Raises UsageError for sizes with which a request could wait forever.
    """

    num_blocks: int = 129
    block_size: int = 16
    max_num_seqs: int = 8
    max_num_batched_tokens: int = 256
    max_model_len: int = 512
    async_scheduling: bool = True

    def __post_init__(self) -> None:
        small = [
            name
            for name in ("block_size", "max_num_seqs", "max_num_batched_tokens")
            if getattr(self, name) < 1
        ]
        if small:
            raise UsageError(f"{small[0]} is {getattr(self, small[0])}: it must be 1 or more")
        if self.max_model_len < 2:
            raise UsageError(
                f"max_model_len is {self.max_model_len}: a prompt and a token need 2 positions or more"
            )
        if self.num_blocks - 1 < self.blocks_of(self.max_model_len):
            raise UsageError(
                f"{self.num_blocks} KV blocks of {self.block_size} tokens do not hold one request of "
                f"max_model_len {self.max_model_len}: give {self.blocks_of(self.max_model_len) + 1} or more"
            )

    def blocks_of(self, tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-tokens // self.block_size)


class Engine(Protocol):
    """What a polling loop needs of an engine: ours, or vLLM's behind its adapter."""

    def add_request(self, request: EngineRequest) -> None:
        """Queue a request."""

    def step(self) -> tuple[dict[int, StepOutputs], bool]:
        """Schedule, execute, hand out: outputs by client, and whether the model was executed at all."""

    def has_requests(self) -> bool:
        """Whether a step could change anything: unfinished requests, or finished ones to be reported."""

    def unfinished(self) -> int:
        """Requests that have not finished, those behind a pause included."""

    def blocks_in_use(self) -> int:
        """KV blocks that belong to requests now."""

    def pause(self) -> None:
        """Schedule nothing until `resume`; requests keep their KV blocks (weights are being exchanged)."""

    def resume(self) -> None:
        """Go on where `pause` stopped."""


TokenSource = Callable[[str, int, int], int]
"""(request id, last token, its position) -> next token."""


def outputs_of(results: Mapping[int, StepOutputs]) -> Sequence[RequestOutput]:
    """All requests' outputs of one step, whichever client they are for."""
    return [output for per_client in results.values() for output in per_client.outputs]
