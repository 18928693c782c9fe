"""What the arms of the speculative decoding workload share: flags, the timed run, and the command.

A timed step decodes a batch of prompts from the generated corpus, which no model was trained on, to their
ends. `plain` is our own decode loop without speculation, with graphs and the best kernels of a batch, so that
a gain over it is real. On a CPU there are neither graphs nor Triton: all arms run the same eager torch steps
there, and the workload shows that tokens are the same and what is accepted. Speed on a GPU is not measured
yet.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import click
import torch
from click.core import ParameterSource

from monitorgen.kernels import command as commands
from monitorgen.kernels.counters import DecodeCounters, SpeculationCounters
from monitorgen.kernels.decode.options import ops_option
from monitorgen.kernels.decode.weights import DTYPES
from monitorgen.kernels.export import Telemetry, Terminated, exporting, prom_options
from monitorgen.kernels.speculative.building import Arm, find_models, make_loop, watch_memory
from monitorgen.kernels.speculative.models import PAIRS
from monitorgen.kernels.speculative.parity import Parity, check_greedy
from monitorgen.kernels.speculative.settings import METHODS, settings_from
from monitorgen.kernels.speculative.speculator import Answers
from monitorgen.kernels.workload import Outcome, UsageError

HELP: Mapping[Arm, str] = {
    "plain": "Decode token by token, without speculation: the same kernels, in a CUDA graph.",
    "baseline": "Decode speculatively with torch's kernels, launched one by one.",
    "optimized_math": "Decode speculatively with torch's kernels, in two CUDA graphs.",
    "optimized": "Decode speculatively with fused kernels, in two CUDA graphs.",
}
NAMES: Mapping[Arm, str] = {
    "plain": "plain_speculative_decoding",
    "baseline": "baseline_speculative_decoding",
    "optimized_math": "optimized_speculative_decoding_math",
    "optimized": "optimized_speculative_decoding",
}

SETTINGS: tuple[Callable[..., Any], ...] = (
    click.option("--config", type=click.Path(), help="Settings of speculation in YAML; flags go over them."),
    click.option("--method", help=f"Who drafts: {', '.join(METHODS)}.  [default: draft-model]"),
    click.option("--k", type=int, help="Tokens of a draft, the most of one if adaptive.  [default: 4]"),
    click.option("--adaptive/--fixed", default=None, help="Choose k by what is accepted.  [default: fixed]"),
    click.option("--draft", help="A draft of the pair by name, or with --model a checkpoint's folder."),
    click.option("--ngram-min", type=int, help="Shortest n-gram that is looked up.  [default: 2]"),
    click.option("--ngram-max", type=int, help="Longest n-gram that is looked up.  [default: 4]"),
    click.option("--temperature", type=float, help="0 decodes greedily.  [default: 0]"),
    click.option("--top-k", type=int, help="Sample from the likeliest; 0 for all.  [default: 0]"),
    click.option("--top-p", type=float, help="Sample from a share of probability.  [default: 1]"),
)
WORK: tuple[Callable[..., Any], ...] = (
    click.option(
        "--pair",
        type=click.Choice(list(PAIRS)),
        help="Trained target and drafts.  [default: 1b on cuda, tiny on cpu]",
    ),
    click.option("--model", help="A checkpoint's folder or a random shape as target, instead of a pair."),
    click.option(
        "--models",
        type=click.Path(path_type=Path),
        help="Folder of trained weights.  [default: the user's cache]",
    ),
    click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Requests at once."),
    click.option(
        "--tokens", type=click.IntRange(1), default=64, show_default=True, help="Most of an answer."
    ),
    click.option(
        "--context", type=click.IntRange(1), help="Places of a row in the cache.  [default: as needed]"
    ),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
    click.option(
        "--dtype",
        type=click.Choice(["auto", *DTYPES]),
        default="auto",
        show_default="bf16 on cuda, fp32 on cpu",
    ),
    ops_option,
    click.option("--seed", type=int, default=0, show_default=True, help="Of models, prompts and samples."),
)


class SpeculativeRun:
    """An arm ready to be timed: a step decodes the whole batch."""

    def __init__(
        self, arm: Arm, flags: Mapping[str, Any], say: Callable[[str], Any] = lambda _: None
    ) -> None:
        torch.set_grad_enabled(False)
        self.arm, self.settings = arm, settings_from(flags)
        self.models = find_models(flags, self.settings, say)
        name = self.models.target.config.name
        self.counters, self.speculation = DecodeCounters(name), SpeculationCounters(name, self.settings.k)
        self.loop = make_loop(arm, flags, self.settings, self.models, self.counters, self.speculation)
        watch_memory(self.loop, self.counters)
        self.answers: Answers | None = None

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where it runs."""
        return "cuda" if self.loop.device.type == "cuda" else "cpu"

    @property
    def bytes_moved(self) -> float:
        """Nothing is said: it depends on what is accepted."""
        return 0.0

    @property
    def flops(self) -> float:
        """Nothing is said: it depends on what is accepted."""
        return 0.0

    def step(self) -> None:
        """Decode the batch to its end; the host follows one step behind the device."""
        self.loop.reset()
        self.answers = self.loop.run()

    def parity(self) -> Parity:
        """How the last step's tokens fare against the target's own choices."""
        assert self.answers is not None
        return check_greedy(self.models.target, self.models.prompts, self.answers.tokens)

    def outcome(self) -> Outcome:
        """The tokens in fp32. In 16 bits likely tokens may change places with the order of a sum: there it is
        that every token is within a stated margin of the target's choice. Samples are not compared."""
        assert self.answers is not None
        if self.settings.temperature:
            return Outcome(exact={"requests": len(self.answers.tokens)})
        if self.models.target.dtype.itemsize == 4:
            return Outcome(exact={"tokens": self.answers.tokens})
        return Outcome(exact={"requests": len(self.answers.tokens), "lossless": self.parity().holds})

    def metrics(self) -> Mapping[str, float]:
        """What was counted since the start, and of the last step how far tokens were from greedy."""
        found: dict[str, float] = self.counters.summary()
        if self.arm != "plain":
            found |= self.speculation.summary()
        if self.answers is not None and not self.settings.temperature:
            parity = self.parity()
            found |= {"tokens_not_first": parity.not_first, "largest_margin_logits": parity.largest_margin}
        return found

    def close(self) -> None:
        """Free graphs and what the loop holds."""
        self.loop.close()
        if self.device == "cuda":
            torch.cuda.empty_cache()


