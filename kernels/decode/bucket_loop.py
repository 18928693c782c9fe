"""The decode loop of the bucketing workload, over graphs that are captured or over a price list.

One loop serves both, so the simulator follows the same policy as the device: which graph a step takes, when
one is captured, which one makes room. Only the `Machine` differs: `GraphMachine` runs programs, and
`PriceMachine` adds up what a calibration says that they cost.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from monitorgen.kernels.counters import DecodeCounters
from monitorgen.kernels.decode.buckets import Costs, bucket_of
from monitorgen.kernels.decode.step_graphs import Programs, device_bytes

KEPT_COLUMNS = 4
"""Elements of each output row that are kept for comparing arms."""


class Machine(Protocol):
    """Something that captures and replays graphs by batch size, and says what each took in seconds."""

    def capture(self, size: int) -> float:
        """Capture a graph for `size` rows."""

    def evict(self, size: int) -> None:
        """Drop that graph."""

    def replay(self, size: int, rows: int, index: int) -> float:
        """Run step `index` with `rows` rows on the graph of `size` rows."""

    def eager(self, rows: int, index: int) -> float:
        """Run step `index` without a graph."""

    def held_bytes(self) -> float:
        """Memory that the graphs hold now."""


@dataclass(slots=True)
class Tally:
    """What a loop did. Seconds are the device's, or the calibration's; `stall` is the longest single step."""

    steps: int = 0
    rows: int = 0
    padding_rows: int = 0
    captures: int = 0
    recaptures: int = 0
    evictions: int = 0
    eager_steps: int = 0
    step_seconds: float = 0.0
    capture_seconds: float = 0.0
    longest_step_seconds: float = 0.0
    graph_bytes: float = 0.0
    replays: Counter[int] = field(default_factory=Counter)

    @property
    def padding_share(self) -> float:
        """Share of the computed rows that are padding."""
        return self.padding_rows / (self.rows + self.padding_rows) if self.rows else 0.0

    def summary(self) -> dict[str, float]:
        """The numbers by name with their unit."""
        return {
            "steps": self.steps,
            "tokens": self.rows,
            "padding_tokens": self.padding_rows,
            "padding_share": self.padding_share,
            "captures": self.captures,
            "recaptures": self.recaptures,
            "evictions": self.evictions,
            "replays": sum(self.replays.values()),
            "eager_steps": self.eager_steps,
            "step_seconds": self.step_seconds,
            "capture_seconds": self.capture_seconds,
            "longest_step_seconds": self.longest_step_seconds,
            "graph_bytes": self.graph_bytes,
        }


class Loop:
    """Runs a trace on a machine.

    With `buckets` every graph is captured by `warm_up` and a step takes the smallest that holds it, or none.
    Without, a graph is captured when a batch size is first seen, in the middle of decoding; `keep` bounds how
    many there are, and the one unused for longest makes room.
    """

    def __init__(
        self,
        machine: Machine,
        buckets: Sequence[int] | None,
        keep: int | None = None,
        counters: DecodeCounters | None = None,
    ) -> None:
        self._machine, self._buckets, self._keep, self._counters = machine, buckets, keep, counters
        self._ready: OrderedDict[int, None] = OrderedDict()
        self.tally = Tally()

    def warm_up(self) -> None:
        """Capture the planned graphs, largest first, so that the smaller ones fit the larger ones' memory."""
        for size in sorted(self._buckets or (), reverse=True):
            self._capture(size, planned=True)

    def run(self, trace: Sequence[int]) -> None:
        """Decode a trace: one step for each batch size."""
        for index, rows in enumerate(trace):
            self._step(index, rows)
        self.tally.graph_bytes = max(self.tally.graph_bytes, self._machine.held_bytes())

    def forget(self) -> None:
        """Drop every graph, as a new process would start."""
        while self._ready:
            self._machine.evict(self._ready.popitem()[0])

    def _step(self, index: int, rows: int) -> None:
        stall = 0.0
        size: int | None = rows
        if self._buckets is not None:
            size = bucket_of(rows, self._buckets)
        elif rows not in self._ready:
            stall = self._capture(rows, planned=False)
        if size is None:
            seconds = self._machine.eager(rows, index)
            self.tally.eager_steps += 1
        else:
            self._ready.move_to_end(size)
            seconds = self._machine.replay(size, rows, index)
            self.tally.replays[size] += 1
        self._count(rows, size or rows, seconds, stall, replayed=size is not None)

    def _capture(self, size: int, planned: bool) -> float:
        if self._keep is not None and len(self._ready) >= self._keep:
            self._machine.evict(self._ready.popitem(last=False)[0])
            self.tally.evictions += 1
        seconds = self._machine.capture(size)
        self._ready[size] = None
        self.tally.captures += 1
        self.tally.recaptures += not planned
        self.tally.capture_seconds += seconds
        if self._counters:
            self._counters.captured(seconds, None if planned else "new_shape")
        return seconds

    def _count(self, rows: int, computed: int, seconds: float, stall: float, replayed: bool) -> None:
        self.tally.steps += 1
        self.tally.rows += rows
        self.tally.padding_rows += computed - rows
        self.tally.step_seconds += seconds
        self.tally.longest_step_seconds = max(self.tally.longest_step_seconds, seconds + stall)
        if self._counters:
            self._counters.step(rows, computed, seconds + stall)
            if replayed:
                self._counters.replayed(computed)


