"""FlexDecoding: every way to attend gives the float64 reference's numbers, over the listed blocks alone."""

from __future__ import annotations

import importlib
import importlib.util
import json
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workloads' extra is not installed")

from monitorgen.kernels.attention import (  # noqa: E402
    baseline_flexdecoding,
    bench_flexdecoding,
    optimized_flexdecoding,
)
from monitorgen.kernels.attention import flexdecoding_common as common  # noqa: E402
from monitorgen.kernels.attention.flexdecoding_blocks import BlockIndex, blocks_visited  # noqa: E402
from monitorgen.kernels.attention.flexdecoding_ops import check_group  # noqa: E402
from monitorgen.kernels.attention.flexdecoding_prefill import prefill  # noqa: E402
from monitorgen.kernels.attention.flexdecoding_reference import (  # noqa: E402
    attention_reference,
    logits_reference,
)
from monitorgen.kernels.attention.static_decoder import make_decoder, make_ops  # noqa: E402
from monitorgen.kernels.decode.config import Config  # noqa: E402
from monitorgen.kernels.decode.weights import random_weights  # noqa: E402
from monitorgen.kernels.workload import WORKLOADS, UsageError  # noqa: E402

SHAPE = Config(
    "small", 61, hidden=48, layers=2, heads=8, kv_heads=2, head_dim=16, intermediate=64, positions=256
)
WEIGHTS = random_weights(SHAPE, device="cpu", dtype=torch.float32, seed=5)
BLOCK, CONTEXT = 16, 128
POSITIONS = (0, 1, 14, 15, 16, 31, 32, 33, 54, 97, 126, 127)
WINDOWS = (0, 1, 2, 15, 16, 17, 33, 127, 128, 500)
WAYS = ("eager", "math", "flex")


def prompts_of(lengths: list[int], seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(SHAPE.vocab, (n,), generator=generator).tolist() for n in lengths]


