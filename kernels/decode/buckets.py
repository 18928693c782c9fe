"""Which batch sizes to capture graphs for: what a set of buckets costs on a trace, and the best set there is.

A step of n requests replays the graph of the smallest bucket that holds n, its other rows padding; a step
larger than every bucket runs without a graph. That is vLLM's rule, and a cost is the sum over a trace:

    sum over steps of (replay(bucket) or eager(n))  +  sum over buckets of capture(bucket)

`best_buckets` minimises exactly this by dynamic programming over the bucket that comes before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from monitorgen.kernels.workload import UsageError

Seconds = Callable[[int], float]

VLLM_CEILING = 512
"""The largest size vLLM captures unless told otherwise; 1,024 on data-centre Blackwell and for gpt-oss."""


def vllm_sizes(
    max_num_seqs: int = 1024, max_num_batched_tokens: int = 8192, ceiling: int | None = None
) -> list[int]:
    """The sizes vLLM 0.32 captures for a model that decodes one token a step, ascending.

    1, 2, 4, then by 8 below 256, then by 16, up to twice `max_num_seqs`, to `max_num_batched_tokens` and to
    the ceiling; the two limits themselves are captured if they lie below it. `ceiling` replaces vLLM's own
    rule for the largest size, as a model's configuration may. Source: `VllmConfig._set_cudagraph_sizes`.
    """
    top = min(max_num_seqs * 2, VLLM_CEILING) if ceiling is None else ceiling
    top = min(top, max_num_batched_tokens)
    sizes = {size for size in (1, 2, 4) if size <= top}
    sizes |= set(range(8, min(top + 1, 256), 8)) | set(range(256, top + 1, 16))
    if max_num_batched_tokens <= top:
        sizes.add(max_num_batched_tokens)
    if ceiling is None and max_num_seqs <= top:
        sizes.add(max_num_seqs)
    return sorted(sizes)


def checked_sizes(sizes: Iterable[int]) -> tuple[int, ...]:
    """Bucket sizes ascending and once each. Raises UsageError for none, or for one below 1."""
    unique = sorted(set(sizes))
    if not unique:
        raise UsageError("no bucket size is given: give one or more, as in 1,2,4,8")
    if unique[0] < 1:
        raise UsageError(f"bucket size {unique[0]} is impossible: a batch has 1 row or more")
    return tuple(unique)


def bucket_of(size: int, buckets: Sequence[int]) -> int | None:
    """The smallest bucket that holds `size` rows, None if it is larger than all. Buckets ascend."""
    index = bisect_left(buckets, size)
    return buckets[index] if index < len(buckets) else None


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds and bytes by batch size: of a replay, a capture, a step without a graph; what a graph holds.

    `eager` is None where it is not known: then every step has to find a bucket.
    """

    replay: Seconds
    capture: Seconds
    eager: Seconds | None = None
    graph_bytes: Seconds = lambda size: 0.0


@dataclass(frozen=True, slots=True)
class Bill:
    """What a set of buckets costs on a trace."""

    buckets: tuple[int, ...]
    steps: int
    rows: int
    padding_rows: int
    replays: Mapping[int, int]
    eager_steps: int
    step_seconds: float
    capture_seconds: float
    graph_bytes: float

    @property
    def seconds(self) -> float:
        """Steps and captures together: what `best_buckets` minimises."""
        return self.step_seconds + self.capture_seconds

    @property
    def padding_share(self) -> float:
        """Share of the computed rows that are padding."""
        computed = self.rows + self.padding_rows
        return self.padding_rows / computed if computed else 0.0


def bill(trace: Iterable[int], buckets: Sequence[int], costs: Costs) -> Bill:
    """Price a trace of batch sizes. Raises UsageError if a step finds no bucket and eager has no price."""
    buckets = tuple(sorted(set(buckets)))
    replays: Counter[int] = Counter()
    rows = padding = eager_steps = 0
    seconds = 0.0
    for size, count in sorted(Counter(trace).items()):
        bucket = bucket_of(size, buckets)
        rows += size * count
        if bucket is None:
            seconds += count * _eager(costs, size)
            eager_steps += count
        else:
            replays[bucket] += count
            padding += (bucket - size) * count
            seconds += count * costs.replay(bucket)
    return Bill(
        buckets=buckets,
        steps=sum(replays.values()) + eager_steps,
        rows=rows,
        padding_rows=padding,
        replays=dict(replays),
        eager_steps=eager_steps,
        step_seconds=seconds,
        capture_seconds=sum(costs.capture(bucket) for bucket in buckets),
        graph_bytes=sum(costs.graph_bytes(bucket) for bucket in buckets),
    )


