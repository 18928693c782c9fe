"""What both arms of the decode graphs workload share: flags, the timed run, and the command.

A timed step is a whole pass over the trace, prefills included. What an arm does before its first step (the
optimized arm captures its graphs then) is start-up: it is not timed with the passes, but told as
`startup_seconds`, and its captures count. Prefills are the same eager work in both arms and dilute what
graphs gain: `decode_seconds` and `decode_tokens_per_second` leave them out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click
import torch

from monitorgen.kernels.command import parse, run
from monitorgen.kernels.counters import DecodeCounters
from monitorgen.kernels.decode.device import graph_pool_bytes, held_bytes
from monitorgen.kernels.decode.graphs import cuda
from monitorgen.kernels.decode.loop import DecodeLoop, Policy
from monitorgen.kernels.decode.options import build_ops, build_weights, model_options, ops_option, resolve
from monitorgen.kernels.decode.trace import Plan, plan_requests, random_sizes, read_sizes
from monitorgen.kernels.export import Telemetry, exporting, prom_options
from monitorgen.kernels.workload import Outcome, UsageError

Arm = Literal["baseline", "optimized"]


def make_plan(flags: Mapping[str, Any], vocab: int) -> Plan:
    """The trace and its requests that the flags name. Raises UsageError."""
    if flags["trace"] is not None:
        sizes = read_sizes(Path(flags["trace"]))[: flags["steps"]]
    else:
        sizes = random_sizes(flags["steps"] or 256, flags["min_batch"], flags["max_batch"], flags["seed"])
    prompt = (flags["min_prompt"], flags["max_prompt"])
    return plan_requests(sizes, vocab=vocab, prompt=prompt, longest=flags["context"], seed=flags["seed"])


def make_buckets(text: str, largest: int) -> tuple[int, ...]:
    """Batch sizes to pad to: those given, or powers of two and multiples of 8, up to what the trace needs.

    Raises UsageError if the largest batch fits into none.
    """
    if not text:
        return tuple(size for size in (1, 2, 4, *range(8, largest + 8, 8)) if size < largest + 8)
    try:
        sizes = tuple(sorted({int(size) for size in text.split(",")}))
    except ValueError:
        raise UsageError(f"--buckets {text!r}: give whole numbers with commas between") from None
    if sizes[0] < 1 or sizes[-1] < largest:
        raise UsageError(f"--buckets {text}: the trace has batches of 1 to {largest} requests")
    return sizes


def make_policy(arm: Arm, flags: Mapping[str, Any], plan: Plan) -> Policy:
    """How an arm treats shapes, memory and holes."""
    if arm == "baseline":
        return Policy(keep=flags["keep_graphs"])
    width = -(-plan.context // flags["page_size"])
    return Policy(
        buckets=make_buckets(flags["buckets"], plan.largest),
        pages=plan.largest * width,
        fragmentation=flags["fragmentation"],
        age=flags["age"],
    )


@dataclass(slots=True)
class GraphsRun:
    """One arm, prepared: a step is a pass over the whole trace. It waits for tokens, as a server has to."""

    loop: DecodeLoop
    counters: DecodeCounters
    startup_seconds: float

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where it runs."""
        return "cuda" if self.loop.on_cuda else "cpu"

    @property
    def bytes_moved(self) -> float:
        """Bytes that a pass has to move at least: each step's weights and contexts; weights for prefills."""
        config, element = self.loop.weights.config, self.loop.weights.dtype.itemsize
        steps = sum(config.step_bytes(len(held), sum(held), element) for held in self.loop.plan.lengths())
        prefills = sum(1 for step in self.loop.plan.steps if step.admitted)
        return float(steps + prefills * config.step_bytes(0, 0, element))

    @property
    def flops(self) -> float:
        """Floating point operations that a pass has to do, padding not counted."""
        config, plan = self.loop.weights.config, self.loop.plan
        decoded = sum(config.step_flops(len(held), sum(held)) for held in plan.lengths())
        prefilled = sum(config.step_flops(len(p), len(p) * (len(p) - 1) // 2) for p in plan.prompts)
        return float(decoded + prefilled)

    def step(self) -> None:
        """Decode the trace once."""
        self.loop.reset()
        self.loop.run()

    def outcome(self) -> Outcome:
        """The tokens of every request."""
        return Outcome(exact={"tokens": self.loop.tokens})

    def metrics(self) -> Mapping[str, float]:
        """What was counted since the start, and what memory is held now.

        `decode_seconds` is the time of all passes without their prefills, late captures included.
        """
        loop = self.loop
        found: dict[str, float] = self.counters.summary()
        decoding = self.counters.step_seconds - loop.prefill_seconds
        return found | {
            "prefill_seconds": loop.prefill_seconds,
            "decode_seconds": decoding,
            "decode_tokens_per_second": self.counters.tokens / decoding if decoding else 0.0,
            "startup_seconds": self.startup_seconds,
            "kv_pages_moved": loop.moved,
            "kv_pages": loop.cache.pages,
            "kv_pool_growths": loop.growths,
            "prefill_tokens": loop.prefilled,
        }

    def close(self) -> None:
        """Free graphs, pages and workspaces."""
        self.loop.batches.clear()
        self.loop.shared = None
        del self.loop
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def build(arm: Arm, flags: Mapping[str, Any], counters: DecodeCounters) -> GraphsRun:
    """An arm ready to run, that counts in `counters`. Raises UsageError for what cannot be run."""
    device, config, dtype = resolve(flags)
    plan = make_plan(flags, config.vocab)
    policy = make_policy(arm, flags, plan)
    tokens = plan.largest * (plan.context + flags["page_size"])
    weights = build_weights(flags, tokens * config.token_numbers * dtype.itemsize, plan.context)
    # One tile size for both arms and all batches, so that padding cannot change a token.
    largest = max(make_buckets(flags["buckets"], plan.largest))
    ops, step = build_ops(flags, weights, largest)
    if device.type == "cuda":
        counters.mode, counters.graphs = "full", True
        counters.allocator_bytes = partial(cuda.memory_reserved, device)
        counters.pool_bytes = graph_pool_bytes
        cuda.synchronize()
    started = time.perf_counter()
    loop = DecodeLoop(weights, ops, plan, policy, counters, page_size=flags["page_size"], step=step)
    if device.type == "cuda":
        cuda.synchronize()
    else:
        counters.allocator_bytes = lambda: held_bytes(loop.tensors())
    return GraphsRun(loop, counters, time.perf_counter() - started)


OPTIONS = (
    click.option(
        "--steps", type=click.IntRange(1), help="Decode steps of a pass.  [default: 256, or the file's]"
    ),
    click.option("--trace", type=click.Path(), help="Batch sizes from a file: numbers, or a JSON list."),
    click.option("--min-batch", type=click.IntRange(1), default=3, show_default=True),
    click.option("--max-batch", type=click.IntRange(1), default=28, show_default=True),
    click.option("--min-prompt", type=click.IntRange(1), default=4, show_default=True, help="Tokens."),
    click.option("--max-prompt", type=click.IntRange(1), default=32, show_default=True, help="Tokens."),
    click.option(
        "--context", type=click.IntRange(2), default=512, show_default=True, help="Longest, in tokens."
    ),
    click.option(
        "--page-size", type=click.IntRange(1), default=16, show_default=True, help="Tokens a KV page."
    ),
    click.option(
        "--buckets", default="", help="Optimized: batch sizes to pad to.  [default: 1,2,4,8,16,24,...]"
    ),
    click.option(
        "--fragmentation",
        type=click.FloatRange(0, 1),
        default=0.5,
        show_default=True,
        help="Optimized: share of holes over which KV pages are compacted ...",
    ),
    click.option(
        "--age",
        type=click.IntRange(0),
        default=32,
        show_default=True,
        help="Optimized: ... once it lasted for so many steps.",
    ),
    click.option("--keep-graphs", is_flag=True, help="Baseline: keep graphs from pass to pass."),
    click.option("--passes", type=click.IntRange(1), default=3, show_default=True, help="Over the trace."),
    click.option("--json", "json_file", type=click.Path(), help="Write the result to a file."),
)


def make_command(arm: Arm, help_text: str) -> click.Command:
    """The click command of an arm. Both take all flags, so that a comparison can give the same to both."""

    def decode(**flags: Any) -> int:
        return execute(arm, flags)

    callback: Any = prom_options(decode)
    for option in reversed(OPTIONS):
        callback = option(callback)
    settings = {"max_content_width": 110}
    made: click.Command = click.command(help=help_text, context_settings=settings)(
        model_options(ops_option(callback))
    )
    return made


def execute(arm: Arm, flags: Mapping[str, Any]) -> int:
    """Run an arm's command: passes over the trace, under an exporter if one is asked for."""
    counters = DecodeCounters(resolve(flags)[1].name)
    prom = {"port": flags["prom_port"], "duration": flags["prom_duration"], "host": flags["prom_host"]}
    with exporting(Telemetry([counters]), **prom):
        made = build(arm, flags, counters)
        if made.device == "cpu":
            click.echo("no CUDA graphs on a CPU: steps run without, nothing is captured", err=True)
        seconds = []
        for _ in range(flags["passes"]):
            started = time.perf_counter()
            made.step()
            seconds.append(time.perf_counter() - started)
        report(arm, flags, made, seconds)
    return 0


def report(arm: Arm, flags: Mapping[str, Any], made: GraphsRun, seconds: Sequence[float]) -> None:
    """Print what was measured, and write it as JSON where that is asked for."""
    ordered = sorted(seconds)
    median = ordered[len(ordered) // 2]
    decoded = sum(len(step.rows) for step in made.loop.plan.steps)
    found = {
        "workload": "vllm_decode_graphs", "arm": arm, "model": made.loop.weights.config.name,
        "device": cuda.get_device_name() if made.device == "cuda" else "cpu",
        "torch": torch.__version__, "dtype": str(made.loop.weights.dtype), "ops": made.loop.ops.name,
        "mode": made.counters.mode, "seed": flags["seed"], "steps": len(made.loop.plan.steps),
        "pass_seconds": list(seconds), "median_pass_seconds": median, "tokens_per_second": decoded / median,
        "metrics": dict(made.metrics()), "tokens": made.loop.tokens,
    }  # fmt: skip
    if flags["json_file"]:
        Path(flags["json_file"]).write_text(json.dumps(found) + "\n", "utf-8")
    click.echo(
        f"{arm}: {decoded} tokens a pass in {median:.3f} s (median of {len(seconds)}), "
        f"{decoded / median:,.0f} tokens/s"
    )
    for name, number in made.metrics().items():
        click.echo(f"  {name} {number:,.6g}")


def main(arm: Arm, command: click.Command, argv: Sequence[str] | None) -> int:
    """Run an arm's command as a program."""
    code: int = run(command, argv, f"{arm}_vllm_decode_graphs")
    return code


def prepare(arm: Arm, command: click.Command, flags: Sequence[str]) -> GraphsRun:
    """An arm ready to be timed, with the flags of its command."""
    values = parse(command, flags, f"{arm}_vllm_decode_graphs")
    return build(arm, values, DecodeCounters(resolve(values)[1].name))
