"""Timing a prepared workload on the device that it runs on.

On CUDA each iteration lies between two events on the current stream, after the L2 cache was overwritten, so
weights and KV come from memory as they do between the layers of a real model. Iterations are enqueued without
waiting in between, and clocks are left as they are. On a CPU each iteration lies between two readings of
perf_counter; caches are as the loop leaves them.

torch is imported only where something runs on CUDA, or a ceiling or a trace is asked for.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitorgen.kernels.workload import Run

FLUSH_BYTES = 256 * 2**20  # the L2 of an H100 has 50 MB, of a B200 126 MB
QUEUED = 64  # iterations that may be enqueued before the host waits: bounds the events and the launch queue

Tick = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of each iteration in order, whether caches were cold, and the peak of device memory."""

    samples_ms: list[float]
    cold: bool
    peak_bytes: int


def measure(run: Run, iterations: int, warmup: int, tick: Tick = lambda done: None) -> Timing:
    """Warm a run up and time it; `tick` is told how many iterations are done, warm-up included."""
    if run.device == "cuda":
        return _measure_cuda(run, iterations, warmup, tick)
    for done in range(warmup):
        run.step()
        tick(done + 1)
    samples = []
    for done in range(iterations):
        start = time.perf_counter()
        run.step()
        samples.append((time.perf_counter() - start) * 1e3)
        tick(warmup + done + 1)
    return Timing(samples, cold=False, peak_bytes=0)


def _measure_cuda(run: Run, iterations: int, warmup: int, tick: Tick) -> Timing:
    import torch

    for done in range(warmup):
        run.step()
        tick(done + 1)
    torch.cuda.synchronize()
    # After the warm-up, which may compile and capture; before the buffer that overwrites L2, so that the peak
    # is the workload's own but for that buffer, which is taken off again.
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    samples: list[float] = []
    while len(samples) < iterations:
        pairs: list[tuple[Any, Any]] = []
        for _ in range(min(QUEUED, iterations - len(samples))):
            start, end = _event(), _event()
            flush.zero_()
            start.record()
            run.step()
            end.record()
            pairs.append((start, end))
            tick(warmup + len(samples) + len(pairs))
        torch.cuda.synchronize()
        samples += [start.elapsed_time(end) for start, end in pairs]
    peak = torch.cuda.max_memory_allocated() - FLUSH_BYTES
    del flush
    return Timing(samples, cold=True, peak_bytes=peak)


def ceilings(device: str) -> dict[str, float]:
    """What the device reaches on plain work: copy and read GB/s (copy counts both ways), bf16 matmul TFLOP/s.

    Medians of 20 on CUDA, 5 on a CPU, after 3 to warm up. Sizes are far beyond the caches of either.
    """
    import torch

    cuda = device == "cuda"
    elements, side, count = (1 << 29, 8192, 20) if cuda else (1 << 26, 1024, 5)
    source = torch.zeros(elements, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    half = elements * source.element_size()
    # As 32-bit words: summing bf16 is bound by conversion on some devices, not by memory.
    words = source.view(torch.float32)
    left = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    right = torch.randn_like(left)
    out = torch.empty_like(left)
    copy = _median_seconds(lambda: target.copy_(source), cuda, count)
    read = _median_seconds(lambda: words.sum(), cuda, count)
    matmul = _median_seconds(lambda: torch.matmul(left, right, out=out), cuda, count)
    return {
        "copy_gb_per_s": 2 * half / copy / 1e9,
        "read_gb_per_s": half / read / 1e9,
        "bf16_matmul_tflop_per_s": 2 * side**3 / matmul / 1e12,
    }


def _median_seconds(work: Callable[[], object], cuda: bool, count: int) -> float:
    import torch

    for _ in range(3):
        work()
    if not cuda:
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)
    pairs: list[tuple[Any, Any]] = []
    for _ in range(count):
        begin, end = _event(), _event()
        begin.record()
        work()
        end.record()
        pairs.append((begin, end))
    torch.cuda.synchronize()
    milliseconds: list[float] = [begin.elapsed_time(end) for begin, end in pairs]
    return statistics.median(milliseconds) / 1e3


def _event() -> Any:
    """An event on the current stream of the current device."""
    import torch

    cuda: Any = torch.cuda
    return cuda.Event(enable_timing=True)


def roofline(
    limits: Mapping[str, float], bytes_moved: float, flops: float, seconds: float
) -> dict[str, float]:
    """Achieved rates and shares: `roofline_share` is the time that the binding ceiling allows over the time
    taken. Empty for work that says neither bytes nor FLOPs."""
    found: dict[str, float] = {}
    least = 0.0
    if bytes_moved > 0:
        found["gb_per_s"] = bytes_moved / seconds / 1e9
        found["share_of_copy"] = found["gb_per_s"] / limits["copy_gb_per_s"]
        least = bytes_moved / (limits["copy_gb_per_s"] * 1e9)
    if flops > 0:
        found["tflop_per_s"] = flops / seconds / 1e12
        found["share_of_matmul"] = found["tflop_per_s"] / limits["bf16_matmul_tflop_per_s"]
        least = max(least, flops / (limits["bf16_matmul_tflop_per_s"] * 1e12))
    if least:
        found["roofline_share"] = least / seconds
    return found


def trace(run: Run, steps: int, chrome: Path | None) -> list[dict[str, Any]]:
    """Profile some steps with torch.profiler: the operators that took most time, by self time on the device.

    `chrome` is where a Chrome trace is written, if at all. Empty for work that does not use torch.
    """
    if "torch" not in sys.modules:
        return []
    import torch
    from torch.profiler import ProfilerActivity, profile

    cuda = run.device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities, record_shapes=chrome is not None) as profiler:
        for _ in range(steps):
            run.step()
        if cuda:
            torch.cuda.synchronize()
    if chrome is not None:
        chrome.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(chrome))
    self_us = "self_device_time_total" if cuda else "self_cpu_time_total"
    rows = [
        {"name": event.key, "calls": event.count / steps, "self_us": getattr(event, self_us) / steps}
        for event in profiler.key_averages()
    ]
    return sorted((row for row in rows if row["self_us"] > 0), key=lambda row: -row["self_us"])[:20]


def device_facts() -> dict[str, Any]:
    """The accelerator and its software, read only; empty where torch was not needed."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    facts: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(torch.cuda.current_device())
        facts |= {
            "gpu": device.name,
            "gpu_memory_bytes": device.total_memory,
            "gpu_count": torch.cuda.device_count(),
            "compute_capability": f"{device.major}.{device.minor}",
            "cuda": torch.version.cuda,
        }
    return facts
