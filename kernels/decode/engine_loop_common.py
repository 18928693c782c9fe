"""The V1 engine loop workload: the same requests through the same engine, polled in two ways.

Both arms see the same outputs up to the first idle step; that is what they must agree on. After it the
baseline has stopped, so its time is not the time of the same work: compare what was answered, and what was
stranded, not seconds.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import click

from monitorgen.kernels import command as commands
from monitorgen.kernels.decode import vllm_engine
from monitorgen.kernels.decode.engine_core import ArithmeticExecutor, EngineCore
from monitorgen.kernels.decode.engine_types import (
    Clock,
    Engine,
    EngineConfig,
    EngineRequest,
    Gate,
    RealClock,
    VirtualClock,
)
from monitorgen.kernels.decode.polling import Served, poll_until_done, poll_until_idle
from monitorgen.kernels.workload import Outcome, UsageError

# What a real engine has no use for without a KV connector, and what makes it idle instead.
WITH_VLLM: Mapping[str, int] = {"remote": 0, "pause_after": 8}

Loop = Literal["baseline", "v1"]
LOOPS: Mapping[Loop, Callable[..., Served]] = {"baseline": poll_until_idle, "v1": poll_until_done}
SAYS = {
    "baseline": "polls until a step executes nothing",
    "v1": "polls while there are requests, yields 1 ms on an idle step",
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """The requests and the engine: seeded, so that both arms get the same.

    `remote` and `grammar` requests of `requests` wait for another machine's KV (`wait_ms`) or for a grammar;
    after `pause_after` polls the scheduler is paused for `pause_ms` with its requests kept (0: never).
    """

    requests: int = 12
    remote: int = 3
    grammar: int = 0
    max_tokens: int = 16
    prompt_tokens: int = 40
    wait_ms: float = 400.0
    pause_after: int = 0
    pause_ms: float = 50.0
    max_num_seqs: int = 4
    num_blocks: int = 129
    block_size: int = 16
    max_model_len: int = 512
    max_num_batched_tokens: int = 256
    async_scheduling: bool = True
    step_ms: float = 20.0
    seed: int = 20

    def __post_init__(self) -> None:
        if self.requests < 1:
            raise UsageError(f"--requests {self.requests}: give 1 or more")
        if min(self.remote, self.grammar) < 0 or self.remote + self.grammar > self.requests:
            raise UsageError(
                f"--remote {self.remote}, --grammar {self.grammar}: not within --requests {self.requests}"
            )
        if not 0 < self.prompt_tokens < self.max_model_len:
            raise UsageError(
                f"--prompt-tokens {self.prompt_tokens} does not fit --max-model-len {self.max_model_len}"
            )

    def make_requests(self, clock: Clock, vocabulary: int) -> list[EngineRequest]:
        """Prompts of random length up to `prompt_tokens`; those that wait are spread evenly among them."""
        dice = random.Random(self.seed)
        kinds: list[Literal["remote_kv", "grammar", ""]] = [""] * self.requests
        waiting: list[Literal["remote_kv", "grammar", ""]] = ["remote_kv"] * self.remote
        waiting += ["grammar"] * self.grammar
        for order, gated in enumerate(waiting):
            kinds[order * self.requests // len(waiting)] = gated
        made = []
        for index, kind in enumerate(kinds):
            length = dice.randint(max(1, self.prompt_tokens // 2), self.prompt_tokens)
            prompt = tuple(dice.randrange(vocabulary) for _ in range(length))
            gate = Gate(kind, self.wait_ms / 1000, clock) if kind else None
            made.append(EngineRequest(f"request-{index}", prompt, self.max_tokens, gate=gate))
        return made


class Operator:
    """Pauses an engine after so many polls and resumes it after a while, as when weights are exchanged."""

    def __init__(self, engine: Engine, clock: Clock, after: int, seconds: float) -> None:
        self._engine, self._clock, self._after, self._seconds = engine, clock, after, seconds
        self._polls = 0
        self._resume_at: float | None = None

    def before_poll(self) -> None:
        """Called before each poll; does its two things at their time."""
        self._polls += 1
        if self._after and self._polls == self._after:
            self._engine.pause()
            self._resume_at = self._clock.now() + self._seconds
        elif self._resume_at is not None and self._clock.now() >= self._resume_at:
            self.resume()

    def resume(self) -> None:
        """End the pause, if there is one."""
        if self._resume_at is not None:
            self._engine.resume()
            self._resume_at = None


def our_engine(scenario: Scenario, clock: Clock) -> tuple[EngineCore, ArithmeticExecutor]:
    """Our engine core with the scenario's sizes, on an executor whose steps cost `step_ms` of the clock."""
    config = EngineConfig(
        num_blocks=scenario.num_blocks,
        block_size=scenario.block_size,
        max_num_seqs=scenario.max_num_seqs,
        max_num_batched_tokens=scenario.max_num_batched_tokens,
        max_model_len=scenario.max_model_len,
        async_scheduling=scenario.async_scheduling,
    )
    executor = ArithmeticExecutor(clock, scenario.step_ms / 1000)
    return EngineCore(config, executor), executor


