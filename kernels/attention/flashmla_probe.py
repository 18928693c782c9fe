"""A ladder of small cases for the CUDA kernel of MLA decode: the first rung that is wrong says which step is.

It runs in a process of its own under a time limit where it is called from others: a kernel that waits for
ever cannot be stopped from inside its process.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import click
import torch
from torch import Tensor

from monitorgen.kernels.attention import flashmla
from monitorgen.kernels.attention.mla_inputs import make_inputs
from monitorgen.kernels.attention.mla_reference import mla_reference
from monitorgen.kernels.command import run
from monitorgen.kernels.workload import UsageError

MOST_ERROR = 4e-3
# What is new on each rung; lengths, heads, programs.
LADDER: tuple[tuple[str, list[int], int, int], ...] = (
    ("one page", [64], 64, 1),
    ("one token: rows to be cleaned", [1], 64, 1),
    ("two pages: both consumers", [128], 64, 1),
    ("stages used again, a rest", [300], 64, 1),
    ("16 heads of 64", [300], 16, 1),
    ("two requests, a new q", [128, 97], 64, 1),
    ("no tokens", [0, 64, 0], 64, 1),
    ("parts", [300], 64, 3),
    ("ragged, two groups of heads", [54, 0, 97, 8193, 1, 4095], 128, 7),
)


def rung(lengths: list[int], heads: int, programs: int) -> dict[str, float]:
    """Relative errors of both halves of the output, and the largest error of LSE."""
    inputs = make_inputs(lengths, heads)
    for row, length in enumerate(lengths):
        if length % 64:
            inputs.cache[int(inputs.table[row, length // 64]), length % 64 :] = torch.nan
    plan = flashmla.plan(len(lengths), heads, 64, inputs.table.shape[1], programs=programs)
    tensors = (inputs.q, inputs.cache, inputs.table, inputs.lengths)
    out = inputs.q.new_full((len(lengths), heads, 512), torch.nan)
    lse = torch.full((len(lengths), heads), torch.nan, device="cuda")
    flashmla.run(plan, *tensors, out=out, lse=lse)
    wanted, sums = mla_reference(*tensors)
    return errors(out, lse, wanted, sums)


def errors(out: Tensor, lse: Tensor, wanted: Tensor, sums: Tensor) -> dict[str, float]:
    """Errors of out [B, H, 512] and lse [B, H] against the reference's `wanted` and `sums` (float64).

    `left`, `right`: norm of the error of columns 0 to 255 and 256 to 511, which different consumers write,
    over the norm of all that is wanted. `lse`: the largest error; inf where other rows than the reference's
    have no tokens.
    """
    halves = (out.double() - wanted).reshape(*wanted.shape[:2], 2, 256)
    apart = torch.linalg.vector_norm(halves, dim=(0, 1, 3)) / torch.linalg.vector_norm(wanted)
    where = sums > -torch.inf
    same = bool((where == (lse > -torch.inf)).all())
    lse_error = float((lse.double() - sums)[where].abs().max()) if same else float("inf")
    return {"left": float(apart[0]), "right": float(apart[1]), "lse": lse_error}


def climb() -> bool:
    """Run all rungs and tell each; whether all were right."""
    good = True
    for name, lengths, heads, programs in LADDER:
        found = rung(lengths, heads, programs)
        right = found["left"] < MOST_ERROR and found["right"] < MOST_ERROR and found["lse"] < 1e-3
        good = good and right
        numbers = ", ".join(f"{key} {value:.1e}" for key, value in found.items())
        click.echo(f"{'ok ' if right else 'BAD'} {name}: {numbers}")
    return good


def probe(seconds: float) -> tuple[bool, str]:
    """Climb in another process, for at most so long: whether all was right, and what it said."""
    arguments = [sys.executable, "-u", "-m", "monitorgen.kernels.attention.flashmla_probe"]
    try:
        done = subprocess.run(
            arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        text = said.decode() if isinstance(said, bytes) else said
        return False, f"{text}BAD: nothing more within {seconds:g} s"
    return done.returncode == 0, done.stdout.strip()[-3000:]


@click.command()
def command() -> int:
    """Check the CUDA kernel of MLA decode on small cases. Exit code 1 if a result is wrong."""
    if not torch.cuda.is_available():
        raise UsageError("the CUDA kernel of MLA decode needs a Hopper GPU")
    try:
        return 0 if climb() else 1
    except flashmla.UnavailableError as error:
        raise UsageError(str(error)) from None


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    code: int = run(command, argv, "flashmla_probe")
    return code


if __name__ == "__main__":
    sys.exit(main())
