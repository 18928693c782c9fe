"""Prefill on one GPU: is it right, how fast is each tiling, and how fast are others beside it.

`PEERS=DIR python -m monitorgen.kernels.attention.bench_prefill --json FILE`

Kernels are first compiled, and compared with float64, by several processes at once, since compiling takes
seconds; Triton's cache hands them on. Then one process times everything: cold L2, CUDA events, medians. A
kernel that fails, or hangs its process, is named and left out, and the others go on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from monitorgen.kernels.command import run
from monitorgen.kernels.workload import UsageError

HEADS, DIM, TOKENS = 16, 128, 16384  # a batch has TOKENS tokens, whatever the prompts' length
REPEATS, WARM = 12, 3
COMPILING = 0.6  # of the time, at most
AWKWARD = (
    # batch, heads, KV heads, queries, keys, head size, causal, precision
    (1, 1, 1, 1, 1, 128, True, "bf16"),
    (2, 8, 2, 54, 54, 128, True, "bf16"),
    (3, 4, 4, 97, 97, 64, False, "fp16"),
    (1, 32, 8, 130, 130, 128, False, "bf16"),
    (1, 32, 4, 1000, 4095, 128, True, "bf16"),
    (2, 16, 1, 513, 513, 64, True, "bf16"),
    (1, 16, 2, 1025, 1025, 128, True, "fp16"),
)


def tilings(quick: bool) -> list[dict[str, Any]]:
    """What is tried, as the arguments of `Tiling`."""
    # Two programs fit a multiprocessor up to 113 kB of shared memory and 128 registers of 512 threads: then
    # the tensor cores have work while one of them computes a softmax.
    alike = [
        (128, 64, 8, 3, 0), (128, 128, 8, 2, 0), (128, 64, 8, 2, 128), (128, 64, 4, 2, 0), (64, 64, 4, 2, 0),
        (128, 32, 8, 4, 128), (128, 32, 4, 3, 0), (64, 64, 4, 3, 0), (64, 128, 4, 2, 0), (128, 64, 8, 4, 0),
    ]  # fmt: skip
    special = [(128, 128, 4, 2, 0), (128, 64, 4, 2, 0), (128, 64, 4, 3, 0), (256, 64, 4, 2, 0)]
    names = ("bm", "bn", "warps", "stages", "registers")
    few = (5, 1) if quick else (len(alike), len(special))
    return [
        dict(zip(names, one, strict=True)) | {"specialize": specialize}
        for group, specialize, count in ((alike, False, few[0]), (special, True, few[1]))
        for one in group[:count]
    ]


def tasks(quick: bool) -> list[dict[str, Any]]:
    """What is compiled and compared: each tiling with both masks, both default tilings on awkward sizes."""
    found: list[dict[str, Any]] = [
        {"tiling": tiling, "sizes": (1, HEADS, HEADS, 1024, 1024, DIM, causal, "bf16")}
        for tiling in tilings(quick)
        for causal in (False, True)
    ]
    found += [{"tiling": specialize, "sizes": sizes} for specialize in (False, True) for sizes in AWKWARD]
    # A stable order, the plain kernels before the specialised ones.
    return sorted(found, key=lambda task: _special(task["tiling"]))


def _special(tiling: Any) -> bool:
    return bool(tiling["specialize"] if isinstance(tiling, dict) else tiling)


def label(tiling: Any) -> str:
    """A tiling in a few letters: 128x64w8s3, with `-ws` for specialised warps."""
    if isinstance(tiling, bool):
        return "default-ws" if tiling else "default"
    text = "{bm}x{bn}w{warps}s{stages}".format(**tiling)
    limit = f"r{tiling['registers']}" if tiling["registers"] else ""
    return text + limit + ("-ws" if tiling["specialize"] else "")


def compare(task: dict[str, Any]) -> dict[str, Any]:
    """Compile and run one kernel on poisoned outputs: both errors, and whether its warps were specialised."""
    import torch

    from monitorgen.kernels.attention.prefill_common import DTYPES, ERROR_LIMITS, Problem, made
    from monitorgen.kernels.attention.prefill_reference import prefill_reference, relative_error
    from monitorgen.kernels.attention.prefill_triton import Tiling, default_tiling, launch, specialized

    *sizes, precision = task["sizes"]
    problem, dtype = Problem(*sizes), DTYPES[precision]
    tiling = task["tiling"]
    cut = Tiling(**tiling) if isinstance(tiling, dict) else default_tiling(problem.dim, specialize=tiling)
    q, k, v = made(problem, dtype=dtype, device=torch.device("cuda"), seed=1)
    out = torch.full_like(q, torch.nan)
    begin = time.perf_counter()
    _, lse, compiled = launch(q, k, v, causal=problem.causal, tiling=cut, out=out, lse=True)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    want, want_lse = prefill_reference(q, k, v, causal=problem.causal)
    error, off = relative_error(out, want), float((lse - want_lse).abs().max())
    again, _, _ = launch(q, k, v, causal=problem.causal, tiling=cut, lse=True)
    return {
        "error": error, "lse": off, "specialized": specialized(compiled), "compile_s": round(seconds, 2),
        "same_twice": bool(torch.equal(out, again)),
        "registers": compiled.n_regs, "spills": compiled.n_spills,
        "ok": error <= ERROR_LIMITS[dtype] and off < 1e-3,
    }  # fmt: skip


def work(number: int, count: int, quick: bool) -> None:
    """A compiling process: its share of the tasks, a JSON line for each."""
    for index, task in list(enumerate(tasks(quick)))[number::count]:
        _say({"task": index, **_tried(partial(compare, task))})


def _tried(function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The function's result, or one line on why there is none; the run goes on either way."""
    try:
        return function()
    except Exception as error:  # said, and left out of what follows
        return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:160]}


