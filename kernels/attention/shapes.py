"""The shapes that attention workloads run at, from flags and from BLOCK_SIZE, DOC_SPAN and SEQ_LEN.

Each of these variables holds a number, or several with commas between: every combination is one shape.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from monitorgen.kernels.workload import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of one attention: sequences, query and KV heads, positions, head size; mask blocks and spans."""

    batch: int
    heads: int
    kv_heads: int
    length: int
    head: int
    block: int
    window: int
    doc_span: int
    prefix: int

    @property
    def text(self) -> str:
        """The shape in a few letters."""
        return f"B{self.batch} H{self.heads}/{self.kv_heads} S{self.length} D{self.head} block {self.block}"


def numbers(text: str, name: str, least: int = 1) -> list[int]:
    """Whole numbers with commas between. Raises UsageError naming the flag or variable."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < least:
        raise UsageError(f"{name} {text!r}: whole numbers from {least}, with commas between several")
    return found


def blocks(text: str, name: str) -> list[int]:
    """Block sizes: powers of two from 16. Raises UsageError naming the flag or variable."""
    found = numbers(text, name, 16)
    for size in found:
        if size & (size - 1):
            raise UsageError(f"{name} {text!r}: {size} is no power of two; 16, 32, 64, 128, ...")
    return found


# Option -> the variable that gives it where no flag does.
SWEPT = {"seq_len": "SEQ_LEN", "block_size": "BLOCK_SIZE", "doc_span": "DOC_SPAN"}


def shape_options(
    *, batch: int, seq_len: str, block: str, doc_span: str, heads: tuple[int, int, int] | None
) -> Callable[[Command], Command]:
    """Options for shapes, with these defaults; the three swept ones are read from the environment too.

    `heads` are query heads, KV heads and elements of a head; None where a model says them.
    """

    def swept(name: str, default: str, help_: str) -> Any:
        variable = SWEPT[name]
        return click.option(
            f"--{name.replace('_', '-')}",
            show_default=f"{variable}, or {default}",
            default=lambda: os.environ.get(variable) or default,
            help=help_,
        )

    def count(name: str, default: int | None, help_: str) -> Any:
        return click.option(name, type=click.IntRange(1), default=default, show_default=True, help=help_)

    head_options = (
        ("--heads", "Query heads."),
        ("--kv-heads", "KV heads; each serves heads / kv-heads query heads."),
        ("--head-dim", "Elements of a head."),
    )
    options = (
        *(count(name, size, text) for (name, text), size in zip(head_options, heads or (), strict=False)),
        swept("seq_len", seq_len, "Positions of a sequence."),
        swept("block_size", block, "Positions of a mask block, each way."),
        swept("doc_span", doc_span, "Mean length of a document."),
        count("--batch", batch, "Sequences."),
        count("--window", None, "Keys in a sliding window.  [default: an eighth of the sequence]"),
        click.option(
            "--prefix",
            type=click.IntRange(0),
            help="Prefix that all see under prefix_lm.  [default: a quarter of the sequence]",
        ),
    )

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def sweep(flags: Mapping[str, Any]) -> Iterator[Shape]:
    """Every shape that the flags and the environment name. Raises UsageError for what cannot be."""
    heads, kv_heads = flags["heads"], flags["kv_heads"]
    if heads % kv_heads:
        raise UsageError(f"--kv-heads {kv_heads}: --heads {heads} is no multiple of it")
    lengths = numbers(flags["seq_len"], _source("seq_len"))
    sizes = blocks(flags["block_size"], _source("block_size"))
    spans = numbers(flags["doc_span"], _source("doc_span"))
    return (
        Shape(
            flags["batch"], heads, kv_heads, length, flags["head_dim"], block,
            flags["window"] or max(1, length // 8), span,
            length // 4 if flags["prefix"] is None else flags["prefix"],
        )
        for length, block, span in itertools.product(lengths, sizes, spans)
    )  # fmt: skip


def _source(name: str) -> str:
    """The flag and the variable that a value comes from, for messages."""
    return f"--{name.replace('_', '-')} ({SWEPT[name]})"
