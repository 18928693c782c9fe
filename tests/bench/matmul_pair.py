"""A small real workload for the harness: the product of two matrices, row by row or at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import click
import torch

from monitorgen.kernels.workload import Outcome, UsageError


class MatmulRun:
    device: Literal["cpu", "cuda"] = "cpu"

    def __init__(self, size: int, rows_at_once: int, wrong: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        self.a = torch.randn(size, size, generator=generator)
        self.b = torch.randn(size, size, generator=generator)
        self.out = torch.empty(size, size)
        self.rows_at_once, self.wrong, self.steps = rows_at_once, wrong, 0
        self.bytes_moved = 3.0 * 4 * size * size
        self.flops = 2.0 * size**3

    def step(self) -> None:
        for start in range(0, len(self.a), self.rows_at_once):
            rows = slice(start, start + self.rows_at_once)
            torch.matmul(self.a[rows], self.b, out=self.out[rows])
        self.steps += 1

    def outcome(self) -> Outcome:
        shift = 1 if self.wrong else 0
        return Outcome(
            exact={"largest": [int(n) + shift for n in self.out.argmax(dim=1)]},
            close={"product": (self.out.flatten().tolist(), 1e-5)},
        )

    def metrics(self) -> Mapping[str, float]:
        return {"steps": float(self.steps), "calls": float(self.steps * -(-len(self.a) // self.rows_at_once))}

    def close(self) -> None:
        del self.a, self.b


@click.command()
@click.option("--size", type=click.IntRange(1, 4096), default=64)
@click.option("--wrong", is_flag=True)
def options(size: int, wrong: bool) -> None:
    """The flags of both arms."""


def prepare(rows_at_once: int, flags: Sequence[str]) -> MatmulRun:
    try:
        given = options.make_context("matmul", list(flags)).params
    except click.ClickException as error:
        raise UsageError(error.format_message()) from None
    return MatmulRun(given["size"], rows_at_once or given["size"], given["wrong"])
