"""What the arms of FlexDecoding share: a ragged batch, prefilled once, that decodes the same tokens in each.

baseline: eager torch over the whole static cache, launched kernel by kernel. math: products and a softmax
over the visited blocks alone, in a CUDA graph. optimized: FlexAttention's decoding kernel over blocks that
move on the device, our fused kernels for the rest, in a CUDA graph. On a CPU there are no graphs, and
FlexAttention runs uncompiled unless `--compile` is given: there the workload shows that the tokens are the
same, not how fast they come.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import click
import torch
from torch import Tensor

from monitorgen.kernels.attention.flexdecoding_blocks import blocks_visited, check_block
from monitorgen.kernels.attention.flexdecoding_ops import check_group
from monitorgen.kernels.attention.flexdecoding_profile import count_launched
from monitorgen.kernels.attention.static_decoder import BLOCK, StaticDecoder, Way, make_decoder
from monitorgen.kernels.command import check_writable, parse, run
from monitorgen.kernels.counters import DecodeCounters
from monitorgen.kernels.decode.config import SHAPES, Config
from monitorgen.kernels.decode.device import check_fits, measure
from monitorgen.kernels.decode.graphs import cuda
from monitorgen.kernels.decode.options import model_options, resolve
from monitorgen.kernels.decode.parity import Parity, compare_chosen
from monitorgen.kernels.decode.stepper import logits_tolerance
from monitorgen.kernels.decode.weights import Weights, make_weights, random_weights
from monitorgen.kernels.export import Telemetry, exporting, prom_options
from monitorgen.kernels.workload import Outcome, UsageError

Arm = Literal["baseline", "math", "optimized"]
WAY: Mapping[Arm, Way] = {"baseline": "eager", "math": "math", "optimized": "flex"}
RANDOM = ("auto", *SHAPES)  # models without a checkpoint
NAMES: Mapping[Arm, str] = {
    "baseline": "baseline_flexdecoding",
    "math": "optimized_flexdecoding_math",
    "optimized": "optimized_flexdecoding",
}


@dataclass(slots=True)
class FlexDecoding:
    """A prefilled batch that decodes `tokens` tokens of every row a run, each run from the same start."""

    arm: Arm
    decoder: StaticDecoder
    prompts: list[list[int]]
    tokens: int
    lengths: Tensor  # [B] int64: of the prompts
    first: Tensor  # [B] int64: the token after each prompt, which the prefill chose
    seconds_of_prefill: float
    decoded: list[Tensor] = field(default_factory=list)

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where it runs."""
        found: Literal["cpu", "cuda"] = self.decoder.device
        return found

    def contexts(self) -> list[list[int]]:
        """For each step, the tokens in the cache that each row can see before it."""
        window = self.decoder.window
        seen = [[len(prompt) + step for prompt in self.prompts] for step in range(self.tokens)]
        return [[min(tokens, window - 1) if window else tokens for tokens in row] for row in seen]

    @property
    def bytes_moved(self) -> float:
        """Bytes that a run has to move at least: a window's keys and values alone, where there is one."""
        config, element = self.decoder.weights.config, self.decoder.weights.dtype.itemsize
        return float(sum(config.step_bytes(len(row), sum(row), element) for row in self.contexts()))

    @property
    def flops(self) -> float:
        """Floating point operations that a run has to do."""
        return float(
            sum(self.decoder.weights.config.step_flops(len(row), sum(row)) for row in self.contexts())
        )

    def reset(self) -> None:
        """Back to the moment after the prefill."""
        self.decoder.state.positions[:-1] = self.lengths
        self.decoder.state.tokens[:-1] = self.first

    def step(self) -> None:
        """One run: `tokens` decode steps, without waiting for the device."""
        self.reset()
        self.decoded = []
        for _ in range(self.tokens):
            self.decoder.step()
            self.decoded.append(self.decoder.chosen.clone())

    def decode(self) -> list[list[int]]:
        """The tokens that a run decodes, by row; each step is counted with its time."""
        self.reset()
        counters, batch, out = self.decoder.counters, self.decoder.batch, []
        before = time.perf_counter()
        for _ in range(self.tokens):
            self.decoder.step()
            out.append(self.decoder.chosen.tolist())
            now = time.perf_counter()
            counters.step(batch, batch, now - before)
            if self.decoder.graph is not None:
                counters.replayed(batch)
            before = now
        return [list(row) for row in zip(*out, strict=True)]

    def logits_along(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """The logits of each step in this arm if `tokens` [B][T] are decoded, [B, T, V] on the host."""
        self.reset()
        state, device, out = self.decoder.state, self.decoder.weights.device, []
        for column in zip(*tokens, strict=True):
            out.append(self.decoder.step_logits().cpu().clone())
            state.positions[:-1] += 1
            state.tokens[:-1] = torch.tensor(column, device=device)
        return torch.stack(out, 1)

    def outcome(self) -> Outcome:
        """The logits of the first step, as close as rounding allows, and in fp32 all tokens.

        In 16 bits two likely tokens may change places with the order of a sum: `--profiling` counts those.
        """
        weights = self.decoder.weights
        self.reset()
        logits = self.decoder.step_logits().flatten().tolist()
        close = {"logits": (logits, logits_tolerance(weights.dtype, len(weights.layers)))}
        exact: dict[str, Any] = {"decoded_tokens": sum(step.numel() for step in self.decoded)}
        if weights.dtype == torch.float32:
            exact["tokens"] = [list(row) for row in zip(*(t.tolist() for t in self.decoded), strict=True)]
        return Outcome(exact=exact, close=close)

    def metrics(self) -> Mapping[str, float]:
        """Captures, memory, the prefill, and the blocks that a row visits at most."""
        decoder = self.decoder
        found = decoder.counters.summary()
        kept = {name: found[name] for name in found if name.endswith("bytes") or name.startswith("capture")}
        blocks = decoder.cache.page_size // decoder.block
        visited = blocks_visited(decoder.cache.page_size, decoder.window, decoder.block)
        return {
            **kept, "prefill_seconds": self.seconds_of_prefill, "cache_blocks": blocks,
            "blocks_visited": blocks if self.arm == "baseline" else visited,
        }  # fmt: skip

    def close(self) -> None:
        """Free the graph."""
        self.decoder.close()


def lengths_of(flags: Mapping[str, Any]) -> tuple[int, int, int]:
    """Shortest and longest prompt, and the cache's places a row. Raises UsageError for what outgrows it."""
    low, high = flags["min_prompt"], flags["max_prompt"]
    if low > high:
        raise UsageError(f"--min-prompt {low} is more than --max-prompt {high}")
    needed = high + flags["tokens"]
    context = flags["context"] or needed
    if needed > context:
        raise UsageError(
            f"--max-prompt {high} and --tokens {flags['tokens']} need {needed} places, the cache holds "
            f"--context {context}"
        )
    return low, high, context


def check(arm: Arm, flags: Mapping[str, Any]) -> tuple[torch.device, Config, torch.dtype, int]:
    """Device, shape, type and context of a run. Raises UsageError for what cannot be run, before any work."""
    _, _, context = lengths_of(flags)
    device, config, dtype = resolve(flags)
    if flags["model"] in RANDOM:  # random weights know no longest context
        config = replace(config, positions=max(config.positions, context))
    elif context > config.positions:
        raise UsageError(f"a context of {context} tokens: {config.name} has {config.positions} positions")
    if arm == "optimized":
        check_group(config.heads, config.kv_heads)
    check_block(flags["block"])
    cache = (flags["batch"] + 1) * (context + flags["block"]) * config.token_numbers
    check_fits(
        f"{config.name} with a cache of {flags['batch']} x {context} tokens",
        (config.parameters + cache) * dtype.itemsize, device, "take fewer rows or a shorter context",
    )  # fmt: skip
    return device, config, dtype, context


def weights_of(flags: Mapping[str, Any], arm: Arm) -> Weights:
    """The weights of a run."""
    device, config, dtype, _ = check(arm, flags)
    if flags["model"] in RANDOM:
        return random_weights(config, device=device, dtype=dtype, seed=flags["seed"])
    return make_weights(flags["model"], device=device, dtype=dtype, seed=flags["seed"])


def prompts_of(flags: Mapping[str, Any], vocab: int) -> list[list[int]]:
    """Random prompts; the first has the least and the last the most tokens."""
    low, high, _ = lengths_of(flags)
    draw, batch = random.Random(flags["seed"] + 1), flags["batch"]
    lengths = [draw.randint(low, high) for _ in range(batch)]
    lengths[0] = low if batch > 1 else high
    lengths[-1] = high
    return [[draw.randrange(vocab) for _ in range(count)] for count in lengths]


def build(
    arm: Arm, flags: Mapping[str, Any], counters: DecodeCounters | None = None, weights: Weights | None = None
) -> FlexDecoding:
    """An arm, prefilled and ready to decode. Raises UsageError for what cannot be run."""
    _, config, _, context = check(arm, flags)
    weights = weights or weights_of(flags, arm)
    prompts = prompts_of(flags, config.vocab)
    decoder = make_decoder(
        weights, WAY[arm], len(prompts), context=context, window=flags["window"], block=flags["block"],
        graph=arm != "baseline" and weights.device.type == "cuda", compiled=flags["compile"],
        rest=flags["rest"], counters=counters,
    )  # fmt: skip
    started = time.perf_counter()
    first = decoder.admit(range(len(prompts)), prompts, flags["tokens"]).argmax(-1)
    if decoder.device == "cuda":
        cuda.synchronize()
    lengths = decoder.state.positions[:-1].clone()
    seconds = time.perf_counter() - started
    return FlexDecoding(arm, decoder, prompts, flags["tokens"], lengths, first, seconds)


def compare_arms(
    flags: Mapping[str, Any], counters: DecodeCounters | None = None
) -> tuple[dict[str, dict[str, Any]], Parity]:
    """All arms on the same weights and prompts: time, launches, tokens; and how far the tokens agree."""
    weights = weights_of(flags, "optimized")
    found: dict[str, dict[str, Any]] = {}
    parity, baseline, reference = Parity(), None, torch.empty(0)
    for arm in WAY:
        made = build(arm, flags, counters, weights)
        tokens = made.decode()
        if baseline is None:
            baseline, reference = tokens, made.logits_along(tokens)
        else:
            for row, (mine, theirs) in enumerate(zip(tokens, baseline, strict=True)):
                same = next(
                    (at for at, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b), len(mine)
                )
                # After a row's first difference its tokens come from other ones, and cannot be compared.
                parity += compare_chosen(
                    reference[row, : same + 1], mine[: same + 1], weights.dtype, len(weights.layers),
                    f"{NAMES[arm]}, row {row}: ",
                )  # fmt: skip
        made.reset()
        seconds = measure(made.step, weights.device, flags["repeats"], warm_up=1)
        made.reset()
        launched = count_launched(made.decoder.step, min(8, made.tokens), on_cuda=made.device == "cuda")
        found[NAMES[arm]] = {
            "step_seconds": statistics.median(seconds) / made.tokens, "samples": seconds,
            "decoded_tokens": sum(map(len, tokens)), "tokens": tokens, **launched.plain(), **made.metrics(),
        }  # fmt: skip
        made.close()
    return found, parity


def report(flags: Mapping[str, Any], counters: DecodeCounters | None = None) -> int:
    """Compare the arms, print a table, write JSON where asked; 1 if their tokens are not the same."""
    found, parity = compare_arms(flags, counters)
    device, config, dtype = resolve(flags)
    on_cuda = device.type == "cuda"
    base = found[NAMES["baseline"]]
    head = f"{'arm':<28} {'launches':>9} {'kernels':>8} {'operators':>9} {'us a step':>11} {'faster':>7}"
    click.echo(
        f"{config.name} in {dtype} on {device}: batch {flags['batch']}, window {flags['window'] or 'none'}"
    )
    click.echo(f"{head}  blocks a row")
    for name, row in found.items():
        click.echo(
            f"{name:<28} {row['launches']:>9.1f} {row['kernels']:>8.1f} {row['operators']:>9.1f} "
            f"{row['step_seconds'] * 1e6:>11,.1f} {base['step_seconds'] / row['step_seconds']:>6.2f}x  "
            f"{row['blocks_visited']} of {row['cache_blocks']}"
        )
    click.echo(
        f"{parity.compared} tokens compared with the baseline's: {parity.equal} equal, {parity.near_ties} "
        f"near ties, {parity.different} different; {base['decoded_tokens']} decoded by each arm"
    )
    if not on_cuda:
        click.echo(CPU_NOTE, err=True)
    if parity.first:
        click.echo(parity.first, err=True)
    if flags["json_file"]:
        told: dict[str, Any] = {"workload": "flexdecoding", "model": config.name}
        told |= {"device": str(device), "dtype": str(dtype)}
        shape = ("batch", "window", "block", "tokens", "min_prompt", "max_prompt", "seed")
        told |= {name: flags[name] for name in shape}
        told |= {"torch": torch.__version__, "parity": asdict(parity), "arms": found}
        Path(flags["json_file"]).write_text(json.dumps(told) + "\n", "utf-8")
    return 1 if parity.different else 0


CPU_NOTE = (
    "no CUDA here: no graphs and no kernels to count, and FlexAttention runs uncompiled unless --compile is "
    "given; the times say nothing about a GPU"
)

OPTIONS = (
    click.option("--batch", type=click.IntRange(1), default=4, show_default=True, help="Requests."),
    click.option("--min-prompt", type=click.IntRange(1), default=54, show_default=True, help="Tokens."),
    click.option("--max-prompt", type=click.IntRange(1), default=256, show_default=True, help="Tokens."),
    click.option("--tokens", type=click.IntRange(1), default=16, show_default=True, help="Decoded a run."),
    click.option(
        "--context", type=click.IntRange(1), help="Places a row in the cache.  [default: what is needed]"
    ),
    click.option(
        "--window", type=click.IntRange(0), default=0, help="Sliding window, in tokens.  [default: none]"
    ),
    click.option(
        "--rest",
        type=click.Choice(["auto", "torch", "triton", "triton-pdl"]),
        default="auto",
        show_default="triton on cuda, torch on cpu",
        help="Optimized: what computes all but attention.",
    ),
    click.option(
        "--block", type=int, default=BLOCK, show_default=True, help="Tokens of a block: 16, 32, 64, 128, ..."
    ),
    click.option("--compile", is_flag=True, help="Compile FlexAttention on a CPU too; on CUDA it always is."),
    click.option("--passes", type=click.IntRange(1), default=1, show_default=True, help="Runs to decode."),
    click.option("--profiling", is_flag=True, help="Compare all arms: kernels, launches, time, tokens."),
    click.option(
        "--repeats", type=click.IntRange(1), default=9, show_default=True, help="Runs timed for it."
    ),
    click.option("--json", "json_file", type=click.Path(), help="Write what --profiling found to a file."),
)


def make_command(arm: Arm, help_text: str) -> click.Command:
    """The click command of an arm. All take the same flags, so that a comparison can give them to each."""

    def decode(**flags: Any) -> int:
        return execute(arm, flags)

    callback: Any = prom_options(decode)
    for option in reversed(OPTIONS):
        callback = option(callback)
    settings = {"max_content_width": 110}
    made: click.Command = click.command(help=help_text, context_settings=settings)(model_options(callback))
    return made


def execute(arm: Arm, flags: Mapping[str, Any]) -> int:
    """Decode with one arm, or compare all of them; under an exporter if one is asked for."""
    check_writable(json=flags["json_file"])
    _, config, _, _ = check("optimized" if flags["profiling"] else arm, flags)
    counters = DecodeCounters(config.name)
    prom = {"port": flags["prom_port"], "duration": flags["prom_duration"], "host": flags["prom_host"]}
    with exporting(Telemetry([counters]), **prom):
        if flags["profiling"]:
            return report(flags, counters)
        made = build(arm, flags, counters)
        if made.device == "cpu":
            click.echo(CPU_NOTE, err=True)
        started = time.perf_counter()
        for _ in range(flags["passes"]):
            tokens = made.decode()
        seconds = time.perf_counter() - started
        count = flags["passes"] * sum(map(len, tokens))
        click.echo(
            f"{NAMES[arm]}: {count} tokens decoded in {seconds:.3f} s, {count / seconds:,.0f} tokens/s; "
            f"{len(made.prompts)} prompts prefilled in {made.seconds_of_prefill:.3f} s"
        )
        for name, number in made.metrics().items():
            click.echo(f"  {name} {number:,.6g}")
        made.close()
    return 0


def main(arm: Arm, command: click.Command, argv: Sequence[str] | None) -> int:
    """Run an arm's command as a program."""
    code: int = run(command, argv, NAMES[arm])
    return code


def prepare(arm: Arm, command: click.Command, flags: Sequence[str]) -> FlexDecoding:
    """An arm ready to be timed, with the flags of its command."""
    return build(arm, parse(command, flags, NAMES[arm]))
