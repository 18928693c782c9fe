"""What a bundled workload is: something to time, what its arms must agree on, and where each arm lives.

A workload has arms, most often `baseline` and `optimized`: two ways to do the same work. An arm is a module
with

* `main(argv=None) -> int`: the command a person runs (`python -m MODULE --help`), which may serve metrics;
* `prepare(flags) -> Run`: the same work ready to be timed, with the same flags, serving nothing.

Nothing heavier than the standard library is imported here, so that listing workloads costs nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast


class UsageError(ValueError):
    """Flags, shapes or files that cannot be run: one line that says which and what would do. Exit code 2."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run produced, for comparing arms.

    `exact` holds plain values (token ids, counts) that must be equal; `close` holds flat lists of numbers
    with the largest relative norm of their difference, |a - b| / |b|, that counts as the same result.
    """

    exact: Mapping[str, Any] = field(default_factory=dict)
    close: Mapping[str, tuple[Sequence[float], float]] = field(default_factory=dict)


class Run(Protocol):
    """One prepared arm: buffers allocated, weights made, nothing timed yet."""

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where it runs; the harness times with CUDA events on `cuda` and with perf_counter on `cpu`."""

    @property
    def bytes_moved(self) -> float:
        """Bytes that one step has to move at least, by the algorithm; 0 where it says nothing."""

    @property
    def flops(self) -> float:
        """Floating point operations that one step has to do, by the algorithm; 0 where it says nothing."""

    def step(self) -> None:
        """Do the timed work once: the same work each time, on `cuda` without waiting for the device."""

    def outcome(self) -> Outcome:
        """What the last step produced."""

    def metrics(self) -> Mapping[str, float]:
        """What was counted and measured since the start, by name with its unit: `captures`, `pool_bytes`."""

    def close(self) -> None:
        """Free what was allocated; afterwards the run is not used again."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A bundled workload: its name, a group of the same kind, a sentence, and the module of each arm."""

    name: str
    group: Literal["decode", "attention", "kv", "speculative"]
    summary: str
    arms: Mapping[str, str]

    def prepare(self, arm: str, flags: Sequence[str]) -> Run:
        """Load an arm and make it ready. Raises UsageError for flags that it does not take."""
        return cast(Run, importlib.import_module(self.arms[arm]).prepare(flags))


WORKLOADS: tuple[Workload, ...] = (
    Workload(
        "cudagraph_bucketing",
        "decode",
        "Decode graphs: one for every batch size as it turns up, or buckets captured beforehand.",
        {
            "baseline": "monitorgen.kernels.decode.baseline_cudagraph_bucketing",
            "optimized": "monitorgen.kernels.decode.optimized_cudagraph_bucketing",
        },
    ),
    Workload(
        "v1_engine_loop",
        "decode",
        "Polling a V1 engine core: until a step is idle, which strands work, and until there is none.",
        {
            "baseline": "monitorgen.kernels.decode.baseline_v1_engine_loop",
            "optimized": "monitorgen.kernels.decode.optimized_v1_engine_loop",
        },
    ),
    Workload(
        "v1_bucketed_decode_loop",
        "decode",
        "A V1 engine's batches decoded on bucketed graphs under traffic.",
        {"optimized": "monitorgen.kernels.decode.v1_bucketed_decode_loop"},
    ),
    Workload(
        "vllm_decode_graphs",
        "decode",
        "Ragged decode: a CUDA graph for every batch size seen, against padded buckets captured ahead.",
        {
            "baseline": "monitorgen.kernels.decode.baseline_vllm_decode_graphs",
            "optimized": "monitorgen.kernels.decode.optimized_vllm_decode_graphs",
        },
    ),
    Workload(
        "decode_throughput",
        "decode",
        "Decode steps of one batch size: launched kernel by kernel, against fused kernels in a CUDA graph.",
        {
            "baseline": "monitorgen.kernels.decode.baseline_decode_throughput",
            "optimized": "monitorgen.kernels.decode.optimized_decode_throughput",
        },
    ),
    Workload(
        "tensor_cores",
        "attention",
        "Prefill attention: matmul, softmax, matmul, against a fused kernel, its warps alike or specialised.",
        {
            "baseline": "monitorgen.kernels.attention.baseline_tensor_cores",
            "optimized": "monitorgen.kernels.attention.optimized_tensor_cores",
            "warp_specialized": "monitorgen.kernels.attention.warp_specialized_triton",
        },
    ),
    Workload(
        "mla_decode",
        "attention",
        "MLA decode over a paged latent cache: dense torch, Triton, and CUDA for Hopper.",
        {
            "baseline": "monitorgen.kernels.attention.baseline_mla_decode",
            "optimized": "monitorgen.kernels.attention.optimized_mla_decode",
            "cuda": "monitorgen.kernels.attention.cuda_mla_decode",
        },
    ),
    Workload(
        "flex_attention",
        "attention",
        "Masked attention: dense SDPA with the mask written out, against FlexAttention on live blocks only.",
        {
            "baseline": "monitorgen.kernels.attention.baseline_flex_attention",
            "optimized": "monitorgen.kernels.attention.optimized_flex_attention",
        },
    ),
    Workload(
        "paged_attn",
        "attention",
        "Decode attention over a paged cache: SDPA over gathered pages, or Triton over the pages in place.",
        {
            "baseline": "monitorgen.kernels.attention.baseline_paged_attn",
            "optimized": "monitorgen.kernels.attention.optimized_paged_attn",
        },
    ),
    Workload(
        "run_vllm_decoder",
        "decode",
        "Requests through each backend, or vLLM: latency, goodput, parity with native FlexAttention.",
        {"optimized": "monitorgen.kernels.decode.run_vllm_decoder"},
    ),
    Workload(
        "flexdecoding",
        "attention",
        "Decoding over a static cache: eager, math only, or FlexAttention's kernel in a CUDA graph.",
        {
            "baseline": "monitorgen.kernels.attention.baseline_flexdecoding",
            "math": "monitorgen.kernels.attention.optimized_flexdecoding_math",
            "optimized": "monitorgen.kernels.attention.optimized_flexdecoding",
        },
    ),
    Workload(
        "speculative_decoding",
        "speculative",
        "Drafts that a target checks in one step: eager, in two graphs, with fused kernels; or no drafts.",
        {
            "baseline": "monitorgen.kernels.speculative.baseline_speculative_decoding",
            "plain": "monitorgen.kernels.speculative.plain_speculative_decoding",
            "optimized_math": "monitorgen.kernels.speculative.optimized_speculative_decoding_math",
            "optimized": "monitorgen.kernels.speculative.optimized_speculative_decoding",
        },
    ),
)
"""Every workload that is bundled, in the order in which they are listed."""
