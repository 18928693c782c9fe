"""An engine with our bucketed decoder behind it, made from the flags of the bucketed loop."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from monitorgen.kernels.counters import DecodeCounters
from monitorgen.kernels.decode import vllm_engine
from monitorgen.kernels.decode.bucket_decoder import BucketDecoder, bucket_sizes
from monitorgen.kernels.decode.bucket_traffic import DecoderExecutor, Shadow, Traffic
from monitorgen.kernels.decode.buckets import checked_sizes, vllm_sizes
from monitorgen.kernels.decode.engine_core import EngineCore
from monitorgen.kernels.decode.engine_types import Engine, EngineConfig, StepOutputs, outputs_of
from monitorgen.kernels.decode.model import Ops
from monitorgen.kernels.decode.polling import YIELD_SECONDS
from monitorgen.kernels.decode.step_graphs import device_of
from monitorgen.kernels.decode.torch_ops import TorchOps
from monitorgen.kernels.decode.weights import DTYPES, SHAPES, Weights, make_weights
from monitorgen.kernels.workload import UsageError

BLOCK_SIZE = 16
WAITING = 3
"""Requests taken in beyond the seats, as a multiple of them; more traffic than that waits outside."""

LONGEST_SLEEP = 0.05
"""Seconds: how long the loop sleeps at most when there is nothing to do, so that a signal ends it soon."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of engine and decoder. Raises UsageError for impossible ones."""

    seats: int
    max_model_len: int
    buckets: tuple[int, ...] | None

    @property
    def pages_per_request(self) -> int:
        """KV blocks of the longest request."""
        return math.ceil(self.max_model_len / BLOCK_SIZE)

    @property
    def widest(self) -> int:
        """Rows of the largest step."""
        return max(self.buckets or (self.seats,))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Sizes:
        """From the flags; without `--buckets`, vLLM's own sizes as far as the seats need them."""
        seats, longest = values["max_num_seqs"], values["max_model_len"]
        if seats < 1:
            raise UsageError(f"--max-num-seqs {seats}: give 1 or more")
        if values["prompt_tokens"] + values["max_tokens"] > longest:
            raise UsageError(
                f"--prompt-tokens {values['prompt_tokens']} and --max-tokens {values['max_tokens']} "
                f"do not fit --max-model-len {longest}"
            )
        if values["ragged"]:
            return cls(seats, longest, None)
        sizes: Sequence[int] = vllm_sizes(max_num_seqs=seats)
        if values["buckets"]:
            try:
                sizes = checked_sizes(int(word) for word in values["buckets"].split(","))
            except ValueError as error:
                raise UsageError(f"--buckets {values['buckets']}: {error}") from error
        return cls(seats, longest, bucket_sizes(seats, sizes))


class Server:
    """An engine with our decoder behind it: give it requests, poll it, read the counters."""

    def __init__(
        self, engine: Engine, decoder: BucketDecoder, shadow: Shadow | None, close: Callable[[], None]
    ) -> None:
        self.engine, self.decoder, self.shadow, self.close = engine, decoder, shadow, close
        self.tokens: dict[str, list[int]] = {}
        self.answered = 0
        self.decoded = 0

    def poll(self, remember: bool = False) -> bool:
        """One step; what it brings is counted, and with `remember` kept. False if nothing was executed."""
        results, executed = self.engine.step()
        self._take(results, remember)
        return bool(executed)

    def _take(self, results: dict[int, StepOutputs], remember: bool) -> None:
        outputs = outputs_of(results)
        if self.shadow:
            self.shadow.follow(outputs)
        for output in outputs:
            self.answered += output.finish_reason is not None
            self.decoded += len(output.new_token_ids)
            if remember:
                self.tokens.setdefault(output.request_id, []).extend(output.new_token_ids)

    def serve(self, traffic: Traffic, enough: Callable[[], bool], most: int | None = None) -> None:
        """Take in traffic and poll until there is enough; `most` requests in all if given.

        An idle step yields and goes on: see polling.py for what becomes of a loop that stops there.
        """
        limit = self.decoder_limit
        while not enough():
            now = time.monotonic()
            open_ = most is None or traffic.made < most
            while open_ and traffic.due(now) and self.engine.unfinished() < limit:
                request = traffic.take()
                if self.shadow:
                    self.shadow.expect(request)
                self.engine.add_request(request)
                open_ = most is None or traffic.made < most
            if not self.engine.has_requests():
                time.sleep(min(LONGEST_SLEEP, max(YIELD_SECONDS, traffic.wait(now))))
            elif not self.poll():
                time.sleep(YIELD_SECONDS)

    @property
    def decoder_limit(self) -> int:
        """Requests that may be inside at once: beside vLLM each of them needs a slot of the decoder."""
        return int(self.decoder.state.slots) * (1 if self.shadow else 1 + WAITING)


