"""How the work of paged GQA decode is cut, and which cut a shape gets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Tuning:
    """A cut of the work; any of them gives the same result, up to the order of sums.

    `block` tokens are in a tile; `unit` tokens are what shares are counted in; a program gets `least` tokens
    or more, so that joining stays cheap; `per_sm` programs are launched for each SM. `fused` joins partial
    sums in the same kernel. `pdl` is programmatic dependent launch.
    """

    block: int = 64
    unit: int = 16
    least: int = 64
    warps: int = 4
    stages: int = 4
    per_sm: int = 2
    fused: bool = True
    pdl: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for what the kernel does not take."""
        for name in ("block", "unit"):
            value = getattr(self, name)
            if value < 16 or value & (value - 1):
                raise ValueError(f"tuning.{name} is {value}; supported: powers of two from 16")
        for name, supported in (("warps", (1, 2, 4, 8)), ("stages", range(1, 9)), ("per_sm", range(1, 33))):
            if getattr(self, name) not in supported:
                raise ValueError(f"tuning.{name} is {getattr(self, name)}; supported: {list(supported)}")
        if self.least < 1:
            raise ValueError(f"tuning.least is {self.least}; supported: tokens from 1")


TABLE = Path(__file__).with_name("paged_gqa_tuning.json")


def context_class(tokens: int) -> int:
    """The power of four, from 2**12, that holds a number of tokens (of all KV heads of a batch together)."""
    bound = 1 << 12
    while bound < tokens:
        bound <<= 2
    return bound


def default_tuning(head_dim: int, kv_bytes: int, tokens: int, sms: int) -> Tuning:
    """The cut by rule, for a cache of `kv_bytes` an element and up to `tokens` tokens of all KV heads.

    A tile of keys is 16 KiB whatever its type. Small work is cut finer, so that every SM has some.
    """
    block = min(128, max(16, 16384 // (head_dim * kv_bytes)))
    tuning = Tuning(block=block, least=block)
    if tokens <= 64 * sms * tuning.per_sm:  # a tile a program, or less
        small = min(block, 32)
        return replace(tuning, block=small, least=small, stages=2)
    return tuning


@cache
def load_table(path: Path) -> Mapping[tuple[int, int, int], Tuning]:
    """Tunings by (head size, bytes of an element, class of context), as `tune_paged` wrote them; or none.

    Raises ValueError for a file that is no such table.
    """
    if not path.is_file():
        return {}
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["tunings"]
        return {
            (entry["head_dim"], entry["kv_bytes"], entry["tokens"]): Tuning(**entry["tuning"])
            for entry in entries
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the tunings in {path} cannot be read: {error!r}") from None


def choose(head_dim: int, kv_bytes: int, tokens: int, sms: int, path: Path = TABLE) -> Tuning:
    """The tuning of a shape: the table's for its class, else by rule."""
    found = load_table(path).get((head_dim, kv_bytes, context_class(tokens)))
    return found or default_tuning(head_dim, kv_bytes, tokens, sms)


def entry(head_dim: int, kv_bytes: int, tokens: int, tuning: Tuning, **measured: Any) -> dict[str, Any]:
    """A line of the table."""
    return {
        "head_dim": head_dim,
        "kv_bytes": kv_bytes,
        "tokens": tokens,
        "tuning": asdict(tuning),
        **measured,
    }
