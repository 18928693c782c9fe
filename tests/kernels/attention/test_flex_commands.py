"""The FlexAttention commands: flags and the environment, agreement of the arms, layers, bench, pages."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workloads' extra is not installed")

from monitorgen.kernels.agreement import differences  # noqa: E402
from monitorgen.kernels.attention import (  # noqa: E402
    bench_flex,
    flex_attention_enhanced,
    flex_attention_large_model,
    flex_attention_native,
    kv_cache_integration_example,
    masks,
)
from monitorgen.kernels.attention.flex_attention_native import plan, refuse_blocks  # noqa: E402
from monitorgen.kernels.attention.shapes import Shape, sweep  # noqa: E402
from monitorgen.kernels.workload import WORKLOADS, UsageError  # noqa: E402

(WORKLOAD,) = (workload for workload in WORKLOADS if workload.name == "flex_attention")
CPU = torch.device("cpu")

SMALL = ["--device", "cpu", "--heads", "4", "--kv-heads", "2", "--head-dim", "16", "--repeats", "1"]


def test_the_environment_sweeps_shapes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEQ_LEN", "70, 33")
    monkeypatch.setenv("BLOCK_SIZE", "16")
    monkeypatch.setenv("DOC_SPAN", "9")
    path = tmp_path / "found.json"
    flags = [*SMALL, "--mask", "document", "--json", str(path)]
    assert flex_attention_enhanced.main(flags) == 0
    rows = [row for row in json.loads(path.read_text())["rows"] if row["mask"] == "document"]
    assert [(row["shape"], row["doc_span"]) for row in rows] == [
        (f"B1 H4/2 S{length} D16 block 16", 9) for length in (70, 33)
    ]
    for row in rows:
        length, block = (int(row["shape"].split()[i].strip("S")) for i in (2, 5))
        ids = masks.document_ids(1, length, 9)
        blocks = plan(masks.document(ids), batch=1, heads=4, queries=length, block=block).sparsity
        assert row["live"] == blocks.share
        assert row["visible_pairs"] == 4 * int((ids[0][:, None] == ids[0][None]).sum())


def test_every_combination_of_the_variables_is_a_shape() -> None:
    flags = {"batch": 1, "heads": 4, "kv_heads": 2, "head_dim": 8, "window": None, "prefix": None}
    found = list(sweep({**flags, "seq_len": "64,80", "block_size": "16,32", "doc_span": "5,6"}))
    sizes = [(shape.length, shape.block, shape.doc_span) for shape in found]
    assert sizes == [(length, block, span) for length in (64, 80) for block in (16, 32) for span in (5, 6)]
    assert [(shape.window, shape.prefix) for shape in found[::4]] == [(8, 16), (10, 20)]


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("SEQ_LEN", "12,x", "--seq-len (SEQ_LEN) '12,x': whole numbers from 1"),
        ("SEQ_LEN", "0", "--seq-len (SEQ_LEN) '0'"),
        ("BLOCK_SIZE", "48", "--block-size (BLOCK_SIZE) '48': 48 is no power of two"),
        ("BLOCK_SIZE", "8", "--block-size (BLOCK_SIZE) '8': whole numbers from 16"),
        ("DOC_SPAN", "-3", "--doc-span (DOC_SPAN) '-3'"),
    ],
)
@pytest.mark.parametrize(
    "module", [flex_attention_native, flex_attention_enhanced, flex_attention_large_model]
)
def test_bad_variables_are_one_line_and_exit_code_2(
    module: Any, variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv(variable, value)
    assert module.main(["--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.parametrize("block", [32, 64, 128])
def test_a_block_without_gradients_is_a_usage_error(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: (9, 0))
    shape = Shape(1, 2, 1, 40, 128, block, 9, 9, 9)
    refuse_blocks(shape, torch.bfloat16, CPU)
    if block == 128:
        refuse_blocks(shape, torch.bfloat16, torch.device("cuda"))
        return
    with pytest.raises(UsageError, match=rf"--block-size \(BLOCK_SIZE\): block: {block}; .* from 128"):
        refuse_blocks(shape, torch.bfloat16, torch.device("cuda"))


def test_a_flag_comes_before_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQ_LEN", "x")
    run = WORKLOAD.prepare("optimized", [*SMALL, "--seq-len", "30"])
    assert run.shape.length == 30
    run.close()


@pytest.mark.parametrize(
    "flags",
    [
        ["--mask", "sliding_window&document", "--seq-len", "61"],
        ["--mask", "causal", "--score-mod", "alibi", "--batch", "2", "--seq-len", "40"],
        ["--mask", "prefix_lm|document", "--score-mod", "soft_cap+alibi", "--cap", "2", "--seq-len", "40"],
    ],
)
def test_the_registered_arms_agree(flags: list[str]) -> None:
    runs = [WORKLOAD.prepare(arm, [*SMALL, "--doc-span", "11", *flags]) for arm in ("baseline", "optimized")]
    for run in runs:
        run.step()
        assert run.metrics()["reference_error"] < 1e-6
    first, second = (run.outcome() for run in runs)
    assert differences(first, second) == []
    numbers, tolerance = first.close["output"]
    broken = replace(second, close={"output": ([*numbers[:-1], numbers[-1] + 1], tolerance)})
    assert differences(first, broken)
    assert runs[0].flops == runs[1].flops == 4 * 16 * runs[0].pairs
    for run in runs:
        run.close()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--seq-len", "30,40"], "2 shapes by"),
        (["--mask", "casual"], "no mask 'casual'; there are full, causal"),
        (["--score-mod", "relu"], "no mod 'relu'; there are none, alibi"),
        (["--kv-heads", "3"], "--kv-heads 3: --heads 4 is no multiple"),
        (["--seq-len", "10000000"], "take a shorter --seq-len"),
    ],
)
def test_flags_that_cannot_be_run_are_refused(flags: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        WORKLOAD.prepare("baseline", [*SMALL, "--seq-len", "30", *flags])


def test_a_layer_stack_gives_what_float64_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "found.json"
    flags = ["--device", "cpu", "--masks", "sliding_window&document,prefix_lm", "--score-mod", "soft_cap"]
    flags += ["--layers", "2", "--seq-len", "48", "--repeats", "1", "--block-size", "16", "--json", str(path)]
    assert flex_attention_large_model.main(flags) == 0
    found = json.loads(path.read_text())
    assert found["ok"]
    assert 0 < found["error"] < 2e-6
    assert 0 < found["gradient_error"] < 5e-6
    (row,) = found["rows"]
    assert [one["mask"] for one in row["masks"]] == ["sliding_window(6)&document", "prefix_lm(12)"]
    assert row["layers"] == 2
    # 48 tokens through the matrices of two layers of `tiny`: 2 FLOP a number, attention on top.
    matrices = 256 * 512 + 256 * 256 + 3 * 256 * 512 + 2 * 256
    assert row["forward_flops"] * (1 - row["attention_share_of_flops"]) == pytest.approx(
        2 * 48 * 2 * matrices
    )


def test_layers_take_the_masks_in_turn() -> None:
    config = replace(flex_attention_large_model.SHAPES["tiny"], layers=3)
    layers = flex_attention_large_model.make_layers(config, CPU, torch.float32)
    seen: list[int] = []
    attends = [lambda q, k, v, n=n: seen.append(n) or q for n in range(2)]
    flex_attention_large_model.forward(config, layers, torch.randn(1, 5, config.hidden), attends)
    assert seen == [0, 1, 0]


def test_a_failing_case_ends_nothing_but_itself() -> None:
    said: list[str] = []
    bench = bench_flex.Bench(CPU, time.monotonic() + 60, 1, said.append)
    bench.attempt("bad", lambda: {}["nothing"], bench.rows)
    bench.attempt("good", lambda: {"ok": True}, bench.rows)
    bench.until = 0.0
    bench.attempt("late", lambda: {"ok": True}, bench.rows)
    assert [row["case"] for row in bench.rows] == ["good"]
    assert bench.failed == [{"case": "bad", "error": "KeyError: 'nothing'"}]
    assert bench.skipped == ["late"]


def test_the_bench_relates_times_to_live_blocks() -> None:
    said: list[str] = []
    bench = bench_flex.Bench(CPU, time.monotonic() + 60, 2, said.append)
    base = Shape(1, 2, 1, 0, 16, 32, window=20, doc_span=20, prefix=0)
    shape = replace(base, length=96)
    bench.attempt("sdpa", lambda: bench_flex.time_sdpa(bench, shape, False), bench.rows)
    for mask in ("full", "sliding_window"):
        bench.attempt(mask, lambda m=mask: bench_flex.time_flex(bench, shape, m), bench.rows)
    assert bench.failed == []
    dense, full, window = bench.rows
    assert window["ok"]
    assert window["live"] == pytest.approx(5 / 9)
    assert window["of_ideal_flex"] == pytest.approx(full["ms"] * 5 / 9 / window["ms"])
    assert window["of_ideal_sdpa_full"] == pytest.approx(dense["ms"] * 5 / 9 / window["ms"])
    assert bench_flex.check_paged(bench, 16)["ok"]


def test_the_bench_times_the_first_masks_before_it_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_flex.Bench(CPU, 0.0, 1, lambda line: None)  # no time left: every case is named in turn
    base = Shape(1, 2, 1, 0, 16, 32, window=20, doc_span=20, prefix=0)
    bench_flex.measure_all(bench, [64, 32], base, ("a", "b", "c", "d"))
    dense = ("sdpa causal=False", "sdpa causal=True", "flex full", "flex a", "flex b", "flex c")
    names = [f"S{length} {name}" for length in (32, 64) for name in dense]
    assert bench.skipped[:12] == names
    assert [name.startswith("check") for name in bench.skipped[12:]] == [True] * 4 + [False] * 2
    assert bench.skipped[16:] == ["S32 flex d", "S64 flex d"]


def test_a_compiling_process_plans_what_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_flex, "TOKENS", 64)
    seen: list[tuple[tuple[int, ...], str]] = []
    planned = bench_flex._planned

    def noted(shape: Shape, name: str, device: Any) -> Any:
        found = planned(shape, name, device)
        seen.append((found.shape, found.mask.__name__))
        return found

    monkeypatch.setattr(bench_flex, "_planned", noted)
    base = (1, 2, 1, 0, 16, 32, 20, 20, 0)
    work = {"base": base, "cases": [[32, "causal"], [64, "sliding_window/tanh"]]}
    bench_flex.compile_here(json.dumps(work), CPU)
    assert seen == [((2, 2, 32, 32), "causal"), ((1, 2, 64, 64), "sliding_window(20)")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
def test_the_gpu_command_needs_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_flex.main([]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err


def test_requests_decoded_over_pages_give_what_float64_gives(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    flags = [
        "--device",
        "cpu",
        "--requests",
        "6",
        "--new",
        "5",
        "--blocks",
        "10",
        "--prompt",
        "60",
        "--json",
        str(path),
    ]
    assert kv_cache_integration_example.main(flags) == 0
    found = json.loads(path.read_text())
    assert 0 < found["error"] < 5e-6
    assert found["compared"] == (6 + 2) * (5 + 1)
    counted = found["metrics"]
    # All but the first find the two full blocks of the system prompt, unless they were evicted between.
    assert counted["prefix_hits_tokens"] == 5 * 32
    assert counted["evicted_blocks"] > 0
    assert counted["copied_blocks"] > 0
    assert counted["blocks_in_use"] == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--block-size", "24"], "--block-size 24: 16, 32, 64 or 128"),
        (["--kv-heads", "3"], "--kv-heads 3: --heads 4"),
        (["--blocks", "3"], "--blocks 3, --batch 4: a request needs"),
        (["--score-mod", "relu"], "no mod 'relu'"),
    ],
)
def test_the_example_refuses_what_it_cannot_run(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kv_cache_integration_example.main(["--device", "cpu", *flags]) == 2
    assert said in capsys.readouterr().err
