"""Two ways to poll an engine core: until a step executes nothing, and until there is no work.

`step()` returns whether the model was executed. Taking False for "done" is the mistake that the baseline
makes: engine_core.py lists when a working engine says False. Whatever is unfinished then stays so: its client
waits for ever, and the KV blocks it holds are lost to everybody else.

The right loop asks whether there are requests, and when nothing was executed it yields for a millisecond, so
that the threads on which a transfer or a compilation runs get the processor (vLLM's own busy loop does so).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from monitorgen.kernels.decode.engine_types import Clock, Engine, RealClock, StepOutputs, outputs_of

YIELD_SECONDS = 0.001
PATIENCE_SECONDS = 60.0

Hook = Callable[[], None]


@dataclass(slots=True)
class Served:
    """What a loop has brought: tokens by request, why each finished, and what it left behind.

    `before_idle` holds the tokens that had come when the first idle step with work left was seen, or at the
    end if there was none: two loops over the same engine agree on it, whatever they do afterwards.
    """

    tokens: dict[str, list[int]] = field(default_factory=dict)
    finish_reasons: dict[str, str] = field(default_factory=dict)
    reclaimed: set[str] = field(default_factory=set)
    polls: int = 0
    idle_polls: int = 0
    idle_with_work: int = 0
    seconds: float = 0.0
    stranded_requests: int = 0
    stranded_blocks: int = 0
    before_idle: dict[str, list[int]] | None = None

    def take(self, results: dict[int, StepOutputs]) -> None:
        """Add one step's outputs."""
        for output in outputs_of(results):
            self.tokens.setdefault(output.request_id, []).extend(output.new_token_ids)
            if output.finish_reason is not None:
                self.finish_reasons[output.request_id] = str(output.finish_reason)
        for per_client in results.values():
            # vLLM leaves the set out (None) where nobody asked for it.
            self.reclaimed |= per_client.finished_requests or set()

    def saw_idle(self, work_left: bool) -> None:
        """Count a step in which nothing was executed."""
        self.idle_polls += 1
        if work_left:
            self.idle_with_work += 1
            self._remember()

    def close(self, engine: Engine, seconds: float) -> Served:
        """Count what the loop leaves: requests nobody will finish, and blocks nobody will give back."""
        self.seconds = seconds
        self._remember()
        self.stranded_requests = engine.unfinished()
        self.stranded_blocks = engine.blocks_in_use()
        return self

    def _remember(self) -> None:
        if self.before_idle is None:
            self.before_idle = {name: list(tokens) for name, tokens in self.tokens.items()}


def _poll(engine: Engine, served: Served, before_poll: Hook | None) -> bool:
    if before_poll:
        before_poll()
    results, executed = engine.step()
    served.polls += 1
    served.take(results)
    return bool(executed)


def poll_until_idle(engine: Engine, clock: Clock | None = None, before_poll: Hook | None = None) -> Served:
    """The baseline: stop at the first step that executed nothing. Strands work; see the module's text."""
    clock = clock or RealClock()
    served, begin = Served(), clock.now()
    while _poll(engine, served, before_poll):
        pass
    served.saw_idle(work_left=engine.unfinished() > 0)
    return served.close(engine, clock.now() - begin)


def poll_until_done(
    engine: Engine,
    clock: Clock | None = None,
    before_poll: Hook | None = None,
    patience: float = PATIENCE_SECONDS,
) -> Served:
    """The right loop: go on while there are requests, yield when nothing was executed.

    It gives up after `patience` seconds without a step that executed, so that a transfer that never arrives
    ends as stranded requests in the report and not as a process that hangs.
    """
    clock = clock or RealClock()
    served, begin = Served(), clock.now()
    progress = begin
    while engine.has_requests() or engine.unfinished():
        if _poll(engine, served, before_poll):
            progress = clock.now()
            continue
        served.saw_idle(work_left=engine.unfinished() > 0)
        if clock.now() - progress > patience:
            break
        clock.sleep(YIELD_SECONDS)
    return served.close(engine, clock.now() - begin)