def _say(row: dict[str, Any]) -> None:
    print(json.dumps(row), flush=True)


def median_us(call: Callable[[], object], flush: Any) -> float:
    """Microseconds of a call, the median of REPEATS, L2 overwritten before each."""
    import statistics

    import torch

    cuda: Any = torch.cuda
    for _ in range(WARM):
        call()
    pairs = []
    for _ in range(REPEATS):
        begin, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        flush.zero_()
        begin.record()
        call()
        end.record()
        pairs.append((begin, end))
    cuda.synchronize()
    return float(statistics.median(begin.elapsed_time(end) for begin, end in pairs)) * 1e3


class _Case:
    """One length and mask: inputs, what some rows should be, and how a kernel is timed on them."""

    def __init__(self, tokens: int, causal: bool) -> None:
        import torch

        from monitorgen.kernels.attention.prefill_common import Problem, made
        from monitorgen.kernels.attention.prefill_reference import prefill_reference, some_rows

        self.causal = causal
        self.problem = Problem(TOKENS // tokens, HEADS, HEADS, tokens, tokens, DIM, causal)
        self.q, self.k, self.v = made(self.problem, dtype=torch.bfloat16, device=torch.device("cuda"), seed=1)
        self.rows = some_rows(tokens).cuda()
        first = (self.q[:1], self.k[:1], self.v[:1])
        self.want, _ = prefill_reference(*first, causal=causal, rows=self.rows)

    def peer(self, name: str) -> Callable[[], Any]:
        """A peer's call on these inputs."""
        from monitorgen.kernels.attention.prefill_peers import PEERS

        call: Callable[[], Any] = PEERS[name](self.q, self.k, self.v, self.causal)
        return call

    def ours(self, tiling: dict[str, Any]) -> Callable[[], Any]:
        """Our call under a tiling; it gives the log-sum-exp too, as the peers do."""
        from monitorgen.kernels.attention.prefill_triton import Tiling, launch

        cut = Tiling(**tiling)
        return lambda: launch(self.q, self.k, self.v, causal=self.causal, tiling=cut, lse=True)[0]

    def timed(self, start: Callable[[], Callable[[], Any]], flush: Any) -> dict[str, Any]:
        """Time, rate and error of what `start` makes."""
        from monitorgen.kernels.attention.prefill_reference import relative_error

        call = start()
        error = relative_error(call()[:1, :, self.rows], self.want)
        if not error < 8e-3:
            raise ArithmeticError(f"a wrong answer: error {error:.2e}")
        us = median_us(call, flush)
        return {"us": round(us, 1), "tflops": round(self.problem.flops / us / 1e6, 1), "error": error}


def measure(chosen: Sequence[tuple[dict[str, Any], bool]], lengths: Sequence[int]) -> None:
    """The timing process: ceilings, then peers and tilings, each for its masks, a line for each time."""
    import torch

    from monitorgen.kernels import timing
    from monitorgen.kernels.attention.prefill_peers import PEERS

    torch.set_grad_enabled(False)
    _say({"device": timing.device_facts(), "ceilings": timing.ceilings("cuda")})
    flush = torch.empty(timing.FLUSH_BYTES, dtype=torch.int8, device="cuda")
    for special in (False, True):  # specialised warps last: what hangs there costs nothing else
        for tokens in lengths:
            for causal in (False, True):
                case = _Case(tokens, causal)
                starts = {} if special else {name: partial(case.peer, name) for name in PEERS}
                ours = [one for one, mask in chosen if _special(one) == special and mask == causal]
                starts |= {label(one): partial(case.ours, one) for one in ours}
                for name, start in starts.items():
                    row = _tried(partial(case.timed, start, flush))
                    _say({"tokens": tokens, "causal": causal, "name": name, **row})


def _lines(process: subprocess.Popen[str], timeout: float) -> Iterator[dict[str, Any]]:
    """The JSON lines that a process prints; killed, and silent, after `timeout` seconds."""
    try:
        said, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
    for line in said.splitlines():
        if line.startswith("{") and line.endswith("}"):  # the last one may be cut off
            yield json.loads(line)


def _process(*flags: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "monitorgen.kernels.attention.bench_prefill", *flags]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def orchestrate(lengths: Sequence[int], quick: bool, workers: int, patience: float) -> dict[str, Any]:
    """Compile and compare in parallel, then time in one process."""
    flags = ["--quick"] if quick else []
    began = time.monotonic()
    running = [_process("--worker", f"{n}/{workers}", *flags) for n in range(workers)]
    compared: dict[int, dict[str, Any]] = {}
    for process in running:
        left = max(0.5, patience * COMPILING - (time.monotonic() - began))
        compared |= {row.pop("task"): row for row in _lines(process, left)}
    todo = tasks(quick)
    results = [
        {**task, "tiling": label(task["tiling"]), **compared.get(n, {"failed": "did not finish"})}
        for n, task in enumerate(todo)
    ]
    bad = [one for one in results if not one.get("ok")]
    good = [
        (tiling, causal)
        for tiling in tilings(quick)
        for causal in (False, True)
        if not any(one["tiling"] == label(tiling) and one["sizes"][6] == causal for one in bad)
    ]
    compiled = time.monotonic() - began
    measuring = _process("--measure", json.dumps(good), "--lengths", ",".join(map(str, lengths)), *flags)
    rows = list(_lines(measuring, max(10.0, patience - compiled)))
    facts = rows.pop(0) if rows and "device" in rows[0] else {}
    return {
        "workload": "bench_prefill", **facts, "heads": HEADS, "head_dim": DIM, "batch_tokens": TOKENS,
        "compared": results, "rows": rows, "compile_s": round(compiled, 1),
        "measure_s": round(time.monotonic() - began - compiled, 1), "ended": measuring.returncode,
    }  # fmt: skip


def summary(found: dict[str, Any]) -> Iterator[str]:
    """Compact lines: what is wrong, where warps were specialised, each length's best beside the peers."""
    from monitorgen.kernels.attention.prefill_peers import PEERS

    limit = found.get("ceilings", {}).get("bf16_matmul_tflop_per_s", 0.0)
    yield (
        f"{found.get('device', {}).get('gpu', 'no timings')}; matmul {limit:.0f} TFLOP/s; compared in "
        f"{found['compile_s']} s, timed in {found['measure_s']} s, ended with {found['ended']}"
    )
    for one in found["compared"]:
        if "failed" in one:
            yield f"FAILED {one['tiling']} {one['sizes']}: {one['failed']}"
        elif not one["ok"] or not one["same_twice"]:
            off = f"error {one['error']:.2e}, lse {one['lse']:.1e}, same twice {one['same_twice']}"
            yield f"WRONG {one['tiling']} {one['sizes']}: {off}"
    for special in (False, True):
        seen = [one for one in found["compared"] if one["tiling"].endswith("ws") == special and "ok" in one]
        worst = max((one["error"] for one in seen), default=float("nan"))
        fired = [f"{one['tiling']}{'c' if one['sizes'][6] else 'f'}" for one in seen if one["specialized"]]
        yield (
            f"{'asked to specialise' if special else 'plain'}: {len(seen)} kernels, worst error {worst:.1e}, "
            f"specialised in {len(fired)}: {' '.join(sorted(set(fired)))}"
        )
    for key in dict.fromkeys((row["tokens"], row["causal"]) for row in found["rows"]):
        here = [row for row in found["rows"] if (row["tokens"], row["causal"]) == key]
        done = sorted((row for row in here if "us" in row), key=lambda row: row["us"])
        peers = [row for row in done if row["name"] in PEERS]
        ours = [row for row in done if row["name"] not in PEERS]
        parts = [f"{row['name']} {row['tflops']:.0f}" for row in [*peers, *ours[:4]]]
        special_rows = [row for row in ours if row["name"].endswith("-ws")]
        parts += (
            [f"best ws: {special_rows[0]['name']} {special_rows[0]['tflops']:.0f}"] if special_rows else []
        )
        ratio = f", ours/best peer {peers[0]['us'] / ours[0]['us']:.3f}" if peers and ours else ""
        share = f" {ours[0]['tflops'] / limit:.1%} of matmul" if ours and limit else ""
        yield f"{key[0]:>5} {'causal' if key[1] else 'full  '} TFLOP/s: {', '.join(parts)}{ratio}{share}"
        for row in here:
            if "failed" in row:
                yield f"      {row['name']}: {row['failed']}"


@click.command(context_settings={"max_content_width": 110})
@click.option("--lengths", default="2048,4096,8192,16384", show_default=True, help="Tokens of a prompt.")
@click.option("--quick", is_flag=True, help="Fewer tilings.")
@click.option(
    "--workers", type=click.IntRange(1, 64), default=12, show_default=True, help="Processes that compile."
)
@click.option("--patience", type=click.FloatRange(1), default=78.0, show_default=True, help="Seconds in all.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write everything here.")
@click.option("--worker", hidden=True)
@click.option("--measure", "measured", hidden=True)
def command(
    lengths: str,
    quick: bool,
    workers: int,
    patience: float,
    json_file: Path | None,
    worker: str | None,
    measured: str | None,
) -> int:
    """Compare the prefill kernels with float64, tune them, and time them beside others."""
    import torch

    try:
        wanted = [int(part) for part in lengths.split(",")]
    except ValueError:
        wanted = []
    if not wanted or any(one < 256 or TOKENS % one for one in wanted):
        raise UsageError(f"--lengths {lengths}: give divisors of {TOKENS} from 256, with commas between")
    if not torch.cuda.is_available():
        raise UsageError("bench_prefill times kernels on CUDA, and torch sees no CUDA device here")
    if worker:
        number, count = worker.split("/")
        work(int(number), int(count), quick)
        return 0
    if measured:
        measure(json.loads(measured), wanted)
        return 0
    os.environ.setdefault("TRITON_CACHE_DIR", str(Path.home() / ".triton" / "cache"))
    found = orchestrate(wanted, quick, workers, patience)
    for line in summary(found):
        click.echo(line)
    if json_file:
        json_file.write_text(json.dumps(found) + "\n", "utf-8")
    # A tiling that does not fit the device is no fault of the kernel; a wrong answer is.
    right = all(one.get("ok", not one["tiling"].startswith("default")) for one in found["compared"])
    return 0 if right and any("us" in row for row in found["rows"]) else 1


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 1 if a kernel is wrong, a default tiling failed, or nothing was timed."""
    code: int = run(command, argv, "bench_prefill")
    return code


if __name__ == "__main__":
    sys.exit(main())
