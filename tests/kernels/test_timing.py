"""Timing on CUDA, on a device of paper that writes down what it is told; and the roofline's arithmetic."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from monitorgen.kernels.timing import FLUSH_BYTES, QUEUED, measure, roofline
from monitorgen.kernels.workload import Outcome


class Paper:
    """A CUDA device with a clock of its own: overwriting L2 takes 7 ms, the n-th step n ms."""

    def __init__(self) -> None:
        self.now, self.steps, self.said, self.waits = 0.0, 0, [], 0
        paper = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing
                self.at: float | None = None

            def record(self) -> None:
                paper.said.append("event")
                self.at = paper.now

            def elapsed_time(self, end: Any) -> float:
                assert paper.said[-1] == "wait", "read before the device was done"
                return end.at - self.at

        self.cuda = SimpleNamespace(
            Event=Event,
            synchronize=self.wait,
            reset_peak_memory_stats=lambda: paper.said.append("reset"),
            max_memory_allocated=lambda: FLUSH_BYTES + 1000,
        )
        self.int8 = "int8"

    def wait(self) -> None:
        self.said.append("wait")
        self.waits += 1

    def empty(self, size: int, dtype: str, device: str) -> Any:
        assert (size, device) == (FLUSH_BYTES, "cuda")
        return SimpleNamespace(zero_=self.flush)

    def flush(self) -> None:
        self.said.append("flush")
        self.now += 7

    def step(self) -> None:
        self.said.append("step")
        self.steps += 1
        self.now += self.steps


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> Paper:
    device = Paper()
    monkeypatch.setitem(sys.modules, "torch", device)
    return device


def run_on(paper: Paper) -> Any:
    return SimpleNamespace(device="cuda", step=paper.step, outcome=Outcome)


def test_each_iteration_lies_between_events_after_l2_was_overwritten(paper):
    timed = measure(run_on(paper), iterations=3, warmup=2)
    assert timed.samples_ms == [3, 4, 5], "the step alone, neither the warm-up nor the overwriting"
    assert (timed.cold, timed.peak_bytes) == (True, 1000)
    once = ["flush", "event", "step", "event"]
    assert paper.said == ["step", "step", "wait", "reset", *once * 3, "wait"]


def test_the_queue_is_bounded(paper):
    timed = measure(run_on(paper), iterations=2 * QUEUED + 1, warmup=0)
    assert len(timed.samples_ms) == 2 * QUEUED + 1
    assert paper.waits == 1 + 3


def test_progress_counts_the_warm_up(paper):
    heard: list[int] = []
    measure(run_on(paper), iterations=2, warmup=1, tick=heard.append)
    assert heard == [1, 2, 3]


LIMITS = {"copy_gb_per_s": 1000.0, "read_gb_per_s": 1100.0, "bf16_matmul_tflop_per_s": 500.0}


@pytest.mark.parametrize(
    ("moved", "flops", "share"),
    [(1e9, 0.0, 0.5), (0.0, 5e11, 0.5), (1e9, 1e11, 0.5), (1e9, 8e11, 0.8), (0.0, 0.0, None)],
    ids=["memory", "compute", "memory binds", "compute binds", "says nothing"],
)
def test_roofline(moved, flops, share):
    said = roofline(LIMITS, moved, flops, 0.002)
    assert said.get("roofline_share") == (None if share is None else pytest.approx(share))
    assert ("gb_per_s" in said, "tflop_per_s" in said) == (moved > 0, flops > 0)
