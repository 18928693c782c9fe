"""What a workload counts while it runs: plain slots in the loop, no locks, nothing of prometheus_client.

A decode step of a small model takes 50 us, so that all its telemetry together may cost 500 ns. Numbers are
written by the one thread that decodes and read by the thread that answers a scrape (see `export`); a scrape
may therefore see a step's tokens without its seconds, never a torn number.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from monitorgen.telemetry import (
    FIRST_TOKEN_EDGES,
    INTER_TOKEN_EDGES,
    KERNEL_EDGES,
    PARITY_RESULTS,
    RECAPTURE_REASONS,
    SLO_RESULTS,
    STEP_EDGES,
)

GraphMode = Literal["eager", "full", "piecewise"]
RecaptureReason = Literal["allocator", "new_shape", "weights_changed"]
ExpectedSource = Literal["expectations", "startup"]


def nothing_held() -> int:
    """The memory of a workload that holds none: 0 bytes."""
    return 0


@dataclass(slots=True)
class DecodeCounters:
    """The counters of one decode loop since its start.

    `graphs` says that steps run from CUDA graphs: only then are the families that need a CUDA device
    exported. `allocator_bytes` and `pool_bytes` are asked at scrape time, never in the loop.
    """

    model_name: str
    mode: GraphMode = "eager"
    graphs: bool = False
    allocator_bytes: Callable[[], int] = nothing_held
    pool_bytes: Callable[[], int] = nothing_held
    tokens: int = 0
    padding_tokens: int = 0
    batch_size: int = 0
    compactions: int = 0
    captures: int = 0
    capture_seconds: float = 0.0
    step_seconds: float = 0.0
    step_counts: list[int] = field(default_factory=lambda: [0] * (len(STEP_EDGES) + 1))
    recaptures: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RECAPTURE_REASONS, 0))
    replays: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))

    def step(self, rows: int, bucket: int, seconds: float, tokens: int | None = None) -> None:
        """Count a decode step: `rows` requests computed as a batch of `bucket` rows in `seconds`.

        `tokens` is how many they got together, where that is not one each.
        """
        self.tokens += rows if tokens is None else tokens
        self.padding_tokens += bucket - rows
        self.batch_size = rows
        self.step_seconds += seconds
        self.step_counts[bisect_left(STEP_EDGES, seconds)] += 1

    def replayed(self, bucket: int) -> None:
        """Count the replay of a graph that was captured for `bucket` rows."""
        self.replays[bucket] += 1

    def captured(self, seconds: float, reason: RecaptureReason | None = None) -> None:
        """Count a graph captured in `seconds`; `reason` says why it was not one of the planned ones."""
        self.captures += 1
        self.capture_seconds += seconds
        if reason is not None:
            self.recaptures[reason] += 1

    @property
    def steps(self) -> int:
        """Decode steps counted."""
        return sum(self.step_counts)

    def summary(self) -> dict[str, float]:
        """The counters by name with their unit, as `Run.metrics` returns them."""
        counted: dict[str, float] = {
            "steps": self.steps,
            "tokens": self.tokens,
            "padding_tokens": self.padding_tokens,
            "kv_compactions": self.compactions,
            "allocator_bytes": self.allocator_bytes(),
        }
        if self.graphs:
            counted |= {
                "captures": self.captures,
                "capture_seconds": self.capture_seconds,
                "recaptures": sum(self.recaptures.values()),
                "replays": sum(self.replays.values()),
                "pool_bytes": self.pool_bytes(),
            }
        return counted


@dataclass(frozen=True, slots=True)
class Expected:
    """Seconds that a call is expected to take, and whether a file of expectations or the start-up says so."""

    seconds: float
    source: ExpectedSource


@dataclass(slots=True)
class SpeculationCounters:
    """What a speculative loop drafted and what of it was accepted, as vLLM counts both.

    A draft is one row's of one step, if it has any token. Accepted tokens are counted before an end token or
    a limit cuts them. `longest` is the most tokens of a draft.
    """

    model_name: str
    longest: int
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    accepted_at: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.accepted_at = [0] * self.longest

    def draft(self, drafted: int, accepted: int) -> None:
        """Count a draft of `drafted` tokens, the first `accepted` of which the target took."""
        self.drafts += 1
        self.draft_tokens += drafted
        self.accepted_tokens += accepted
        for position in range(accepted):
            self.accepted_at[position] += 1

    def summary(self) -> dict[str, float]:
        """The counters by name, and the shares that follow from them."""
        return {
            "drafts": self.drafts,
            "draft_tokens": self.draft_tokens,
            "accepted_tokens": self.accepted_tokens,
            "acceptance_rate": self.accepted_tokens / self.draft_tokens if self.draft_tokens else 0.0,
            "mean_accepted_length": 1 + self.accepted_tokens / self.drafts if self.drafts else 1.0,
        }


@dataclass(slots=True)
class KernelCounters:
    """The counters of one kernel at one shape.

    `bytes_per_call` and `flops_per_call` are what the algorithm has to move and to do; `best_seconds` is the
    time of a call at the measured ceiling (memory or compute, whichever binds), None where none was measured.
    `error` is |out - reference| / |reference| of the last output that was checked, `error_limit` what the
    precision accounts for, `expected` what a call should take; what is None is not exported.
    """

    kernel: str
    bytes_per_call: float = 0.0
    flops_per_call: float = 0.0
    best_seconds: float | None = None
    error: float | None = None
    error_limit: float | None = None
    expected: Expected | None = None
    seconds: float = 0.0
    last_seconds: float = 0.0
    counts: list[int] = field(default_factory=lambda: [0] * (len(KERNEL_EDGES) + 1))

    def call(self, seconds: float) -> None:
        """Count a call that took `seconds` on the device."""
        self.seconds += seconds
        self.last_seconds = seconds
        self.counts[bisect_left(KERNEL_EDGES, seconds)] += 1

    @property
    def calls(self) -> int:
        """Calls counted."""
        return sum(self.counts)

    @property
    def roofline(self) -> float | None:
        """Share of the ceiling that the last call reached; None before the first, or without a ceiling."""
        if self.best_seconds is None or not self.last_seconds:
            return None
        return self.best_seconds / self.last_seconds


@dataclass(slots=True)
class KVCacheCounters:
    """The counters of one paged KV cache since its start, and what it holds now.

    `queries` and `hits` count tokens of new sequences: all of them, and those whose K and V were found.
    `evictions` counts blocks that could be found and were given to others, `copies` those that were copied
    because two sequences shared them. `tokens` are those in blocks in use, shared ones once.
    """

    model_name: str
    blocks: int = 0
    block_size: int = 0
    queries: int = 0
    hits: int = 0
    evictions: int = 0
    copies: int = 0
    blocks_in_use: int = 0
    tokens: int = 0

    @property
    def fragmentation(self) -> float:
        """Share of the slots of blocks in use that hold no token; 0 while none is in use."""
        slots = self.blocks_in_use * self.block_size
        return 1 - self.tokens / slots if slots else 0.0

    def summary(self) -> dict[str, float]:
        """The counters by name with their unit, as `Run.metrics` returns them."""
        return {
            "prefix_queries_tokens": self.queries,
            "prefix_hits_tokens": self.hits,
            "evicted_blocks": self.evictions,
            "copied_blocks": self.copies,
            "blocks": self.blocks,
            "blocks_in_use": self.blocks_in_use,
            "fragmentation_ratio": self.fragmentation,
        }


@dataclass(slots=True)
class RunnerCounters:
    """What one backend's requests saw since its start."""

    model_name: str
    backend: str
    first_seconds: float = 0.0
    first_counts: list[int] = field(default_factory=lambda: [0] * (len(FIRST_TOKEN_EDGES) + 1))
    gap_seconds: float = 0.0
    gap_counts: list[int] = field(default_factory=lambda: [0] * (len(INTER_TOKEN_EDGES) + 1))
    tokens: int = 0
    requests: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SLO_RESULTS, 0))
    parity: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARITY_RESULTS, 0))

    def first_token(self, seconds: float) -> None:
        """Count a request's first token, `seconds` after it came."""
        self.tokens += 1
        self.first_seconds += seconds
        self.first_counts[bisect_left(FIRST_TOKEN_EDGES, seconds)] += 1

    def next_token(self, seconds: float) -> None:
        """Count a token that came `seconds` after the one before."""
        self.tokens += 1
        self.gap_seconds += seconds
        self.gap_counts[bisect_left(INTER_TOKEN_EDGES, seconds)] += 1

    def finished(self, met: bool) -> None:
        """Count a request that has all of its tokens, and whether it kept the SLO."""
        self.requests["met" if met else "missed"] += 1

    def compared(self, equal: int, near_ties: int, different: int) -> None:
        """Count tokens that were compared with the reference's."""
        for result, count in (("equal", equal), ("near_tie", near_ties), ("different", different)):
            self.parity[result] += count


def best_seconds(
    bytes_moved: float, flops: float, bytes_per_second: float, flops_per_second: float
) -> float | None:
    """The least time of a call under the roofline: the larger of its memory and its compute time.

    A ceiling of 0 was not measured and does not bind; None if that leaves none.
    """
    times = [
        work / ceiling
        for work, ceiling in ((bytes_moved, bytes_per_second), (flops, flops_per_second))
        if work > 0 and ceiling > 0
    ]
    return max(times, default=None)
