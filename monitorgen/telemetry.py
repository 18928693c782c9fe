"""The metrics that our workloads export: declarations only, so that the generator and the kernels agree on
names.

vLLM keeps its CUDA graph statistics in a log table; our decode workload exports them. Nothing is imported
here: not torch, not prometheus_client. `kernels` turns these into real metrics, `catalog` into the engine
`workload`.

Every family carries `model_name` (kernels: `kernel`), so that rules for vLLM hold here too; those of runners
also `backend`. Counters count
since the start of the process and are named with `_total`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

VERSION = "0.2"
"""The version of this set: raise it when a name, a label or an edge changes."""

GRAPH_MODES = ("eager", "full", "piecewise")
RECAPTURE_REASONS = ("allocator", "new_shape", "weights_changed")
EXPECTED_SOURCES = ("expectations", "startup")

# 50 us is a step of a small model replayed from a graph, 1 s an eager step of a large one; 1-2-5 between.
STEP_EDGES = (
    0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0,
)  # fmt: skip
# One kernel: 5 us is little more than a launch, 100 ms a long prefill.
KERNEL_EDGES = (
    0.000005, 0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,
)  # fmt: skip

# From what a tiny model takes on a GPU (0.2 ms a token) to what nobody waits for; where an SLO may lie, 50 ms
# to 1 s, the edges are those of vLLM's own histograms.
FIRST_TOKEN_EDGES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
INTER_TOKEN_EDGES = (
    0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.5, 1.0,
)  # fmt: skip
PARITY_RESULTS = ("different", "equal", "near_tie")
SLO_RESULTS = ("met", "missed")


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
        "monitorgen_kernel_calls_total",
        "counter",
        "events",
        "Calls of the kernel.",
        labels=("kernel",),
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
    Metric(
        "monitorgen_kernel_error_ratio",
        "gauge",
        "ratio",
        "Relative norm of the difference between the last checked output and its float64 reference.",
        labels=("kernel",),
    ),
    Metric(
        "monitorgen_kernel_error_limit_ratio",
        "gauge",
        "ratio",
        "The largest error against the reference that the kernel's precision accounts for.",
        labels=("kernel",),
    ),
    # A machine that nobody has measured has no file; the first calls of the process then say what is normal
    # there, so that a slowdown later on is still seen. The label tells which it is.
    Metric(
        "monitorgen_kernel_expected_seconds",
        "gauge",
        "seconds",
        "Time that a call is expected to take, by the hardware's expectations file or else by the median of "
        "the first calls of this process.",
        labels=("kernel", "source"),
        values=(("source", EXPECTED_SOURCES),),
    ),
)

# Prefix queries and hits count tokens, as vLLM's own do, so that their ratio means the same.
KV_CACHE: tuple[Metric, ...] = (
    Metric(
        "monitorgen_kv_prefix_cache_queries_total",
        "counter",
        "tokens",
        "Tokens of new sequences, all of which were looked up in the paged KV cache.",
    ),
    Metric(
        "monitorgen_kv_prefix_cache_hits_total",
        "counter",
        "tokens",
        "Tokens of new sequences whose keys and values were found in the paged KV cache.",
    ),
    Metric(
        "monitorgen_kv_cache_evictions_total",
        "counter",
        "number",
        "Blocks of a known prefix that were given to another sequence.",
    ),
    Metric(
        "monitorgen_kv_cache_copies_total",
        "counter",
        "number",
        "Blocks copied because one of the sequences that share them wrote.",
    ),
    Metric(
        "monitorgen_kv_cache_blocks",
        "gauge",
        "number",
        "Blocks of the paged KV cache.",
    ),
    Metric(
        "monitorgen_kv_cache_blocks_in_use",
        "gauge",
        "number",
        "Blocks that a sequence holds, shared ones once; what is kept for later hits is not in use.",
    ),
    Metric(
        "monitorgen_kv_cache_fragmentation_ratio",
        "gauge",
        "ratio",
        "Share of the slots of blocks in use that hold no token; 0 while none is in use.",
    ),
)

_RUNNER = ("model_name", "backend")

RUNNERS: tuple[Metric, ...] = (
    Metric(
        "monitorgen_runner_time_to_first_token_seconds",
        "histogram",
        "seconds",
        "Time from a request's arrival to its first token, queueing included.",
        labels=_RUNNER,
        buckets=FIRST_TOKEN_EDGES,
    ),
    Metric(
        "monitorgen_runner_inter_token_latency_seconds",
        "histogram",
        "seconds",
        "Time between tokens of a request that follow each other.",
        labels=_RUNNER,
        buckets=INTER_TOKEN_EDGES,
    ),
    Metric(
        "monitorgen_runner_tokens_total",
        "counter",
        "tokens",
        "Tokens that requests got, the first ones included.",
        labels=_RUNNER,
    ),
    Metric(
        "monitorgen_runner_requests_total",
        "counter",
        "requests",
        "Requests that got all of their tokens, by whether they kept the SLO; the rate of those that did is "
        "the goodput.",
        labels=(*_RUNNER, "slo"),
        values=(("slo", SLO_RESULTS),),
    ),
    Metric(
        "monitorgen_runner_parity_tokens_total",
        "counter",
        "tokens",
        "Tokens compared with what the reference chooses at the same place.",
        labels=(*_RUNNER, "result"),
        values=(("result", PARITY_RESULTS),),
    ),
)

METRICS: tuple[Metric, ...] = DECODE + SPECULATION + KERNELS + KV_CACHE + RUNNERS
