"""Load on a served model: an open loop of streamed requests, bounded in number, time and concurrency.

Arrivals are planned beforehand (seeded, so a plan is repeatable) and sent when their time has come, whether
or not earlier ones were answered: like users, and unlike clients that wait. Only loopback is ever called.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from monitorgen.errors import InputError
from monitorgen.prove.client import Arrival, Kind, Outcome, Wires, loopback_address, send
from monitorgen.prove.pulse import Beat, Pulse

__all__ = ["Arrival", "LoadPlan", "LoadReport", "Outcome", "loopback_address", "run_load", "send"]
WORDS = (
    "the",
    "queue",
    "drains",
    "when",
    "tokens",
    "come",
    "fast",
    "and",
    "a",
    "cache",
    "block",
    "is",
    "free",
)


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What to send. Rates are requests per second, lengths are tokens (a byte each), shares are 0 to 1.

    Of the requests, `chat_share` go to the chat endpoint, `disconnect_share` hang up early and
    `invalid_share` are refused by the server (half with HTTP 400, half with 404). A burst of `burst_size`
    requests comes at once every `burst_every` seconds. Requests beyond `max_in_flight` are counted as
    dropped, not queued here: so a high rate keeps that many in flight, however fast the server is.
    With `ignore_eos` every answer has its full length. What is unanswered `drain` seconds after the end is
    cut off. With `pulse`, the server is asked a small question every so many seconds, which tells how late
    clients learn of things.
    """

    seconds: float = 120.0
    rate: float = 3.0
    burst_every: float = 20.0
    burst_size: int = 8
    prompt_tokens: tuple[int, ...] = (16, 60, 180, 420, 700)
    max_tokens: tuple[int, ...] = (4, 16, 40, 90)
    shared_prefix_share: float = 0.4
    shared_prefix_tokens: int = 192
    chat_share: float = 0.3
    disconnect_share: float = 0.05
    invalid_share: float = 0.06
    temperature: float = 0.0
    chat_temperature: float = 0.7
    ignore_eos: bool = False
    max_in_flight: int = 32
    max_requests: int = 5000
    request_timeout: float = 60.0
    drain: float = 60.0
    pulse: float = 0.0
    model: str = "tiny"
    seed: int = 7

    def __post_init__(self) -> None:
        if not (0 < self.seconds <= 3600 and 0 < self.rate <= 1000 and 0 < self.max_in_flight <= 512):
            raise InputError("a load lasts up to an hour, at up to 1000 requests/s with up to 512 in flight")

    def arrivals(self) -> tuple[Arrival, ...]:
        """The requests in the order of their times; the same plan gives the same requests."""
        dice = random.Random(self.seed)
        times: list[float] = []
        at = dice.expovariate(self.rate)
        while at < self.seconds and len(times) < self.max_requests:
            times.append(at)
            at += dice.expovariate(self.rate)
        burst = self.burst_every
        while 0 < burst < self.seconds and len(times) < self.max_requests:
            times.extend([burst] * self.burst_size)
            burst += self.burst_every
        return tuple(self._arrival(at, dice) for at in sorted(times)[: self.max_requests])

    def _arrival(self, at: float, dice: random.Random) -> Arrival:
        kinds: dict[Kind, float] = {
            "disconnect": self.disconnect_share,
            "bad_request": self.invalid_share / 2,
            "unknown_model": self.invalid_share / 2,
            "chat": self.chat_share,
        }
        kinds["completion"] = max(0.0, 1.0 - sum(kinds.values()))
        kind = dice.choices(list(kinds), weights=list(kinds.values()))[0]
        length = dice.choice(self.prompt_tokens)
        prompt = _text(dice, length)
        if dice.random() < self.shared_prefix_share:
            prefix = _text(random.Random(self.seed), self.shared_prefix_tokens)
            prompt = (prefix + prompt)[: max(length, self.shared_prefix_tokens + 8)]
        tokens = max(self.max_tokens) if kind == "disconnect" else dice.choice(self.max_tokens)
        temperature = self.chat_temperature if kind == "chat" else self.temperature
        return Arrival(at, kind, prompt, tokens, temperature, self.ignore_eos)


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a client saw of the whole load."""

    outcomes: tuple[Outcome, ...]
    dropped: int
    seconds: float
    beats: tuple[Beat, ...] = ()

    @property
    def statuses(self) -> Mapping[int, int]:
        """How often each HTTP status came."""
        return dict(sorted(Counter(outcome.status for outcome in self.outcomes).items()))

    @property
    def kinds(self) -> Mapping[str, int]:
        """How many requests of each kind were sent."""
        return dict(sorted(Counter(outcome.kind for outcome in self.outcomes).items()))

    @property
    def errors(self) -> tuple[str, ...]:
        """The requests without any answer, each with its reason."""
        return tuple(outcome.error for outcome in self.outcomes if outcome.error)

    def ttft(self, quantile: float) -> float:
        """A quantile of the time to the first token, in seconds; NaN where none came."""
        return _quantile((o.ttft for o in self.outcomes if o.ttft is not None), quantile)

    def e2e(self, quantile: float) -> float:
        """A quantile of the time to the last token, in seconds, over requests that were read to their end."""
        done = (o.total for o in self.outcomes if o.ttft is not None and o.kind != "disconnect")
        return _quantile(done, quantile)

    def __str__(self) -> str:
        answers = ", ".join(f"{count} x {status or 'none'}" for status, count in self.statuses.items())
        return (
            f"{len(self.outcomes)} requests in {self.seconds:.0f} s (HTTP {answers}; "
            f"{self.dropped} dropped), "
            f"TTFT p50 {self.ttft(0.5) * 1000:.0f} ms, p90 {self.ttft(0.9) * 1000:.0f} ms, "
            f"e2e p90 {self.e2e(0.9):.2f} s"
        )


def run_load(
    url: str,
    plan: LoadPlan,
    *,
    stop: threading.Event | None = None,
    progress: Callable[[float], None] | None = None,
) -> LoadReport:
    """Send the plan's requests to a server on loopback and wait for their answers.

    `progress` is told the seconds that have passed. `stop` ends it all within a second: what is not answered
    by then is cut off, like what is still unanswered `drain` seconds after the plan's end.
    Raises `InputError` for an address that is not loopback.
    """
    address = loopback_address(url)
    halt = stop or threading.Event()
    gate = threading.BoundedSemaphore(plan.max_in_flight)
    futures: list[Future[Outcome]] = []
    wires = Wires()
    dropped = 0
    start = time.monotonic()
    with (
        Pulse(address, plan.pulse) as pulse,
        ThreadPoolExecutor(plan.max_in_flight, thread_name_prefix="load") as pool,
    ):
        try:
            for arrival in plan.arrivals():
                if halt.wait(max(0.0, start + arrival.at - time.monotonic())):
                    break
                if progress:
                    progress(time.monotonic() - start)
                if not gate.acquire(blocking=False):
                    dropped += 1
                    continue
                future = pool.submit(send, address, arrival, plan.model, plan.request_timeout, wires)
                future.add_done_callback(lambda _: gate.release())
                futures.append(future)
            halt.wait(max(0.0, start + plan.seconds - time.monotonic()))
            _await_all(futures, plan.drain, halt)
        finally:  # whatever ended the load, nobody waits for answers any more
            wires.cut()
    outcomes = tuple(future.result() for future in futures)
    return LoadReport(outcomes, dropped, time.monotonic() - start, tuple(pulse.beats))


def _await_all(futures: Sequence[Future[Outcome]], seconds: float, halt: threading.Event) -> None:
    """Wait until all requests are answered, `seconds` have passed, or the load is halted."""
    deadline = time.monotonic() + seconds
    pending = set(futures)
    while pending and not halt.is_set() and time.monotonic() < deadline:
        _, pending = wait(pending, timeout=0.1)


def _text(dice: random.Random, length: int) -> str:
    """Words of exactly `length` bytes."""
    text = ""
    while len(text) < length:
        text += dice.choice(WORDS) + " "
    return text[:length]


def _quantile(values: Iterable[float], quantile: float) -> float:
    ordered = sorted(values)
    if len(ordered) < 2:
        return ordered[0] if ordered else float("nan")
    return statistics.quantiles(ordered, n=100, method="inclusive")[round(quantile * 100) - 1]
