"""Ragged traces: how many requests decode at each step, and which requests come and go to make it so."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from monitorgen.kernels.workload import UsageError


def random_sizes(steps: int, low: int, high: int, seed: int) -> list[int]:
    """A walk of batch sizes from low to high: up to three requests come or go a step, half of the time none.

    Raises UsageError for bounds that leave nothing.
    """
    if steps < 1 or not 1 <= low <= high:
        raise UsageError(
            f"a trace of {steps} steps from {low} to {high}: steps and sizes must be 1 or more, in order"
        )
    draw = random.Random(seed)
    size, sizes = draw.randint(low, high), []
    for _ in range(steps):
        sizes.append(size)
        if draw.random() < 0.5:
            size = min(high, max(low, size + draw.choice((-3, -2, -1, 1, 2, 3))))
    return sizes


def read_sizes(path: Path) -> list[int]:
    """Batch sizes from a file: a JSON list, or numbers separated by spaces, commas or lines; # comments.

    Such a list is what an engine's log of running requests gives, one number a step. Raises UsageError with
    what is wrong.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--trace {path}: {getattr(error, 'strerror', None) or error}") from None
    if text.lstrip().startswith("["):
        try:
            found = json.loads(text)
        except ValueError as error:
            raise UsageError(f"--trace {path}: {error}") from None
    else:
        found = re.split(r"[\s,]+", re.sub(r"#.*", "", text).strip())
    sizes = []
    for at, item in enumerate(found, start=1):
        if isinstance(item, bool) or not re.fullmatch(r"[0-9]+", str(item)) or int(item) < 1:
            raise UsageError(f"--trace {path}: number {at} is {item!r}; batch sizes are whole numbers from 1")
        sizes.append(int(item))
    if not sizes:
        raise UsageError(f"--trace {path} holds no batch sizes")
    return sizes


@dataclass(frozen=True, slots=True)
class Step:
    """What happens before a decode step, and the requests that it decodes, in the order of the batch."""

    finished: tuple[int, ...]
    admitted: tuple[int, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A trace with its requests: `prompts` by request, `context` tokens at most in one of them."""

    steps: tuple[Step, ...]
    prompts: tuple[tuple[int, ...], ...]
    context: int

    @property
    def largest(self) -> int:
        """Requests in the largest batch."""
        return max(len(step.rows) for step in self.steps)

    def lengths(self) -> list[list[int]]:
        """For each step, the tokens that each of its rows has in the cache before it."""
        held = {request: len(prompt) for request, prompt in enumerate(self.prompts)}
        out = []
        for step in self.steps:
            out.append([held[request] for request in step.rows])
            for request in step.rows:
                held[request] += 1
        return out


def plan_requests(
    sizes: Sequence[int], *, vocab: int, prompt: tuple[int, int], longest: int, seed: int
) -> Plan:
    """Requests that make a trace's batch sizes.

    When the batch shrinks, requests drawn from it finish, so that holes open anywhere; when it grows, new
    ones with random prompts of `prompt` = (least, most) tokens join. One that reaches `longest` tokens
    finishes and another takes its place. Raises UsageError if prompts do not fit.
    """
    low, high = prompt
    if not 1 <= low <= high < longest:
        raise UsageError(f"prompts of {low} to {high} tokens do not fit a context of {longest}")
    draw = random.Random(seed + 1)
    prompts: list[tuple[int, ...]] = []
    held: dict[int, int] = {}  # request -> tokens, in the order of the batch
    steps, context = [], 0
    for size in sizes:
        finished = [request for request, tokens in held.items() if tokens >= longest]
        staying = [request for request in held if held[request] < longest]
        finished += draw.sample(staying, max(0, len(staying) - size))
        for request in finished:
            del held[request]
        admitted = range(len(prompts), len(prompts) + size - len(held))
        for request in admitted:
            prompts.append(tuple(draw.randrange(vocab) for _ in range(draw.randint(low, high))))
            held[request] = len(prompts[request])
        steps.append(Step(tuple(finished), tuple(admitted), tuple(held)))
        for request in held:
            held[request] += 1
        context = max(context, *held.values())
    return Plan(tuple(steps), tuple(prompts), context)
