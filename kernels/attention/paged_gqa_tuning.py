"""How the work of paged GQA decode is cut, and which cut a shape gets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Tuning:
    """A cut of the work; any of them gives the same result, up to the order of sums.

    `block` tokens are in a tile; `unit` tokens are what shares are counted in; a program gets `least` tokens
    or more, so that joining stays cheap; to begin with a sequence counts as `toll` tokens; `per_sm` programs
    are launched for each SM. `fused` joins partial sums in the same kernel, `joined` float32 numbers at a
    time. `pdl` is programmatic dependent launch.
    """

    block: int = 64
    unit: int = 16
    least: int = 64
    toll: int = 64
    warps: int = 4
    stages: int = 4
    per_sm: int = 2
    fused: bool = True
    joined: int = 4096
    pdl: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for what the kernel does not take."""
        for name in ("block", "unit", "joined"):
            value = getattr(self, name)
            if value < 16 or value & (value - 1):
                raise ValueError(f"tuning.{name} is {value}; supported: powers of two from 16")
        for name, supported in (("warps", (1, 2, 4, 8)), ("stages", range(1, 9)), ("per_sm", range(1, 33))):
            if getattr(self, name) not in supported:
                raise ValueError(f"tuning.{name} is {getattr(self, name)}; supported: {list(supported)}")
        if self.least < 1:
            raise ValueError(f"tuning.least is {self.least}; supported: tokens from 1")
        if not 0 <= self.toll <= 1 << 16:
            raise ValueError(f"tuning.toll is {self.toll}; supported: tokens from 0 to {1 << 16}")


TABLE = Path(__file__).with_name("paged_gqa_tuning.json")


def size_class(number: int) -> int:
    """The power of four that holds a number."""
    bound = 1
    while bound < number:
        bound <<= 2
    return bound


def default_tuning(head_dim: int, kv_bytes: int, segments: int, context: int, sms: int) -> Tuning:
    """The cut by rule, for `segments` (sequences times KV heads) of up to `context` tokens.

    A tile of keys is 16 KiB whatever its type. Few segments are cut by one program an SM with deep pipelines,
    since every part has to be joined; small work into smaller tiles, so that every SM has some.
    """
    block = min(64, max(16, 16384 // (head_dim * 2))) * (2 if head_dim == 64 else 1)
    if segments * context <= 64 * sms:  # a tile of 32 an SM, or two
        small = min(block, 32)
        return Tuning(block=small, least=small, stages=4, per_sm=2)
    if segments < sms:
        return Tuning(block=block, least=block, stages=5, per_sm=1, joined=8192)
    return Tuning(block=block, least=4 * block, stages=4, per_sm=2, joined=8192)


Key = tuple[int, int, int, int]


@cache
def load_table(path: Path) -> Mapping[Key, Tuning]:
    """Tunings by head size, bytes of an element, class of segments and class of context; none without a file.

    Raises ValueError for a file that is no such table.
    """
    if not path.is_file():
        return {}
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["tunings"]
        return {
            (line["head_dim"], line["kv_bytes"], line["segments"], line["context"]): Tuning(**line["tuning"])
            for line in entries
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the tunings in {path} cannot be read: {error!r}") from None


def choose(head_dim: int, kv_bytes: int, segments: int, context: int, sms: int, path: Path = TABLE) -> Tuning:
    """The tuning of a shape: the table's for its class, else by rule."""
    found = load_table(path).get((head_dim, kv_bytes, size_class(segments), size_class(context)))
    return found or default_tuning(head_dim, kv_bytes, segments, context, sms)


def entry(
    head_dim: int, kv_bytes: int, segments: int, context: int, tuning: Tuning, **measured: Any
) -> dict[str, Any]:
    """A line of the table; `segments` and `context` are classes."""
    key = {"head_dim": head_dim, "kv_bytes": kv_bytes, "segments": segments, "context": context}
    return {**key, "tuning": asdict(tuning), **measured}