def drive(engine: Engine, loop: Loop, scenario: Scenario, clock: Clock, vocabulary: int) -> Served:
    """Give the engine all requests, poll it with one of the loops, and count what is left behind.

    A pause is ended before counting: what is stranded then is stranded because nobody polls any more.
    """
    for request in scenario.make_requests(clock, vocabulary):
        engine.add_request(request)
    operator = Operator(engine, clock, scenario.pause_after, scenario.pause_ms / 1000)
    served = LOOPS[loop](engine, clock, operator.before_poll)
    operator.resume()
    return served


def results(served: Served, loop: Loop, requests: int) -> dict[str, Any]:
    """A loop's numbers under names with units, for JSON and for the table."""
    return {
        "loop": loop,
        "requests": requests,
        "answered": len(served.finish_reasons),
        "tokens": sum(map(len, served.tokens.values())),
        "stranded_requests": served.stranded_requests,
        "stranded_kv_blocks": served.stranded_blocks,
        "kv_reclaimed_of_requests": len(served.reclaimed),
        "polls": served.polls,
        "idle_polls": served.idle_polls,
        "idle_polls_with_work_left": served.idle_with_work,
        "seconds": served.seconds,
    }


class LoopRun:
    """An arm ready to be timed, on our engine with real time: a step drains the scenario once.

    Steps cost no model time here (`step_ms` 0 unless given), so what is timed is scheduling and polling.
    """

    def __init__(self, loop: Loop, scenario: Scenario) -> None:
        self._loop, self._scenario = loop, scenario
        self._served: Served | None = None
        self._held = 0

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Scheduling runs on the CPU."""
        return "cpu"

    @property
    def bytes_moved(self) -> float:
        """Nothing is said: no model runs."""
        return 0.0

    @property
    def flops(self) -> float:
        """Nothing is said: no model runs."""
        return 0.0

    def step(self) -> None:
        """A new engine, all requests, one loop over them, in simulated time."""
        clock = VirtualClock()
        engine, executor = our_engine(self._scenario, clock)
        self._served = drive(engine, self._loop, self._scenario, clock, 32000)
        self._held = executor.held

    def outcome(self) -> Outcome:
        """The tokens that had come when the first idle step with work left was seen."""
        assert self._served is not None
        assert self._served.before_idle is not None
        return Outcome(exact={"tokens before the first idle step": self._served.before_idle})

    def metrics(self) -> Mapping[str, float]:
        """Answered and stranded requests, stranded KV blocks, worker states left, simulated seconds."""
        if self._served is None:
            return {}
        numbers = results(self._served, self._loop, self._scenario.requests)
        numbers["simulated_seconds"] = numbers.pop("seconds")
        numbers["worker_states_left"] = self._held
        return {name: float(number) for name, number in numbers.items() if name != "loop"}

    def close(self) -> None:
        """Forget the last result."""
        self._served = None


def _run_ours(loops: Sequence[Loop], scenario: Scenario) -> list[dict[str, Any]]:
    made = []
    for loop in loops:
        clock = VirtualClock()
        engine, executor = our_engine(scenario, clock)
        served = drive(engine, loop, scenario, clock, 32000)
        made.append(results(served, loop, scenario.requests) | {"worker_states_left": executor.held})
    return made


def _run_vllm(
    loops: Sequence[Loop], scenario: Scenario, model: str, enforce_eager: bool
) -> tuple[list[dict[str, Any]], bool]:
    """Both loops on one engine core, whose start takes long: what the baseline strands is aborted between."""
    sizes = vllm_engine.VllmSizes(
        max_num_seqs=scenario.max_num_seqs,
        max_model_len=scenario.max_model_len,
        num_blocks=scenario.num_blocks,
        async_scheduling=scenario.async_scheduling,
        enforce_eager=enforce_eager,
    )
    engine = vllm_engine.VllmEngine(vllm_engine.model_folder(model), sizes)
    try:
        made = []
        for loop in loops:
            served = drive(engine, loop, scenario, RealClock(), engine.vocabulary)
            made.append(results(served, loop, scenario.requests))
            engine.abort_all()
        return made, engine.async_scheduling
    finally:
        engine.close()


def _print(engine: str, made: Sequence[Mapping[str, Any]]) -> None:
    click.echo(engine)
    for row in made:
        click.echo(
            f"  {row['loop']:<8} {SAYS[row['loop']]}: answered {row['answered']} of {row['requests']}, "
            f"stranded {row['stranded_requests']} requests and {row['stranded_kv_blocks']} KV blocks "
            f"({row['polls']} polls, {row['idle_polls_with_work_left']} idle with work left)"
        )


def options(function: Callable[..., int]) -> Callable[..., int]:
    """The scenario's options; defaults are the fields' own."""
    helps = {
        "requests": "Requests in all.",
        "remote": "Of these, how many wait for KV from another machine (our engine only; there 3).",
        "grammar": "Of these, how many wait for a grammar (structured output).",
        "max_tokens": "Tokens to decode for each request.",
        "prompt_tokens": "Longest prompt.",
        "wait_ms": "How long remote KV and, with our engine, a grammar takes.",
        "pause_after": "Pause the scheduler after so many polls, requests kept; 0 never (with vLLM 8).",
        "pause_ms": "How long the pause lasts.",
        "max_num_seqs": "Requests that run at once.",
        "num_blocks": "KV blocks, the null block included.",
        "block_size": "Tokens of a KV block (our engine only).",
        "max_model_len": "Longest sequence.",
        "max_num_batched_tokens": "Token budget of a step (our engine only).",
        "step_ms": "Simulated time of a step (our engine only).",
        "seed": "Seed of the prompts.",
    }
    defaults: dict[str, Any] = asdict(Scenario())
    for name, text in reversed(helps.items()):
        flag, kind = "--" + name.replace("_", "-"), type(defaults[name])
        by_engine = name in WITH_VLLM  # chosen when the engine is known
        function = click.option(
            flag,
            name,
            type=kind,
            default=None if by_engine else defaults[name],
            show_default=not by_engine,
            help=text,
        )(function)
    return click.option(
        "--async-scheduling/--no-async-scheduling",
        default=defaults["async_scheduling"],
        show_default=True,
        help="Schedule the next batch while one runs, as vLLM does on a GPU.",
    )(function)


def scenario_of(values: Mapping[str, Any], with_vllm: bool) -> Scenario:
    """The scenario of flags, of which some have a default that depends on the engine. Raises UsageError."""
    given = {name: value for name, value in values.items() if value is not None}
    if with_vllm and given.get("remote"):
        raise UsageError("--remote needs a KV connector, which vLLM is not started with here: use our engine")
    return Scenario(**{**(WITH_VLLM if with_vllm else {}), **given})


def build(default_loop: Loop) -> click.Command:
    """The command of an arm: its loop is the default of `--mode`."""

    @click.command(help=f"Poll a V1 engine core. By default: {SAYS[default_loop]}.")
    @click.option(
        "--mode", type=click.Choice(["baseline", "v1", "both"]), default=default_loop, show_default=True
    )
    @click.option("--engine", type=click.Choice(["auto", "ours", "vllm"]), default="ours", show_default=True)
    @click.option("--model", help="Model folder or Hugging Face name for vLLM.")
    @click.option(
        "--enforce-eager", is_flag=True, help="vLLM compiles and captures nothing: it starts sooner."
    )
    @click.option(
        "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write results here."
    )
    @options
    def main(
        mode: str,
        engine: str,
        model: str | None,
        enforce_eager: bool,
        json_file: Path | None,
        **sizes: Any,
    ) -> int:
        loops: tuple[Loop, ...] = ("baseline", "v1") if mode == "both" else (mode,)  # type: ignore[assignment]
        use_vllm = engine == "vllm" or (engine == "auto" and model is not None)
        if use_vllm and not vllm_engine.installed():
            if engine == "vllm":
                raise UsageError("--engine vllm: vLLM is not installed; `--engine ours` needs nothing")
            click.echo("vLLM is not installed: falling back to our own scheduler", err=True)
            use_vllm = False
        if use_vllm and model is None:
            raise UsageError("--engine vllm needs --model")
        scenario = scenario_of(sizes, use_vllm)
        if use_vllm:
            assert model is not None
            made, overlapped = _run_vllm(loops, scenario, model, enforce_eager)
            name = f"vLLM EngineCore, async scheduling {'on' if overlapped else 'off'}"
        else:
            made, name = _run_ours(loops, scenario), "our scheduler, simulated time"
        _print(name, made)
        if json_file:
            document = {"engine": name, "scenario": asdict(scenario), "loops": made}
            json_file.write_text(json.dumps(document, indent=2) + "\n")
        right = [row for row in made if row["loop"] == "v1"]
        return 1 if any(row["stranded_requests"] for row in right) else 0

    return main


def prepare(default_loop: Loop, flags: Sequence[str]) -> LoopRun:
    """An arm ready to be timed. Raises UsageError for flags that it does not take, or for vLLM."""
    values = commands.parse(build(default_loop), flags, f"{default_loop}_v1_engine_loop")
    if values.pop("mode") == "both":
        raise UsageError("--mode both runs two arms; a timed run is one of them")
    if values.pop("engine") != "ours" or values.pop("model"):
        raise UsageError("timed runs use our scheduler; run the module itself for vLLM")
    values.pop("json_file")
    values.pop("enforce_eager")  # of no meaning for our engine
    return LoopRun(default_loop, scenario_of(values, with_vllm=False))


def run(default_loop: Loop, argv: Sequence[str] | None, name: str) -> int:
    """Run an arm as a program; its exit code."""
    return int(commands.run(build(default_loop), argv, name))


if __name__ == "__main__":
    sys.exit(run("v1", None, "v1_engine_loop"))
