"""FlexAttention on a GPU: how far its time follows the share of live blocks, and is it right.

`python -m monitorgen.kernels.attention.bench_flex --json FILE` times compiled masks at 8,192 and 16,384
positions beside dense SDPA (graph replays between CUDA events, L2 overwritten before each call, medians; a
sample of each output is compared with float64), then compares a few masks and mods, forward and backward,
with float64. The ideal is the time of an attention without mask times the share of live blocks; `of ideal`
is that over what was measured. Compiling takes seconds a mask, so that processes side by side do it first
and leave it in torch's caches. A case that fails is told and does not end the rest.

Measured on an H100 with torch 2.11, 8,192 positions: full 439 TFLOP/s forward where cuDNN has 662; by its own
full time causal reaches 0.95 of ideal, a sliding window of 1,024 0.81. 16,384 was not measured.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from monitorgen.kernels import timing
from monitorgen.kernels.attention import masks, score_mods
from monitorgen.kernels.attention.flex_attention_native import (
    TOLERANCES,
    FlexPlan,
    attention_flops,
    plan,
    random_inputs,
    relative_error,
    verify,
    visible_pairs,
)
from monitorgen.kernels.attention.flex_reference import reference
from monitorgen.kernels.attention.masks import Mask
from monitorgen.kernels.attention.paged_attn_common import PagedCache
from monitorgen.kernels.attention.paged_kv import PagedKV, PagedView, attend
from monitorgen.kernels.attention.score_mods import ScoreMod
from monitorgen.kernels.attention.shapes import Shape, numbers
from monitorgen.kernels.command import run
from monitorgen.kernels.decode.graphs import capture
from monitorgen.kernels.workload import Run, UsageError

CHECKED: tuple[tuple[Shape, str, str], ...] = (
    (Shape(2, 8, 2, 500, 128, 128, 70, 90, 60), "causal", "soft_cap+alibi"),
    (Shape(2, 8, 8, 385, 64, 128, 70, 90, 60), "sliding_window&document|prefix_lm", "none"),
    (Shape(1, 16, 1, 640, 128, 128, 70, 90, 60), "causal&document", "tanh"),
)
"""Shape, mask and mod of each comparison with float64: odd lengths, groups 4, 1 and 16, two head sizes."""
FIRST = 3
"""So many masks are timed at all lengths before checks start and the other masks."""
TIMED = ("causal", "sliding_window", "document", "causal&document", "prefix_lm", "causal/soft_cap")
TOKENS = 16384
"""Positions in a batch: shorter sequences come in larger batches, so that work stays comparable."""
TOLERANCE = TOLERANCES[torch.bfloat16]
BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}


@dataclass(slots=True)
class Bench:
    """What was found so far, and until when cases may still start."""

    device: torch.device
    until: float
    iterations: int
    say: Callable[[str], None]
    checks: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def attempt(self, name: str, work: Callable[[], dict[str, Any]], into: list[dict[str, Any]]) -> None:
        """Run a case and keep what it found; a failure is told with its traceback and kept by name."""
        if time.monotonic() > self.until:
            self.skipped.append(name)
            self.say(f"{name}: skipped, no time left")
            return
        started = time.monotonic()
        try:
            found = work()
        except Exception as error:
            traceback.print_exc()
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            self.failed.append({"case": name, "error": text})
            self.say(f"{name}: FAILED {text[:160]}")
            return
        into.append(found | {"case": name, "wall_seconds": time.monotonic() - started})

    def median_ms(self, work: Callable[[], object]) -> tuple[float, list[float]]:
        """The median of a call's milliseconds with a cold L2, and all of them.

        On CUDA it is captured once and replayed, so that the host's part does not show in short calls.
        """
        timed = cast(Run, SimpleNamespace(device=self.device.type, step=self._captured(work)))
        samples = timing.measure(timed, self.iterations, 3).samples_ms
        return statistics.median(samples), samples

    def _captured(self, work: Callable[[], object]) -> Callable[[], object]:
        if self.device.type != "cuda":
            return work
        replay: Callable[[], object] = capture(work).replay
        return replay


def check_case(bench: Bench, shape: Shape, name: str, mod_name: str) -> dict[str, Any]:
    """Compare one case with float64, on the device."""
    mask, mod = _chosen(shape, name, mod_name, bench.device)
    found: dict[str, Any] = verify(shape, mask, mod, bench.device)
    bench.say(
        f"check {'ok   ' if found['ok'] else 'WRONG'} {shape.text} {name} {mod_name}: error "
        f"{found['error']:.1e}, gradients {', '.join(f'{e:.1e}' for e in found['gradient_errors'])}, live "
        f"{found['live']:.1%} (counted {found['live_counted']:.1%})"
    )
    return found


def _chosen(shape: Shape, name: str, mod_name: str, device: torch.device) -> tuple[Any, Any]:
    ids = masks.document_ids(shape.batch, shape.length, shape.doc_span).to(device)
    mask = masks.parse(name, window=shape.window, ids=ids, prefix=shape.prefix)
    mod = score_mods.parse(mod_name, heads=shape.heads, cap=20.0, gain=1.5, device=device)
    return mask, mod


PAGED_LENGTHS = (54, 97, 130, 1)


def check_paged(bench: Bench, page: int) -> dict[str, Any]:
    """Decode over scattered pages of ragged sequences and a row without one, everything unused poisoned.

    The poison is NaN on CUDA; on a CPU, where torch multiplies all that is masked by 0, a large number.
    """
    device, heads, kv_heads, head = bench.device, 8, 2, 128
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    cache = PagedCache(64, page)
    pages = PagedKV.empty(cache, kv_heads, head, device, dtype)
    generator = torch.Generator().manual_seed(0)
    held = {
        row: torch.randn(2, n, kv_heads, head, generator=generator) for row, n in enumerate(PAGED_LENGTHS)
    }
    slots: dict[int, list[int]] = {row: [] for row in held}
    for position in range(max(PAGED_LENGTHS)):  # in turns, so that tables interleave
        for row, length in enumerate(PAGED_LENGTHS):
            if position >= length:
                continue
            if position == 0:
                cache.add(row, [row])
                slots[row].append(cache.table(row)[0] * page)
            else:
                slot = cache.append(row, position)
                slots[row].append(slot.block * page + slot.offset)
    for block in cache.empty:
        for tensor in (pages.k, pages.v):
            poison = torch.nan if device.type == "cuda" else 1e4
            tensor[:, :, block * page : (block + 1) * page] = poison
    for row, (k, v) in held.items():
        pages.write(torch.tensor(slots[row], device=device), k.to(device, dtype), v.to(device, dtype))
    mask, mod = masks.sliding_window(60), score_mods.alibi(score_mods.alibi_slopes(heads).to(device))
    view = PagedView(cache, len(held) + 1, 1, -(-max(PAGED_LENGTHS) // page), mask, device)
    view.update(list(held), [n - 1 for n in PAGED_LENGTHS], PAGED_LENGTHS)
    q = torch.randn(len(held) + 1, heads, 1, head, generator=generator).to(device, dtype)
    with torch.no_grad():
        out = attend(q, pages, view, view.block_mask, view.score_mod(mod))
    errors = [float(out[-1].abs().max())]
    for row, (k, v) in held.items():
        expected, _ = decoded(q[row : row + 1], k.to(device, dtype), v.to(device, dtype), mask, mod)
        errors.append(relative_error(out[row : row + 1], expected))
    worst = max(error if error == error else torch.inf for error in errors)  # nan is worst
    ok = worst <= TOLERANCES[dtype]
    bench.say(f"check {'ok   ' if ok else 'WRONG'} paged decode, page {page}: error {worst:.1e}")
    return {"shape": f"paged decode, page {page}", "errors": errors, "error": worst, "ok": ok}


def decoded(q: Tensor, k: Tensor, v: Tensor, mask: Mask, mod: ScoreMod) -> tuple[Tensor, Tensor]:
    """The reference of one decoded token: q [1, Hq, 1, D] stands at the last of k's and v's [T, Hkv, D]."""
    k, v = (part.transpose(0, 1).unsqueeze(0) for part in (k, v))
    last = torch.full((1,), k.shape[2] - 1, device=q.device)
    found: tuple[Tensor, Tensor] = reference(
        q, k, v, masks.shifted(mask, last), score_mods.shifted(mod, last)
    )
    return found


def time_sdpa(bench: Bench, shape: Shape, causal: bool) -> dict[str, Any]:
    """Dense SDPA by the faster of its fused kernels. K and V are given a copy for each query head, which
    costs it nothing here: not every backend shares heads."""
    q, k, v = random_inputs(shape, bench.device, torch.bfloat16)
    group = shape.heads // shape.kv_heads
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)

    def attend() -> Tensor:
        out: Tensor = scaled_dot_product_attention(q, k, v, is_causal=causal)
        return out

    found: dict[str, float] = {}
    errors = []
    for name, backend in BACKENDS.items():
        try:
            with sdpa_kernel(backend):
                found[name] = bench.median_ms(attend)[0]
        except RuntimeError as error:  # torch: no available kernel
            errors.append(f"{name}: {error}".splitlines()[0])
    if not found:
        raise RuntimeError("; ".join(errors))
    best = min(found, key=lambda name: found[name])
    pairs = shape.batch * shape.heads * shape.length * (shape.length + 1 if causal else 2 * shape.length) // 2
    rate = attention_flops(pairs, shape.head) / found[best] / 1e9
    kind = "causal" if causal else "full"
    bench.say(f"S{shape.length} sdpa {kind} ({best}): {found[best]:.3f} ms, {rate:.0f} TFLOP/s")
    return {
        "kernel": f"sdpa_{kind}", "length": shape.length, "backend": best, "ms": found[best],
        "backends_ms": found, "tflop_per_s": rate,
    }  # fmt: skip


def time_flex(bench: Bench, shape: Shape, name: str) -> dict[str, Any]:
    """One compiled mask (and mod, after a slash): time, rate on visible pairs, and share of the ideal."""
    device = bench.device
    mask_name, _, mod_name = name.partition("/")
    started = time.perf_counter()
    planned = _planned(shape, name, device)
    sparsity = planned.sparsity
    planning = time.perf_counter() - started
    inputs = random_inputs(shape, device, torch.bfloat16)
    started = time.perf_counter()
    with torch.no_grad():
        error = sampled_error(planned, inputs)
        compiling = time.perf_counter() - started
        ms, samples = bench.median_ms(lambda: planned(*inputs))
    pairs = visible_pairs(planned.mask, shape.batch, shape.heads, shape.length, shape.length, device)
    rate = attention_flops(pairs, shape.head) / ms / 1e9
    found: dict[str, Any] = {
        "kernel": "flex", "length": shape.length, "mask": mask_name, "score_mod": mod_name or "none",
        "ms": ms, "samples_ms": samples, "tflop_per_s": rate, "live": sparsity.share,
        "whole": sparsity.whole / sparsity.total, "error": error,
        "ok": error <= TOLERANCE, "plan_seconds": planning, "compile_seconds": compiling,
    }  # fmt: skip
    text = f"S{shape.length} flex {name}: {ms:.3f} ms, {rate:.0f} TFLOP/s, live {sparsity.share:.1%}"
    for dense in ("flex", "sdpa_full", "sdpa_causal"):
        other = _dense_ms(bench, dense, shape.length)
        if other is None:
            continue
        if dense == "sdpa_causal":
            found["speedup_over_sdpa_causal"] = other / ms
            text += f", {other / ms:.2f}x sdpa causal"
        else:
            found[f"of_ideal_{dense}"] = other * sparsity.share / ms
            text += f", {other * sparsity.share / ms:.2f} of ideal by {dense}"
    bench.say(text + ("" if found["ok"] else f", WRONG: error {error:.1e}"))
    return found


def sampled_error(planned: FlexPlan, inputs: Sequence[Tensor]) -> float:
    """The relative norm of the difference to float64, at 32 queries of every head from first to last."""
    q, k, v = inputs
    rows = torch.linspace(0, q.shape[2] - 1, 32, device=q.device).long()
    expected, _ = reference(q, k, v, planned.mask, planned.score_mod, rows=rows)
    error: float = relative_error(planned(q, k, v)[:, :, rows], expected)
    return error


def _dense_ms(bench: Bench, kernel: str, length: int) -> float | None:
    """The time of a dense attention measured before; of FlexAttention's own with the mask `full`."""
    for row in bench.rows:
        if (row["kernel"], row["length"]) == (kernel, length) and row.get("mask", "full") == "full":
            return float(row["ms"])
    return None


