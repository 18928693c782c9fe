"""Programs of a decode step, one a batch size: CUDA graphs on CUDA, traced graphs of operations on the CPU.

The step is a stack of gated MLP layers over the batch's hidden states, the part of a decoder whose shapes
depend on the batch alone. A program owns its input rows; running it writes the first `n`, leaves the rest as
padding, and returns views of the output rows.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any, Literal

import torch

from monitorgen.kernels.decode.graph_costs import Calibration, Point
from monitorgen.kernels.workload import UsageError

WARMUPS = 2
"""Eager runs before a capture: libraries allocate workspaces in the first, and autotuners settle."""

REPEATS = 50
"""Timed runs of each size in a calibration; the median counts."""


@dataclass(frozen=True, slots=True)
class StepShape:
    """Sizes of the step: weights are `3 * layers * hidden * inner` elements."""

    hidden: int = 1024
    inner: int = 2816
    layers: int = 4

    def __post_init__(self) -> None:
        if min(self.hidden, self.inner, self.layers) < 1:
            raise UsageError(
                f"impossible step: hidden {self.hidden}, inner {self.inner}, {self.layers} layers"
            )

    def weight_bytes(self, element_bytes: int) -> int:
        """Bytes of all weights: what a step has to read at least, whatever the batch."""
        return 3 * self.layers * self.hidden * self.inner * element_bytes

    def flops(self, rows: int) -> int:
        """Floating point operations for so many rows: a multiply and an add for each weight."""
        return 2 * 3 * self.layers * self.hidden * self.inner * rows


class Step(torch.nn.Module):
    """Gated MLP layers with RMS norm and residuals, [rows, hidden] to [rows, hidden]. Seeded weights."""

    def __init__(self, shape: StepShape, device: torch.device, seed: int = 20) -> None:
        super().__init__()
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        generator = torch.Generator().manual_seed(seed)

        def weights(rows: int, columns: int) -> torch.Tensor:
            # 1 / sqrt(columns) keeps the scale of activations through the layers.
            made = torch.randn(shape.layers, rows, columns, generator=generator) / columns**0.5
            placed: torch.Tensor = made.to(device, dtype)
            return placed

        self.shape, self.device, self.dtype = shape, device, dtype
        self.gate = weights(shape.inner, shape.hidden)
        self.up = weights(shape.inner, shape.hidden)
        self.down = weights(shape.hidden, shape.inner)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """One step: [n, hidden] in, [n, hidden] out."""
        for gate, up, down in zip(self.gate, self.up, self.down, strict=True):
            normed = torch.nn.functional.rms_norm(rows, rows.shape[-1:])
            inner = torch.nn.functional.silu(normed @ gate.T) * (normed @ up.T)
            rows = rows + inner @ down.T
        return rows


@dataclass(slots=True)
class Program:
    """A step for exactly `size` rows: write `inputs`, call `run`, read `outputs`."""

    size: int
    inputs: torch.Tensor  # [size, hidden]
    outputs: torch.Tensor  # [size, hidden]
    run: Callable[[], None]
    capture_seconds: float


@dataclass(slots=True)
class Programs:
    """The programs of one step, made by batch size and kept. `shared_pool` lets CUDA graphs share memory."""

    step: Step
    shared_pool: bool
    made: dict[int, Program] = field(default_factory=dict)
    _pool: Any = None

    @property
    def graphs(self) -> bool:
        """Whether programs are CUDA graphs."""
        return self.step.device.type == "cuda"

    def make(self, size: int) -> Program:
        """Capture the step for `size` rows; a program of that size that exists is replaced."""
        program = self._capture(size) if self.graphs else self._trace(size)
        self.made[size] = program
        return program

    def make_all(self, sizes: Iterable[int]) -> None:
        """Capture every size, largest first, so that smaller graphs fit the memory of larger ones."""
        for size in sorted(sizes, reverse=True):
            self.make(size)

    def drop(self) -> None:
        """Forget all programs and give their memory back to the device."""
        self.made.clear()
        self._pool = None
        if self.graphs:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def allocator_bytes(self) -> int:
        """What torch's allocator holds of the device; on the CPU the bytes of weights and programs' rows."""
        if self.graphs:
            return int(torch.cuda.memory_reserved())
        tensors = [self.step.gate, self.step.up, self.step.down]
        for program in list(self.made.values()):
            tensors += [program.inputs, program.outputs]
        return sum(tensor.nbytes for tensor in tensors)

    def _trace(self, size: int) -> Program:
        """The step traced for these shapes: the model's Python runs once, its operations each time."""
        from torch.fx.experimental.proxy_tensor import make_fx

        load_tracer()
        begin = time.perf_counter()
        inputs = torch.zeros(size, self.step.shape.hidden, device=self.step.device, dtype=self.step.dtype)
        outputs = torch.empty_like(inputs)
        with torch.inference_mode():
            traced = make_fx(self.step)(inputs)

        def run() -> None:
            outputs.copy_(traced(inputs))

        return Program(size, inputs, outputs, run, time.perf_counter() - begin)

    def _capture(self, size: int) -> Program:
        if self.shared_pool and self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        begin = time.perf_counter()
        inputs = torch.zeros(size, self.step.shape.hidden, device=self.step.device, dtype=self.step.dtype)
        side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), torch.inference_mode():
            for _ in range(WARMUPS):
                self.step(inputs)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # thread_local: a scrape may ask the driver something while this thread captures.
        options = {"pool": self._pool, "capture_error_mode": "thread_local"}
        with torch.inference_mode(), torch.cuda.graph(graph, **options):
            outputs = self.step(inputs)
        torch.cuda.synchronize()
        return Program(size, inputs, outputs, graph.replay, time.perf_counter() - begin)