@pytest.mark.parametrize("window", WINDOWS)
def test_the_blocks_are_those_that_hold_what_a_row_sees(window: int) -> None:
    blocks, most = BlockIndex(len(POSITIONS), CONTEXT, window, BLOCK, "cpu"), 0
    addresses = [t.data_ptr() for t in (blocks.offset, blocks.counts, blocks.indices)]
    blocks.move(torch.tensor(POSITIONS))
    keys = torch.arange(CONTEXT)
    seen = blocks.seen(keys[None])
    for row, position in enumerate(POSITIONS):
        first = max(0, position - window + 1) if window else 0
        assert keys[seen[row]].tolist() == list(range(first, position + 1))
        count = int(blocks.counts[row, 0, 0])
        listed = blocks.indices[row, 0, 0, :count].tolist()
        assert listed == sorted({key // BLOCK for key in range(first, position + 1)})
        most = max(most, count)
    assert most == blocks.visited == blocks_visited(CONTEXT, window, BLOCK)
    assert addresses == [t.data_ptr() for t in (blocks.offset, blocks.counts, blocks.indices)]


def test_a_window_of_512_in_16k_visits_five_blocks() -> None:
    assert blocks_visited(16384, 512, 128) == 5 == -(-512 // 128) + 1
    blocks = BlockIndex(16384 // 64, 16384, 512, 128, "cpu")
    blocks.move(torch.arange(0, 16384, 64))
    assert int(blocks.counts.max()) == 5
    assert blocks_visited(16384, 0, 128) == 128


def poisoned(blocks: BlockIndex, tensor: Any) -> Any:
    """A copy with NaN in every block that its row does not visit."""
    out = tensor.clone()
    for row in range(blocks.rows):
        visited = blocks.indices[row, 0, 0, : int(blocks.counts[row])].long()
        free = torch.ones(CONTEXT // BLOCK, dtype=torch.bool)
        free[visited] = False
        out[row, :, free.repeat_interleave(BLOCK)] = torch.nan
    return out


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("window", [0, 1, 16, 17, 33, 500])
def test_attention_is_the_references(way: Any, window: int) -> None:
    count, generator = len(POSITIONS), torch.Generator().manual_seed(window)
    q = torch.randn(count, 8, 16, generator=generator)
    keys, values = (torch.randn(count, 2, CONTEXT, 16, generator=generator) for _ in range(2))
    positions = torch.tensor(POSITIONS)
    want = attention_reference(q, keys, values, positions, window)
    ops = make_ops(way, WEIGHTS, BlockIndex(count, CONTEXT, window, BLOCK, "cpu"), count, compiled=False)
    ops.place(positions)
    if way == "math" and ops.blocks.visited * BLOCK < CONTEXT:
        keys, values = poisoned(ops.blocks, keys), poisoned(ops.blocks, values)
    out = torch.full((count, 8 * 16), torch.nan)
    ops.attention(q, keys, values, out)
    assert (out.view_as(want) - want).abs().max() < 1e-5


@pytest.mark.parametrize("window", [0, 20])
def test_every_way_decodes_the_same_tokens_after_200_prompts(window: int) -> None:
    """Greedy, in fp32, ragged rows; and they are what the float64 reference chooses."""
    generator = torch.Generator().manual_seed(8)
    for part in range(2):
        lengths = [*torch.randint(1, 90, (97,), generator=generator).tolist(), 1, 54, 97]
        prompts, tokens = prompts_of(lengths, part), {}
        for way in WAYS:
            decoder = make_decoder(WEIGHTS, way, 100, context=CONTEXT, window=window, block=BLOCK)
            out = [decoder.admit(range(100), prompts, 4).argmax(-1).tolist()]
            for _ in range(4):
                decoder.step()
                out.append(decoder.chosen.tolist())
            tokens[way] = [list(row) for row in zip(*out, strict=True)]
        assert tokens["math"] == tokens["eager"]
        assert tokens["flex"] == tokens["eager"]
        for row in (0, 97, 98, 99):
            whole = prompts[row] + tokens["eager"][row][:-1]
            want = logits_reference(WEIGHTS, whole, window)[lengths[row] - 1 :]
            assert want.argmax(-1).tolist() == tokens["eager"][row]


@pytest.mark.parametrize("chunk", [1, 7, 512])
@pytest.mark.parametrize("window", [0, 5, 16])
def test_a_prefill_in_chunks_is_the_references(chunk: int, window: int) -> None:
    lengths = [1, 23, 16]
    prompts = prompts_of(lengths, 2)
    decoder = make_decoder(WEIGHTS, "eager", 3, context=CONTEXT, window=window, block=BLOCK)
    tokens = torch.tensor([prompt + [0] * (23 - len(prompt)) for prompt in prompts])
    got = prefill(
        WEIGHTS, decoder.cache, decoder.state, torch.tensor([2, 0, 1]), tokens, torch.tensor(lengths),
        window=window, chunk=chunk,
    )  # fmt: skip
    want = torch.stack([logits_reference(WEIGHTS, prompt, window)[-1] for prompt in prompts])
    assert (got - want).norm() / want.norm() < 1e-5
    assert decoder.state.positions.tolist() == [23, 16, 1, 0]


@pytest.mark.parametrize("way", WAYS)
def test_rows_come_and_go_without_disturbing_others(way: Any) -> None:
    """A row that idles, or gets another request, leaves its neighbours' tokens as they are."""
    prompts = prompts_of([5, 30, 17], 4)
    alone = make_decoder(WEIGHTS, way, 2, context=64, window=12, block=BLOCK)
    alone.admit([1], [prompts[1]], 6)
    together = make_decoder(WEIGHTS, way, 2, context=64, window=12, block=BLOCK)
    together.admit([0, 1], prompts[:2], 6)
    for step in range(6):
        if step == 2:
            together.retire([0])
        if step == 4:
            assert together.state.positions.tolist() == [5 + 2, 30 + 4, 0]  # what idles stays
            together.admit([0], [prompts[2]], 2)
        for decoder in (alone, together):
            decoder.step()
        assert alone.chosen[1] == together.chosen[1]
    assert alone.state.positions.tolist() == [0, 36, 0]
    assert together.state.positions.tolist() == [19, 36, 0]


FLAGS = [
    "--device",
    "cpu",
    "--batch",
    "3",
    "--block",
    "16",
    "--min-prompt",
    "1",
    "--max-prompt",
    "40",
    "--tokens",
    "3",
]


def test_profiling_compares_all_arms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "found.json"
    flags = [*FLAGS, "--window", "9", "--profiling", "--repeats", "1", "--json", str(file)]
    assert optimized_flexdecoding.main(flags) == 0
    told = json.loads(file.read_text())
    assert list(told["arms"]) == list(common.NAMES.values())
    for row in told["arms"].values():
        assert row["tokens"] == told["arms"]["baseline_flexdecoding"]["tokens"]
        assert row["decoded_tokens"] == 3 * 3 == sum(map(len, row["tokens"]))
        assert row["operators"] > 50
        assert (row["launches"], row["kernels"]) == (0, 0)
        assert row["step_seconds"] > 0
    assert told["parity"]["compared"] == 2 * 9 == told["parity"]["equal"]
    said = capsys.readouterr()
    assert "18 equal, 0 near ties, 0 different" in said.out
    assert "the times say nothing about a GPU" in said.err


def test_a_wrong_window_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = common.make_decoder

    def wrong(weights: Any, way: str, slots: int, **sizes: Any) -> Any:
        return right(weights, way, slots, **{**sizes, "window": sizes["window"] + (way == "math")})

    monkeypatch.setattr(common, "make_decoder", wrong)
    assert optimized_flexdecoding.main([*FLAGS, "--window", "5", "--profiling", "--repeats", "1"]) == 1
    assert "optimized_flexdecoding_math, row" in capsys.readouterr().err


def test_the_registered_arms_agree_and_count_what_they_decoded() -> None:
    (workload,) = (one for one in WORKLOADS if one.name == "flexdecoding")
    outcomes = []
    for arm in workload.arms:
        made = workload.prepare(arm, [*FLAGS, "--window", "9"])
        made.step()
        made.step()
        outcomes.append(made.outcome())
        assert isinstance(made, common.FlexDecoding)
        tokens = made.decode()
        assert outcomes[-1].exact["tokens"] == tokens
        assert made.decoder.counters.tokens == 9
        assert made.decoder.counters.steps == 3
        assert made.metrics()["cache_blocks"] == 3
        assert made.metrics()["blocks_visited"] == (3 if arm == "baseline" else 2)
        made.close()
    assert outcomes[0].exact == outcomes[1].exact == outcomes[2].exact
    for outcome in outcomes:
        (mine, tolerance), (theirs, _) = outcome.close["logits"], outcomes[0].close["logits"]
        apart = torch.tensor(mine) - torch.tensor(theirs)
        assert apart.norm() / torch.tensor(theirs).norm() < tolerance


def test_metrics_are_served_while_it_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scraped when a run has been decoded, from the command's own exporter."""
    pages: list[str] = []
    close = common.FlexDecoding.close

    def scrape(self: Any) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            pages.append(answer.read().decode())
        close(self)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(common.FlexDecoding, "close", scrape)
    assert baseline_flexdecoding.main([*FLAGS, "--passes", "2", "--prom-port", str(port)]) == 0
    assert 'vllm:decode_tokens_total{model_name="tiny"} 18.0' in pages[0]
    assert 'vllm:decode_step_seconds_count{model_name="tiny"} 6.0' in pages[0]
    assert 'vllm:decode_graph_mode{mode="eager",model_name="tiny"} 1.0' in pages[0]


def test_bytes_count_the_window_alone() -> None:
    flags = ["--device", "cpu", "--batch", "1", "--min-prompt", "40", "--max-prompt", "40", "--tokens", "1"]
    whole, windowed = (optimized_flexdecoding.prepare([*flags, "--window", w]) for w in ("0", "9"))
    config = whole.decoder.weights.config
    assert whole.bytes_moved - windowed.bytes_moved == (40 - 8) * config.token_numbers * 4


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--max-prompt", "100", "--tokens", "30", "--context", "128"], "need 130 places, the cache holds"),
        (["--min-prompt", "9", "--max-prompt", "8"], "--min-prompt 9 is more than --max-prompt 8"),
        (["--window", "-1"], "-1 is not in the range"),
        (["--block", "24"], "a block of 24 tokens: it must be a power of two"),
        (["--model", "nowhere"], "nowhere is no folder"),
        (["--rest", "triton"], "needs --device cuda"),
        (["--batch", "900000", "--max-prompt", "4000"], "take fewer rows or a shorter context"),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_2(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert optimized_flexdecoding.main(["--device", "cpu", *flags]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_the_api_refuses_what_cannot_be() -> None:
    check_group(8, 4)
    with pytest.raises(UsageError, match="6 query heads over 2 KV heads"):
        check_group(6, 2)
    for block in (0, 8, 24):
        with pytest.raises(UsageError, match=f"a block of {block} tokens"):
            BlockIndex(1, 64, 0, block, "cpu")
    with pytest.raises(UsageError, match="a window of -1 tokens"):
        BlockIndex(1, 64, -1, 16, "cpu")
    with pytest.raises(UsageError, match="has 256 positions"):
        make_decoder(WEIGHTS, "flex", 1, context=257)
    with pytest.raises(UsageError, match="triton has no sliding window"):
        make_decoder(WEIGHTS, "triton", 1, context=64, window=3)
    decoder = make_decoder(WEIGHTS, "math", 1, context=64)
    for prompt, steps in (([], 1), ([1] * 64, 1), ([1] * 60, 5)):
        with pytest.raises(UsageError, match=f"a prompt of {len(prompt)} tokens and {steps} steps"):
            decoder.admit([0], [prompt], steps)


def test_the_triton_kernel_rotates_and_writes_as_torch_does() -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed; the extra `dev` has it on Linux")
    program = Path(__file__).with_name("interpreted_flexdecoding.py")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert max(found["apart"]) < 1e-6
    assert found["written"] == [10, 10]  # five rows, two KV heads each


@pytest.mark.skipif(not torch.cuda.is_available(), reason="kernels and graphs need a CUDA device")
def test_on_cuda_a_step_is_one_launch_and_a_tenth_of_the_baselines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lowering = importlib.import_module("torch._inductor.kernel.flex.flex_attention")
    real, chosen = lowering.create_flex_decoding_kernel, []

    def watched(*arguments: Any, **options: Any) -> Any:
        chosen.append(True)
        return real(*arguments, **options)

    monkeypatch.setattr(lowering, "create_flex_decoding_kernel", watched)
    file = tmp_path / "found.json"
    flags = ["--device", "cuda", "--model", "tiny", "--dtype", "fp32", "--window", "33", "--profiling"]
    with torch._inductor.config.patch(force_disable_caches=True):  # so that it is lowered here and now
        assert optimized_flexdecoding.main([*flags, "--json", str(file)]) == 0
    assert chosen  # the decoding kernel, not the one for long queries
    arms = json.loads(file.read_text())["arms"]
    base, best = arms["baseline_flexdecoding"], arms["optimized_flexdecoding"]
    assert best["launches"] == 1
    assert 0 < best["launches"] <= base["launches"] / 10
    assert 0 < best["kernels"] < base["kernels"]
    assert best["tokens"] == base["tokens"]


def test_the_bench_measures_every_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "found.json"
    flags = ["--device", "cpu", "--batches", "1,2", "--context", "48", "--window", "9", "--block", "16"]
    assert bench_flexdecoding.main([*flags, "--tokens", "2", "--repeats", "1", "--json", str(file)]) == 0
    told = json.loads(file.read_text())
    assert [row["batch"] for row in told["rows"]] == [1, 2]
    for row in told["rows"]:
        times = [row["arms"][common.NAMES[arm]]["step_seconds"] for arm in ("baseline", "optimized")]
        assert row["times_faster"] == pytest.approx(times[0] / times[1])
        assert row["parity"]["equal"] == 2 * 2 * row["batch"]
        assert row["launches_share"] is None  # a CPU launches nothing
    assert "2 of 3 blocks a row" in capsys.readouterr().out
    assert bench_flexdecoding.main(["--device", "cpu", "--batches", "0"]) == 2