def shape_of(base: Shape, length: int) -> Shape:
    """What is timed at a length: as many sequences as make TOKENS, a quarter of each a prefix."""
    return replace(base, batch=max(1, TOKENS // length), length=length, prefix=length // 4)


def compile_cases(base: Shape, cases: Sequence[tuple[int, str]], workers: int, seconds: float) -> None:
    """Compile cases (length, mask) side by side in processes, which leave them in torch's caches.

    One that fails or takes too long is ended and told by the timing that then compiles it itself.
    """
    # Each process compiles little: a pool of compilers of its own would only contend with the others'.
    environment = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    until, started = time.monotonic() + seconds, []
    for number in range(min(workers, len(cases))):
        work = json.dumps({"base": astuple(base), "cases": cases[number::workers]})
        line = [sys.executable, "-m", __spec__.name, "--compile", work]
        started.append(subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL))
    for process in started:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def compile_here(work: str, device: torch.device) -> None:
    """A compiling process: plan and call each of its cases once, as `time_flex` does."""
    given = json.loads(work)
    for length, name in given["cases"]:
        shape = shape_of(Shape(*given["base"]), length)
        planned = _planned(shape, name, device)
        with torch.no_grad():
            planned(*random_inputs(shape, device, torch.bfloat16))


def _planned(shape: Shape, name: str, device: torch.device) -> FlexPlan:
    mask_name, _, mod_name = name.partition("/")
    mask, mod = _chosen(shape, mask_name, mod_name or "none", device)
    return plan(
        mask, mod, batch=shape.batch, heads=shape.heads, queries=shape.length, device=device,
        block=shape.block,
    )  # fmt: skip


def measure_all(bench: Bench, lengths: Sequence[int], base: Shape, timed: Sequence[str]) -> None:
    """Time dense attention and the first masks at each length, then check, then time the other masks."""
    shapes = [shape_of(base, length) for length in sorted(lengths)]
    for shape in shapes:
        for causal in (False, True):
            bench.attempt(
                f"S{shape.length} sdpa causal={causal}",
                lambda s=shape, c=causal: time_sdpa(bench, s, c),  # type: ignore[misc]
                bench.rows,
            )
        _time_masks(bench, shape, ("full", *timed[:FIRST]))
    for shape, name, mod_name in CHECKED:
        bench.attempt(
            f"check {shape.text} {name} {mod_name}",
            lambda s=shape, n=name, m=mod_name: check_case(bench, s, n, m),  # type: ignore[misc]
            bench.checks,
        )
    bench.attempt("check paged decode", lambda: check_paged(bench, 16), bench.checks)
    for shape in shapes:
        _time_masks(bench, shape, timed[FIRST:])


def _time_masks(bench: Bench, shape: Shape, names: Sequence[str]) -> None:
    for name in names:
        bench.attempt(
            f"S{shape.length} flex {name}",
            lambda n=name: time_flex(bench, shape, n),  # type: ignore[misc]
            bench.rows,
        )


@click.command(context_settings={"max_content_width": 110})
@click.option("--seq-len", default="8192,16384", show_default=True, help="Positions, with commas between.")
@click.option("--masks", "timed", default=",".join(TIMED), show_default=True, help="Masks, MASK or MASK/MOD.")
@click.option("--window", type=click.IntRange(1), default=1024, show_default=True, help="Sliding window.")
@click.option("--doc-span", type=click.IntRange(1), default=2048, show_default=True, help="Mean document.")
@click.option("--heads", type=click.IntRange(1), default=32, show_default=True)
@click.option("--kv-heads", type=click.IntRange(1), default=8, show_default=True)
@click.option("--head-dim", type=click.IntRange(16), default=128, show_default=True)
@click.option("--block-size", type=click.IntRange(16), default=128, show_default=True)
@click.option("--iterations", type=click.IntRange(1), default=20, show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(1), default=70.0, show_default=True, help="Start no case after these."
)
@click.option("--json", "json_file", type=click.Path(), help="Write everything to a file.")
@click.option("--compile", "work", hidden=True, help="A compiling process: compile these cases and end.")
def command(json_file: str | None, work: str | None, **flags: Any) -> int:
    """Time masks beside dense attention on the GPU, and check FlexAttention against float64."""
    if not torch.cuda.is_available():
        raise UsageError("bench_flex needs a CUDA device; flex_attention_native checks the same on a CPU")
    if work is not None:
        compile_here(work, torch.device("cuda"))
        return 0
    started = time.monotonic()
    bench = Bench(
        torch.device("cuda"), started + flags["seconds"], flags["iterations"], lambda line: click.echo(line)
    )
    base = Shape(
        1, flags["heads"], flags["kv_heads"], 0, flags["head_dim"], flags["block_size"], flags["window"],
        flags["doc_span"], 0,
    )  # fmt: skip
    lengths, timed = numbers(flags["seq_len"], "--seq-len"), flags["timed"].split(",")
    # Those that the time will not reach are not worth the wait for a core.
    cases = [(length, name) for length in sorted(lengths) for name in ("full", *timed[:FIRST])]
    compile_cases(base, cases, max(1, (os.cpu_count() or 2) - 1), flags["seconds"] / 2)
    compiled = time.monotonic() - started
    click.echo(f"compiled {len(cases)} cases in {compiled:.0f} s")
    measure_all(bench, lengths, base, timed)
    found = {
        "flags": flags, "device": timing.device_facts(), "dtype": "bfloat16", "checks": bench.checks,
        "rows": bench.rows, "failed": bench.failed, "skipped": bench.skipped,
        "compile_seconds": compiled, "seconds": time.monotonic() - started,
    }  # fmt: skip
    if json_file:
        Path(json_file).write_text(json.dumps(found) + "\n", "utf-8")
    checked = [*bench.checks, *(row for row in bench.rows if "ok" in row)]
    wrong = sum(not check["ok"] for check in checked)
    click.echo(
        f"{len(checked)} checked, {wrong} wrong, {len(bench.failed)} failed, {len(bench.skipped)} "
        f"skipped, {found['seconds']:.0f} s"
    )
    return 1 if wrong or bench.failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code: 1 if anything is wrong or failed, 2 without a CUDA device."""
    code: int = run(command, argv, "bench_flex")
    return code


if __name__ == "__main__":
    sys.exit(main())