def ops_of(name: str, weights: Weights, rows: int) -> Ops:
    """What computes a step: `auto` takes Triton on CUDA. Raises UsageError for Triton where it cannot run."""
    on_cuda = weights.device.type == "cuda"
    if name == "torch" or (name == "auto" and not on_cuda):
        return TorchOps(weights)
    if not on_cuda:
        raise UsageError("--ops triton needs --device cuda")
    if importlib.util.find_spec("triton") is None:
        raise UsageError("Triton is not installed: take --ops torch")
    from monitorgen.kernels.decode.triton_ops import TritonOps

    made: Ops = TritonOps(weights, rows)
    return made


def our_server(weights: Weights, sizes: Sizes, counters: DecodeCounters, values: Mapping[str, Any]) -> Server:
    """Our scheduler over the decoder. Raises UsageError if the blocks do not hold one request."""
    config = EngineConfig(
        num_blocks=values["num_blocks"] or sizes.seats * sizes.pages_per_request + 1,
        block_size=BLOCK_SIZE,
        max_num_seqs=sizes.seats,
        max_num_batched_tokens=max(sizes.max_model_len, 256),
        max_model_len=sizes.max_model_len,
        # The decoder waits for its tokens in each step, so there is nothing to schedule beside.
        async_scheduling=False,
    )
    decoder = BucketDecoder(
        weights,
        ops_of(values["ops"], weights, sizes.widest),
        counters,
        slots=sizes.seats,
        pages=config.num_blocks,
        page_size=BLOCK_SIZE,
        width=sizes.pages_per_request,
        buckets=sizes.buckets,
    )
    return Server(EngineCore(config, DecoderExecutor(decoder)), decoder, None, lambda: None)


def vllm_server(
    folder: Path,
    weights: Callable[[], Weights],
    sizes: Sizes,
    counters: DecodeCounters,
    values: Mapping[str, Any],
) -> Server:
    """A real vLLM engine core, and the decoder as its shadow. vLLM first: it takes its share of memory."""
    engine = vllm_engine.VllmEngine(
        folder,
        vllm_engine.VllmSizes(
            max_num_seqs=sizes.seats,
            max_model_len=sizes.max_model_len,
            num_blocks=values["num_blocks"],
            gpu_memory_utilization=values["gpu_memory_utilization"],
            enforce_eager=values["enforce_eager"],
            dtype={"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[values["dtype"]],
        ),
    )
    slots = sizes.seats * (1 + WAITING)  # a preempted request keeps its place in the decoder
    pages = slots * sizes.pages_per_request
    made = weights()
    decoder = BucketDecoder(
        made,
        ops_of(values["ops"], made, sizes.widest),
        counters,
        slots=slots,
        pages=pages,
        page_size=BLOCK_SIZE,
        width=sizes.pages_per_request,
        buckets=sizes.buckets,
    )
    return Server(engine, decoder, Shadow(decoder, pages), engine.close)


def start(values: dict[str, Any], counters: DecodeCounters) -> tuple[Server, str]:
    """Make engine and decoder from the flags, steps captured; also what the engine is, in words."""
    sizes, device = Sizes.of(values), device_of(values["device"])
    if values["dtype"] == "auto":
        values["dtype"] = "bf16" if device.type == "cuda" else "fp32"
    model, use_vllm = values["model"], values["use_vllm"]
    if use_vllm and model is None:
        raise UsageError("--use-vllm needs --model: a model folder or a Hugging Face name")
    if use_vllm and not vllm_engine.installed():
        click.echo("vLLM is not installed: falling back to our own scheduler", err=True)
        use_vllm = False
    model = model or "tiny"
    folder = None if model in SHAPES else vllm_engine.model_folder(model)
    if use_vllm and folder is None:
        raise UsageError(f"--model {model} is a shape of ours with random weights; vLLM needs a model folder")

    def weights() -> Weights:
        return make_weights(
            str(folder or model), device=device, dtype=DTYPES[values["dtype"]], seed=values["seed"]
        )

    if use_vllm:
        assert folder is not None
        server = vllm_server(folder, weights, sizes, counters, values)
        name = "vLLM EngineCore"
    else:
        server = our_server(weights(), sizes, counters, values)
        name = "our scheduler"
    config = server.decoder.weights.config
    if sizes.max_model_len > config.positions:
        raise UsageError(
            f"--max-model-len {sizes.max_model_len}: {config.name} has {config.positions} positions"
        )
    server.decoder.warm_up()
    return server, name