@cache
def load_tracer() -> None:
    """Trace something tiny, once: the tracer loads much on first use, which is no capture's cost."""
    from torch.fx.experimental.proxy_tensor import make_fx

    make_fx(torch.neg)(torch.zeros(1))


def device_of(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device by its name; `auto` takes CUDA where it is. Raises UsageError if there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: no CUDA device here, so no graphs; --device cpu runs the simulator")
    return torch.device(name)


def device_bytes(device: torch.device) -> int:
    """Bytes in use on a CUDA device, the driver's own for graphs included; 0 on the CPU."""
    if device.type != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def provenance_of(kind: Literal["cpu", "cuda"]) -> dict[str, str]:
    """What numbers of this process come from: device, versions, moment."""
    made = {
        "device": torch.cuda.get_device_name() if kind == "cuda" else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if kind == "cuda":
        made["cuda"] = str(torch.version.cuda)
    return made


def check_memory(shape: StepShape, sizes: Iterable[int], device: torch.device) -> None:
    """Refuse weights that the device cannot hold. Raises UsageError that says what would fit."""
    if device.type != "cuda":
        return
    free, _ = torch.cuda.mem_get_info(device)
    # Four tensors as wide as `inner` and two as wide as `hidden` are alive at once in a step.
    activations = max(sizes) * (4 * shape.inner + 2 * shape.hidden) * 2
    need = shape.weight_bytes(2) + activations
    if need > 0.9 * free:
        layers = int((0.9 * free - activations) // (shape.weight_bytes(2) / shape.layers))
        raise UsageError(
            f"the step needs {need / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free: "
            + (f"{layers} layers would fit" if layers > 0 else "take a smaller --hidden or smaller batches")
        )


def calibrate(step: Step, sizes: Iterable[int], provenance: dict[str, str]) -> Calibration:
    """Measure replay, eager step, capture and memory for each size on CUDA, largest first in one pool."""
    programs = Programs(step, shared_pool=True)
    programs.make(max(sizes))  # the first capture of a process also loads libraries: not any size's cost
    programs.drop()
    before = device_bytes(step.device)
    captured = [programs.make(size) for size in sorted(sizes, reverse=True)]
    # The allocator grows in segments that several graphs share, so only the sum can be measured.
    each = max(0, device_bytes(step.device) - before) / len(captured)
    points = [
        Point(
            batch=program.size,
            replay_seconds=_median_seconds(program.run),
            capture_seconds=program.capture_seconds,
            graph_bytes=each,
            eager_seconds=_median_seconds(partial(step, program.inputs)),
        )
        for program in captured
    ]
    programs.drop()
    name = f"measured on {provenance['device']}"
    return Calibration(name, "measured", provenance, tuple(sorted(points, key=lambda point: point.batch)))


def _median_seconds(run: Callable[[], object]) -> float:
    """Median time of a run between two events on the device, after a few that do not count."""
    cuda: Any = torch.cuda
    with torch.inference_mode():
        for _ in range(5):
            run()
        pairs = []
        for _ in range(REPEATS):
            begin, end = (cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            run()
            end.record()
            pairs.append((begin, end))
            # Waiting for each run: launches that pile up would hide an eager step's cost on the host.
            end.synchronize()
    times = sorted(begin.elapsed_time(end) for begin, end in pairs)
    return float(times[len(times) // 2]) / 1000