def make_command(arm: Arm) -> click.Command:
    """The click command of an arm."""

    def decode(context: click.Context, /, **flags: Any) -> int:
        port, duration = flags["prom_port"], flags["prom_duration"]
        if duration and port is None:
            raise UsageError(f"--prom-duration {duration:g} needs --prom-port")
        if port is not None and context.get_parameter_source("prom_duration") is ParameterSource.DEFAULT:
            duration = math.inf
        page = Telemetry()
        # The port is taken before the models are made: that may take long, and a port in use is said at once.
        with exporting(page, port=port, host=flags["prom_host"]):
            run = SpeculativeRun(arm, flags, lambda line: click.echo(line, err=True))
            page.decode, page.speculation = (run.counters,), () if arm == "plain" else (run.speculation,)
            try:
                for line in report(run, flags["repeats"]):
                    click.echo(line)
                _go_on(run, duration, flags["rate"])
            finally:
                run.close()
        return 0

    callback: Any = prom_options(click.pass_context(decode))
    rate = click.option(
        "--rate",
        type=click.FloatRange(min=0),
        default=2.0,
        show_default=True,
        help="Batches a second while metrics are served; 0 decodes without a pause.",
    )
    repeats = click.option(
        "--repeats", type=click.IntRange(1), default=3, show_default=True, help="Runs timed."
    )
    for option in reversed((*SETTINGS, *WORK, repeats, rate)):
        callback = option(callback)
    made: click.Command = click.command(help=HELP[arm], context_settings={"max_content_width": 110})(callback)
    return made


def timed(run: SpeculativeRun, repeats: int) -> float:
    """Seconds of a step: the least of several, after one that does not count."""
    run.step()
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        run.step()  # ends with the tokens on the host
        found.append(time.perf_counter() - started)
    return min(found)


def report(run: SpeculativeRun, repeats: int) -> list[str]:
    """What a person reads of a run."""
    seconds = timed(run, repeats)
    assert run.answers is not None
    tokens = sum(map(len, run.answers.tokens)) - len(run.answers.tokens)  # the first ones are the prefill's
    how = "" if run.arm == "plain" else f" ({run.settings})"
    requests = len(run.answers.tokens)
    lines = [f"{run.arm}{how}: {tokens / seconds:,.0f} tokens/s, {tokens} tokens of {requests} requests"]
    if run.arm != "plain":
        said = run.speculation.summary()
        lines.append(
            f"{said['acceptance_rate']:.1%} of {said['draft_tokens']:,.0f} draft tokens accepted, "
            f"{said['mean_accepted_length']:.2f} tokens a draft and step"
        )
    if not run.settings.temperature:
        lines.append(str(run.parity()))
    return lines


def _go_on(run: SpeculativeRun, duration: float, rate: float) -> None:
    """Decode the batch again and again while metrics are served, `rate` times a second at most."""
    if not duration:
        return
    span = "until SIGTERM" if math.isinf(duration) else f"for {duration:g} s more"
    click.echo(f"decoding goes on {span}", err=True)
    due = time.monotonic()
    end = due + duration
    try:
        while due < end:
            run.step()
            due = max(due + 1 / rate, time.monotonic()) if rate else time.monotonic()
            pause = min(due, end) - time.monotonic()
            if pause > 0:
                threading.Event().wait(pause)
    except (Terminated, KeyboardInterrupt):
        click.echo("ended by request", err=True)


def main(arm: Arm, command: click.Command, argv: Sequence[str] | None) -> int:
    """Run an arm's command as a program; its exit code."""
    return int(commands.run(command, argv, NAMES[arm]))


def prepare(arm: Arm, command: click.Command, flags: Sequence[str]) -> SpeculativeRun:
    """An arm ready to be timed, with the flags of its command. Raises UsageError."""
    values = commands.parse(command, flags, NAMES[arm])
    return SpeculativeRun(arm, values)
