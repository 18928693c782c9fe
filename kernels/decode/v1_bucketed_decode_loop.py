"""A polling loop over a V1 engine that decodes on bucketed graphs, under traffic, and exports its counters.

The engine decides which requests run in a step: a real vLLM `EngineCore` in this process (`--use-vllm`), or
our own scheduler. Its batches go to our decoder, padded to a bucket whose step was captured beforehand. With
our scheduler the decoder's tokens are the engine's tokens; beside vLLM it decodes the same batches of the
same checkpoint, reads vLLM's tokens, and the share on which both agree is reported.

What is exported is counted, on the CPU too. There a captured step is a program traced for one batch size
(see bucket_decoder.py): captures, recaptures and replays have the same meaning and cost the same stall, so
the same rules hold; `vllm:decode_graph_mode` says `eager`, because operations are launched one by one, and
`vllm:decode_graph_pool_bytes` is absent, because there is no pool of graphs. KV is paged and never moved:
compactions stay 0.

With `--prom-port` traffic goes on while metrics are served: for `--prom-duration` seconds after the first
`--requests`, or, if that is not given, until SIGTERM or Ctrl-C.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import click
import torch
from click.core import ParameterSource

from monitorgen.kernels import command as commands
from monitorgen.kernels.counters import DecodeCounters
from monitorgen.kernels.decode.bucket_traffic import Mix, Traffic
from monitorgen.kernels.decode.bucketed_server import Server, Sizes, start
from monitorgen.kernels.decode.weights import DTYPES, SHAPES
from monitorgen.kernels.export import Telemetry, Terminated, exporting, prom_options
from monitorgen.kernels.workload import Outcome, UsageError

NAME = "v1_bucketed_decode_loop"


def _says(server: Server, engine: str, seconds: float) -> list[str]:
    counters, decoder = server.decoder.counters, server.decoder
    how = "CUDA graphs" if decoder.graphs else "no CUDA graphs on this device: steps are traced programs"
    captured = "none, each size as it turns up" if decoder.buckets is None else str(list(decoder.buckets))
    lines = [
        f"engine: {engine}; steps: {how}; buckets: {captured}",
        f"{server.answered} requests answered, {server.decoded} tokens in {seconds:.1f} s; "
        f"{counters.steps} decode steps, {counters.captures} captures in {counters.capture_seconds:.2f} s, "
        f"{sum(counters.recaptures.values())} recaptures, {sum(counters.replays.values())} replays, "
        f"{counters.padding_tokens} padding rows, {counters.allocator_bytes() / 2**20:.1f} MiB held",
    ]
    if server.shadow and server.shadow.compared:
        lines.append(
            f"{server.shadow.agreed} of {server.shadow.compared} tokens are the same as vLLM's "
            f"({server.shadow.agreed / server.shadow.compared:.1%})"
        )
    return lines


def _document(server: Server, engine: str, seconds: float) -> dict[str, Any]:
    counters, shadow = server.decoder.counters, server.shadow
    return {
        "engine": engine,
        "graphs": server.decoder.graphs,
        "buckets": server.decoder.buckets,
        "answered": server.answered,
        "tokens": server.decoded,
        "seconds": seconds,
        "captures": counters.captures,
        "recaptures": sum(counters.recaptures.values()),
        "capture_seconds": counters.capture_seconds,
        "replays_by_bucket": dict(counters.replays),
        "step_seconds": counters.step_seconds,
        "agreed_with_vllm": shadow.agreed if shadow else None,
        "compared_with_vllm": shadow.compared if shadow else None,
        "decode_tokens": counters.tokens,
        "padding_tokens": counters.padding_tokens,
        "allocator_bytes": counters.allocator_bytes(),
        "pool_bytes": counters.pool_bytes() if counters.graphs else None,
    }


OPTIONS: tuple[Callable[..., Any], ...] = (
    click.option("--use-vllm", is_flag=True, help="Batches of a real vLLM EngineCore in this process."),
    click.option("--model", help=f"A model folder, a Hugging Face name, or a shape: {', '.join(SHAPES)}."),
    click.option("--max-tokens", type=int, default=32, show_default=True, help="Longest answer."),
    click.option("--prompt-tokens", type=int, default=48, show_default=True, help="Longest prompt."),
    click.option(
        "--requests", type=click.IntRange(min=1), default=32, show_default=True, help="Requests to answer."
    ),
    click.option(
        "--rate",
        type=click.FloatRange(min=0),
        default=10.0,
        show_default=True,
        help="Requests a second; 0 keeps the engine full.",
    ),
    click.option("--seed", type=int, default=20, show_default=True, help="Seed of weights and traffic."),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
    click.option("--dtype", type=click.Choice(["auto", *DTYPES]), default="auto", show_default=True),
    click.option("--ops", type=click.Choice(["auto", "torch", "triton"]), default="auto", show_default=True),
    click.option("--max-num-seqs", type=int, default=8, show_default=True, help="Requests that run at once."),
    click.option("--max-model-len", type=int, default=256, show_default=True, help="Longest sequence."),
    click.option("--num-blocks", type=int, help="KV blocks of the engine; few make it preempt."),
    click.option("--buckets", metavar="1,2,4,8", help="Batch sizes to capture; vLLM's by default."),
    click.option(
        "--ragged", is_flag=True, help="Capture nothing beforehand: every new batch size is captured late."
    ),
    click.option(
        "--gpu-memory-utilization",
        type=click.FloatRange(0, 1),
        default=0.4,
        show_default=True,
        help="vLLM's share of the device.",
    ),
    click.option(
        "--enforce-eager",
        is_flag=True,
        help="vLLM compiles and captures nothing itself: it starts sooner and decodes slower.",
    ),
    click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write results here."),
)


def _command(context: click.Context, /, **values: Any) -> int:
    """Answer the requests, then keep traffic up as long as metrics are served."""
    port, duration = values["prom_port"], values["prom_duration"]
    given = context.get_parameter_source("prom_duration") is not ParameterSource.DEFAULT
    if duration and port is None:
        raise UsageError(f"--prom-duration {duration:g} needs --prom-port")
    if port is not None and not given:
        duration = math.inf
    counters = DecodeCounters(Path(values["model"] or "tiny").name)
    # The port is taken before the engine starts: that takes long, and a port in use is said at once.
    with exporting(Telemetry([counters]), port=port, host=values["prom_host"]):
        Sizes.of(values)
        server, engine = start(values, counters)
        try:
            return _serve(server, engine, values, duration)
        finally:
            server.close()


def _build() -> click.Command:
    function: Callable[..., Any] = prom_options(click.pass_context(_command))
    for option in reversed(OPTIONS):
        function = option(function)
    about = "Decode on bucketed graphs behind a V1 engine under traffic, and export the counters."
    return click.command(help=about)(function)


command = _build()
"""The click command, whose options `prepare` reads too."""


def _serve(server: Server, engine: str, values: Mapping[str, Any], duration: float) -> int:
    vocabulary = server.decoder.weights.config.vocab
    mix = Mix(values["prompt_tokens"], values["max_tokens"], vocabulary, values["seed"])
    begin = time.monotonic()
    traffic = Traffic(mix, values["rate"], begin)
    server.serve(traffic, lambda: server.answered >= values["requests"], values["requests"])
    for line in _says(server, engine, time.monotonic() - begin):
        click.echo(line)
    if duration:
        span = "until SIGTERM" if math.isinf(duration) else f"for {duration:g} s more"
        click.echo(f"traffic goes on {span}", err=True)
        end = time.monotonic() + duration
        try:
            server.serve(traffic, lambda: time.monotonic() >= end)
        except (Terminated, KeyboardInterrupt):
            click.echo("ended by request", err=True)
        for line in _says(server, engine, time.monotonic() - begin)[1:]:
            click.echo(line)
    if values["json_file"]:
        document = _document(server, engine, time.monotonic() - begin)
        values["json_file"].write_text(json.dumps(document, indent=2) + "\n")
    return 0


class BucketedRun:
    """Ready to be timed, with our scheduler: a step answers all requests, which come at once."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values
        self._counters = DecodeCounters(NAME)
        self._server, _ = start(values, self._counters)

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where the decoder runs."""
        return "cuda" if self._server.decoder.graphs else "cpu"

    @property
    def bytes_moved(self) -> float:
        """Nothing is said: it depends on the schedule."""
        return 0.0

    @property
    def flops(self) -> float:
        """Nothing is said: it depends on the schedule."""
        return 0.0

    def step(self) -> None:
        """Give the engine the same requests as every time and poll until they are answered."""
        config = self._server.decoder.weights.config
        mix = Mix(
            self._values["prompt_tokens"], self._values["max_tokens"], config.vocab, self._values["seed"]
        )
        traffic = Traffic(mix, 0.0, 0.0)
        self._server.tokens = {}
        for _ in range(self._values["requests"]):
            self._server.engine.add_request(traffic.take())
        while self._server.engine.has_requests():
            self._server.poll(remember=True)

    def outcome(self) -> Outcome:
        """The tokens of every request."""
        return Outcome(exact={"tokens": self._server.tokens})

    def metrics(self) -> Mapping[str, float]:
        """The counters since the start."""
        summary: dict[str, float] = self._counters.summary()
        return summary | {
            "captures": self._counters.captures,
            "recaptures": sum(self._counters.recaptures.values()),
        }

    def close(self) -> None:
        """End the engine."""
        self._server.close()


def prepare(flags: Sequence[str]) -> BucketedRun:
    """The loop ready to be timed. Raises UsageError for flags that it does not take, or for vLLM."""
    values = commands.parse(command, flags, NAME)
    if values["use_vllm"]:
        raise UsageError("timed runs use our scheduler; run the module itself for vLLM")
    return BucketedRun(values)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the loop as a program; its exit code."""
    torch.set_grad_enabled(False)
    return int(commands.run(command, argv, NAME))


if __name__ == "__main__":
    sys.exit(main())