def _eager(costs: Costs, size: int) -> float:
    if costs.eager is None:
        raise UsageError(
            f"a step of {size} requests is larger than every bucket, and the calibration has no eager times: "
            f"give a bucket of {size} or more"
        )
    return costs.eager(size)


def best_buckets(
    trace: Iterable[int], costs: Costs, most: int | None = None, candidates: Iterable[int] | None = None
) -> tuple[int, ...]:
    """The set of buckets with the least cost on a trace, at most `most` of them; exact for the cost model.

    Candidates are all sizes from 1 to the largest in the trace unless given: where replay times are measured
    a larger bucket may be cheaper than a smaller one, so the sizes that occur are not enough. Takes time in
    proportion to the candidates squared, times `most` if given.
    """
    counts = Counter(trace)
    if not counts:
        raise UsageError("the trace is empty: nothing to choose buckets for")
    if most is not None and most < 1:
        raise UsageError(f"at most {most} buckets is impossible: give 1 or more")
    sizes = checked_sizes(range(1, max(counts) + 1) if candidates is None else candidates)
    # steps_to[i]: steps of at most sizes[i - 1] requests, so that a bucket's steps are a difference.
    steps_to = [0] + [sum(n for size, n in counts.items() if size <= top) for top in sizes]
    rest = [_steps_beyond(counts, 0, costs)] + [_steps_beyond(counts, top, costs) for top in sizes]
    prices = [(costs.replay(size), costs.capture(size)) for size in sizes]
    # cost[i]: least cost of all steps up to sizes[i - 1] with that as the largest bucket.
    cost: list[float] = [0.0] + [float("inf")] * len(sizes)
    chains: list[tuple[int, ...]] = [()] * (len(sizes) + 1)
    best: float = rest[0]
    chosen: tuple[int, ...] = ()
    # Without a limit one round does: a set is extended in the round that found it. With one, each round adds
    # exactly one bucket to the sets of the round before.
    for _ in range(1 if most is None else min(most, len(sizes))):
        cost, chains = _add_bucket(cost, chains, sizes, steps_to, prices, within=most is None)
        for index in range(1, len(sizes) + 1):
            if cost[index] + rest[index] < best:
                best, chosen = cost[index] + rest[index], chains[index]
    if best == float("inf"):
        raise UsageError(
            f"no candidate holds the largest step of {max(counts)} requests, and the calibration has no "
            "eager times"
        )
    return chosen


def _add_bucket(
    cost: list[float],
    chains: list[tuple[int, ...]],
    sizes: Sequence[int],
    steps_to: Sequence[int],
    prices: Sequence[tuple[float, float]],
    within: bool,
) -> tuple[list[float], list[tuple[int, ...]]]:
    """Best sets by their largest bucket, each one a set of `cost` with a bucket more, or of this round."""
    new_cost: list[float] = [float("inf")] * len(cost)
    new_chains: list[tuple[int, ...]] = [()] * len(cost)
    if within:
        new_cost[0] = cost[0]
    from_cost, from_chains = (new_cost, new_chains) if within else (cost, chains)
    for index in range(1, len(cost)):
        replay, capture = prices[index - 1]
        least, before = float("inf"), -1
        for previous in range(index):
            total = from_cost[previous] + (steps_to[index] - steps_to[previous]) * replay
            if total < least:
                least, before = total, previous
        if before >= 0:
            new_cost[index] = least + capture
            new_chains[index] = (*from_chains[before], sizes[index - 1])
    return new_cost, new_chains


def _steps_beyond(counts: Mapping[int, int], top: int, costs: Costs) -> float:
    """Cost of the steps that no bucket holds: infinite where eager has no price."""
    beyond = [(size, count) for size, count in counts.items() if size > top]
    if costs.eager is None:
        return float("inf") if beyond else 0.0
    return sum(count * costs.eager(size) for size, count in beyond)