class PriceMachine:
    """Captures and replays nothing: each costs what the calibration says."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        self._held: dict[int, float] = {}

    def capture(self, size: int) -> float:
        """Seconds of a capture."""
        self._held[size] = self._costs.graph_bytes(size)
        return float(self._costs.capture(size))

    def evict(self, size: int) -> None:
        """Give back what that graph held."""
        del self._held[size]

    def replay(self, size: int, rows: int, index: int) -> float:
        """Seconds of a replay: the graph's size decides, not the rows."""
        return float(self._costs.replay(size))

    def eager(self, rows: int, index: int) -> float:
        """Seconds of a step without a graph. The caller has seen to it that the calibration knows them."""
        assert self._costs.eager is not None
        return float(self._costs.eager(rows))

    def held_bytes(self) -> float:
        """Sum over the graphs that are held."""
        return sum(self._held.values())


class GraphMachine:
    """Runs the step's programs on real rows. `wait` times each step; without it steps are only launched.

    `seen` keeps the first elements of every output row by step, [steps, rows, KEPT_COLUMNS], so that two
    arms can be compared step by step.
    """

    def __init__(self, programs: Programs, trace: Sequence[int], seed: int, wait: bool) -> None:
        step = programs.step
        generator = torch.Generator().manual_seed(seed)
        widest = max(trace)
        rows = torch.randn(widest, step.shape.hidden, generator=generator)
        self._rows = rows.to(step.device, step.dtype)  # [widest, hidden]
        kept = min(KEPT_COLUMNS, step.shape.hidden)
        self.seen = torch.zeros(len(trace), widest, kept, device=step.device, dtype=step.dtype)
        self._programs, self._wait = programs, wait
        self._before = device_bytes(step.device)

    def capture(self, size: int) -> float:
        """Make the program; on CUDA that is a capture."""
        return float(self._programs.make(size).capture_seconds)

    def evict(self, size: int) -> None:
        """Drop the program."""
        del self._programs.made[size]

    def replay(self, size: int, rows: int, index: int) -> float:
        """Fill the first rows, blank the padding, run the program, keep a sample of its output."""
        begin = time.perf_counter()
        program = self._programs.made[size]
        with torch.inference_mode():
            program.inputs[:rows].copy_(self._rows[:rows])
            program.inputs[rows:].zero_()
            program.run()
            self._keep(program.outputs[:rows], rows, index)
        return self._elapsed(begin)

    def eager(self, rows: int, index: int) -> float:
        """Run the step as it is."""
        begin = time.perf_counter()
        with torch.inference_mode():
            self._keep(self._programs.step(self._rows[:rows]), rows, index)
        return self._elapsed(begin)

    def held_bytes(self) -> float:
        """Growth of the device's used memory since this machine was made; 0 on the CPU."""
        return float(max(0, device_bytes(self._programs.step.device) - self._before))

    def _keep(self, outputs: torch.Tensor, rows: int, index: int) -> None:
        self.seen[index, :rows].copy_(outputs[:, : self.seen.shape[2]])

    def _elapsed(self, begin: float) -> float:
        if not self._wait:
            return 0.0
        if self._programs.graphs:
            torch.cuda.synchronize()
        return time.perf_counter() - begin
