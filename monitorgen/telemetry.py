"""The metrics that our workloads export: declarations only, so that the generator and the kernels agree on
names.

vLLM keeps its CUDA graph statistics in a log table; our decode workload exports them. Nothing is imported
here: not torch, not prometheus_client. `kernels` turns these into real metrics, `catalog` into the engine
`workload`.

Every family carries `model_name` (kernels: `kernel`), so that rules for vLLM hold here too. Counters count
since the start of the process and are named with `_total`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

VERSION = "0.1"
"""The version of this set: raise it when a name, a label or an edge changes."""

GRAPH_MODES = ("eager", "full", "piecewise")
RECAPTURE_REASONS = ("allocator", "new_shape", "weights_changed")

# 50 us is a step of a small model replayed from a graph, 1 s an eager step of a large one; 1-2-5 between.
STEP_EDGES = (
    0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0,
)  # fmt: skip
# One kernel: 5 us is little more than a launch, 100 ms a long prefill.
KERNEL_EDGES = (
    0.000005, 0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Metric:
    """A family that a workload exports. `unit` as in the catalogs; `values` are all values of a label."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    labels: tuple[str, ...] = ("model_name",)
    values: tuple[tuple[str, tuple[str, ...]], ...] = ()
    buckets: tuple[float, ...] = ()
    needs: str = ""


_GPU = "a CUDA device"
_DRAFTS = "the workload speculative_decoding"

DECODE: tuple[Metric, ...] = (
    Metric(
        "vllm:decode_graph_mode",
        "gauge",
        "bool",
        "1 for the way in which decode steps run now, 0 for the others.",
        labels=("model_name", "mode"),
        values=(("mode", GRAPH_MODES),),
    ),
    Metric(
        "vllm:decode_graph_captures_total",
        "counter",
        "events",
        "Decode steps captured for one batch size, the planned ones at start-up included: CUDA graphs; "
        "on a CPU, programs traced from the step.",
    ),
    Metric(
        "vllm:decode_graph_recaptures_total",
        "counter",
        "events",
        "Captures again or late, after the planned ones: each one stalls decoding.",
        labels=("model_name", "reason"),
        values=(("reason", RECAPTURE_REASONS),),
    ),
    Metric(
        "vllm:decode_graph_replays_total",
        "counter",
        "events",
        "Replays of captured steps by the batch size that they were captured for.",
        labels=("model_name", "bucket"),
    ),
    # A counter, not a histogram: there are tens of captures in a process' life, so quantiles of them say
    # nothing; the mean is this over captures, and its rate is the share of time that is lost to capturing.
    Metric(
        "vllm:decode_graph_capture_seconds_total",
        "counter",
        "seconds",
        "Time spent capturing decode steps.",
    ),
    Metric(
        "vllm:decode_graph_pool_bytes",
        "gauge",
        "bytes",
        "Device memory held by the pools of the CUDA graphs.",
        needs=_GPU,
    ),
    Metric(
        "vllm:decode_allocator_bytes",
        "gauge",
        "bytes",
        "Device memory that the allocator holds, used or not; on a CPU, the tensors that the workload holds.",
    ),
    Metric(
        "vllm:decode_kv_compactions_total",
        "counter",
        "events",
        "Times that KV cache pages were moved together to free space.",
    ),
    Metric(
        "vllm:decode_tokens_total",
        "counter",
        "tokens",
        "Tokens decoded for requests.",
    ),
    Metric(
        "vllm:decode_padding_tokens_total",
        "counter",
        "tokens",
        "Rows computed only to fill a batch up to the size that its graph was captured for.",
    ),
    Metric(
        "vllm:decode_step_seconds",
        "histogram",
        "seconds",
        "Time of a decode step, from the results of the step before to its own.",
        buckets=STEP_EDGES,
    ),
    Metric(
        "vllm:decode_batch_size",
        "gauge",
        "requests",
        "Requests in the last decode step, padding not counted.",
    ),
)

# vLLM's own names and meanings, so that one rule holds for both; vLLM also has the label `engine`.
SPECULATION: tuple[Metric, ...] = (
    Metric(
        "vllm:spec_decode_num_drafts_total",
        "counter",
        "events",
        "Drafts that the target checked: one for each row of a step that had any draft token.",
        needs=_DRAFTS,
    ),
    Metric(
        "vllm:spec_decode_num_draft_tokens_total",
        "counter",
        "tokens",
        "Tokens that were drafted.",
        needs=_DRAFTS,
    ),
    Metric(
        "vllm:spec_decode_num_accepted_tokens_total",
        "counter",
        "tokens",
        "Draft tokens that the target accepted.",
        needs=_DRAFTS,
    ),
    Metric(
        "vllm:spec_decode_num_accepted_tokens_per_pos_total",
        "counter",
        "tokens",
        "Draft tokens that the target accepted, by their place in the draft, from 0.",
        labels=("model_name", "position"),
        needs=_DRAFTS,
    ),
)

KERNELS: tuple[Metric, ...] = (
    Metric(
        "monitorgen_kernel_seconds",
        "histogram",
        "seconds",
        "Time of a kernel call, measured on the device.",
        labels=("kernel",),
        buckets=KERNEL_EDGES,
    ),
    Metric(
        "monitorgen_kernel_bytes_total",
        "counter",
        "bytes",
        "Bytes that the calls had to move at least, by the algorithm.",
        labels=("kernel",),
    ),
    Metric(
        "monitorgen_kernel_flops_total",
        "counter",
        "flops",
        "Floating point operations that the calls had to do, by the algorithm.",
        labels=("kernel",),
    ),
    Metric(
        "monitorgen_kernel_roofline_ratio",
        "gauge",
        "ratio",
        "Share of the measured ceiling (memory or compute, whichever binds) that the last calls reached.",
        labels=("kernel",),
    ),
)

METRICS: tuple[Metric, ...] = DECODE + SPECULATION + KERNELS
