"""The bucketed loop: an engine's batches on captured steps, the same tokens as decoding one by one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the workloads need torch")

from monitorgen.kernels.counters import DecodeCounters  # noqa: E402
from monitorgen.kernels.decode import v1_bucketed_decode_loop as loop  # noqa: E402
from monitorgen.kernels.decode import vllm_engine  # noqa: E402
from monitorgen.kernels.decode.bucket_decoder import BucketDecoder, bucket_sizes  # noqa: E402
from monitorgen.kernels.decode.bucket_traffic import DecoderExecutor, Mix, Shadow, Traffic  # noqa: E402
from monitorgen.kernels.decode.config import SHAPES, Config  # noqa: E402
from monitorgen.kernels.decode.engine_core import EngineCore  # noqa: E402
from monitorgen.kernels.decode.engine_types import EngineConfig, EngineRequest, RequestOutput  # noqa: E402
from monitorgen.kernels.decode.model import generate  # noqa: E402
from monitorgen.kernels.decode.polling import poll_until_done  # noqa: E402
from monitorgen.kernels.decode.state import static_cache  # noqa: E402
from monitorgen.kernels.decode.torch_ops import TorchOps  # noqa: E402
from monitorgen.kernels.decode.weights import Weights, random_weights  # noqa: E402
from monitorgen.kernels.workload import UsageError  # noqa: E402

SMALL = Config(
    "small", vocab=61, hidden=16, layers=1, heads=2, kv_heads=1, head_dim=8, intermediate=24, positions=64
)


@pytest.fixture(scope="module")
def weights() -> Weights:
    return random_weights(SMALL, device="cpu", dtype=torch.float32, seed=3)


def alone(weights: Weights, request: EngineRequest) -> list[int]:
    """What a request gets when it is decoded alone, without engine, buckets or padding."""
    cache, state = static_cache(SMALL, 1, 64, device="cpu", dtype=torch.float32)
    with torch.inference_mode():
        return generate(
            weights, cache, state, TorchOps(weights), [list(request.prompt_token_ids)], request.max_tokens
        )[0]


def requests(count: int) -> list[EngineRequest]:
    traffic = Traffic(Mix(prompt_tokens=20, max_tokens=12, vocabulary=SMALL.vocab, seed=5), 0.0, 0.0)
    return [traffic.take() for _ in range(count)]


def decoder(weights: Weights, slots: int, buckets: tuple[int, ...] | None, pages: int = 40) -> BucketDecoder:
    made = BucketDecoder(
        weights,
        TorchOps(weights),
        DecodeCounters("small"),
        slots=slots,
        pages=pages,
        page_size=4,
        width=10,
        buckets=buckets,
    )
    made.warm_up()
    return made


@pytest.mark.parametrize(
    ("buckets", "num_blocks", "preempts"),
    [((1, 2, 4), 40, False), ((4,), 40, False), (None, 40, False), ((2, 4), 14, True)],
    ids=["buckets", "one bucket", "ragged", "few blocks"],
)
def test_every_request_gets_the_tokens_that_it_gets_alone(
    weights: Weights,
    buckets: tuple[int, ...] | None,
    num_blocks: int,
    preempts: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = EngineConfig(
        num_blocks=num_blocks, block_size=4, max_num_seqs=4, max_num_batched_tokens=9, max_model_len=36,
        async_scheduling=False,
    )  # fmt: skip
    made = decoder(weights, 4, buckets, num_blocks)
    prefills: list[str] = []
    compute = made.prefill
    monkeypatch.setattr(
        made, "prefill", lambda name, tokens: (prefills.append(name), compute(name, tokens))[1]
    )
    core = EngineCore(config, DecoderExecutor(made))
    asked = requests(7)
    for request in asked:
        core.add_request(request)
    served = poll_until_done(core)
    assert served.tokens == {request.request_id: alone(weights, request) for request in asked}
    assert (core.scheduler.preemptions > 0) == preempts
    assert made.requests == 0
    counters = made.counters
    # A prefill gives a token too, also the one after a preemption; the others come from steps.
    assert counters.tokens == sum(map(len, served.tokens.values())) - len(prefills)
    assert (len(prefills) > len(asked)) == preempts
    if buckets:
        assert sum(counters.recaptures.values()) == 0
        assert counters.captures == len(buckets)
    else:
        assert counters.recaptures["new_shape"] == counters.captures == len(counters.replays) > 1
        assert counters.padding_tokens == 0


def test_padding_is_counted_by_the_bucket_that_ran(weights: Weights) -> None:
    made = decoder(weights, 4, (1, 4))
    for name in "abc":
        made.admit(name)
        made.set_pages(name, [ord(name) - 97])
        made.prefill(name, [1, 2])
    made.decode(["a", "b", "c"])
    made.decode(["b"])
    counters = made.counters
    assert (counters.tokens, counters.padding_tokens, dict(counters.replays)) == (4, 1, {4: 1, 1: 1})
    assert counters.batch_size == 1
    assert counters.capture_seconds > 0
    assert counters.allocator_bytes() > sum(t.nbytes for t in (made.cache.k, made.cache.v))
    assert counters.mode == "eager"


def test_padded_rows_leave_other_requests_alone(weights: Weights) -> None:
    padded, exact = decoder(weights, 2, (4,)), decoder(weights, 2, (1,))
    for made in (padded, exact):
        for name, page in (("a", 0), ("b", 5)):
            made.admit(name)
            made.set_pages(name, [page])
            made.prefill(name, [3, 4])
        made.decode(["a"])
    assert torch.equal(padded.cache.k[:, 5], exact.cache.k[:, 5])
    assert torch.allclose(padded.cache.k[:, :40], exact.cache.k[:, :40], atol=1e-5)
    assert padded.state.positions[-1] == 0


def test_beside_another_engine_its_tokens_are_read_and_compared(weights: Weights) -> None:
    asked = EngineRequest("r", (5, 6, 7), 6)
    right = alone(weights, asked)
    shadow = Shadow(decoder(weights, 2, (1, 2)), pages=40)
    shadow.expect(asked)
    wrong_at = 2
    for index, token in enumerate(right):
        told = (token + 1) % SMALL.vocab if index == wrong_at else token
        reason = "length" if index == len(right) - 1 else None
        shadow.follow([RequestOutput("r", (told,), reason)])
    assert shadow.compared == len(right)
    assert shadow.agreed < len(right)
    again = Shadow(decoder(weights, 2, (1, 2)), pages=40)
    again.expect(asked)
    for index, token in enumerate(right):
        again.follow([RequestOutput("r", (token,), "length" if index == len(right) - 1 else None)])
    assert (again.agreed, again.compared) == (len(right), len(right))


@pytest.mark.parametrize(
    ("slots", "sizes", "kept"),
    [(8, [1, 2, 4, 8, 16], (1, 2, 4, 8)), (5, [1, 2, 4, 8, 16], (1, 2, 4, 8)), (9, [1, 2], (1, 2, 9))],
)
def test_buckets_always_hold_all_seats(slots: int, sizes: list[int], kept: tuple[int, ...]) -> None:
    assert bucket_sizes(slots, sizes) == kept


def test_traffic_has_the_rate_that_is_asked_for() -> None:
    traffic = Traffic(Mix(4, 4, 10, 1), rate=50.0, start=0.0)
    while traffic.due(20.0):
        traffic.take()
    assert traffic.made == pytest.approx(1000, rel=0.1)
    assert 0 < traffic.wait(20.0) < 1


TINY = ["--device", "cpu", "--max-num-seqs", "2", "--buckets", "1,2", "--rate", "0", "--max-tokens", "8"]


@pytest.fixture
def small_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "tiny", SMALL)


@pytest.mark.usefixtures("small_shape")
def test_a_timed_run_gives_the_same_tokens_every_time() -> None:
    run = loop.prepare([*TINY, "--requests", "3", "--prompt-tokens", "8", "--max-model-len", "32"])
    run.step()
    first = run.outcome()
    run.step()
    assert run.outcome() == first
    assert len(first.exact["tokens"]) == 3
    assert (run.metrics()["captures"], run.metrics()["recaptures"]) == (2, 0)


@pytest.mark.usefixtures("small_shape")
def test_the_command_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "out.json"
    flags = ["--requests", "3", "--prompt-tokens", "8", "--max-model-len", "32", "--json", str(file)]
    assert loop.main([*TINY, *flags]) == 0
    said = capsys.readouterr().out
    document = json.loads(file.read_text())
    assert "our scheduler" in said
    assert "no CUDA graphs on this device" in said
    assert (document["answered"], document["recaptures"], document["graphs"]) == (3, 0, False)
    # Each request's first token comes from its prefill, the others from decode steps.
    assert document["tokens"] == document["decode_tokens"] + 3


@pytest.mark.usefixtures("small_shape")
def test_it_says_that_it_falls_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vllm_engine, "installed", lambda: False)
    sizes = ["--requests", "1", "--prompt-tokens", "8", "--max-model-len", "32"]
    assert loop.main([*TINY, *sizes, "--use-vllm", "--model", "tiny"]) == 0
    captured = capsys.readouterr()
    assert "vLLM is not installed: falling back to our own scheduler" in captured.err
    assert "our scheduler" in captured.out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--device", "cuda"], "no CUDA device"),
        (["--ops", "triton"], "--ops triton needs --device cuda"),
        (["--use-vllm"], "--use-vllm needs --model"),
        (["--model", "./nowhere"], "./nowhere is no model folder"),
        (["--max-num-seqs", "0"], "--max-num-seqs 0"),
        (["--max-tokens", "300"], "do not fit --max-model-len 256"),
        (["--max-tokens", "0"], "give 1 or more"),
        (["--max-model-len", "4096"], "4096"),
        (["--num-blocks", "3"], "3 KV blocks"),
        (["--buckets", "0,2"], "bucket size 0"),
        (["--buckets", "x"], "--buckets x"),
        (["--prom-duration", "5"], "needs --prom-port"),
        (["--requests", "0"], "0 is not in the range"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    flags: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert loop.main(flags) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert len(captured.err.splitlines()) == 1


def test_a_port_in_use_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert loop.main([*TINY, "--prom-port", str(taken.getsockname()[1])]) == 2
    assert "cannot listen" in capsys.readouterr().err


def test_a_timed_run_refuses_vllm() -> None:
    with pytest.raises(UsageError, match="our scheduler"):
        loop.prepare(["--use-vllm", "--model", "x"])


def scrape(port: int) -> dict[str, float]:
    """Series and values of a page."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as page:
        lines = page.read().decode().splitlines()
    return {
        line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")
    }


def test_traffic_goes_on_while_it_serves_and_sigterm_ends_it() -> None:
    code = "import sys; from monitorgen.kernels.decode.v1_bucketed_decode_loop import main; sys.exit(main())"
    flags = ["--device", "cpu", "--max-num-seqs", "2", "--buckets", "1,2", "--rate", "0", "--requests", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", code, *flags, "--prom-port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        port, line = 0, ""
        while "traffic goes on until SIGTERM" not in line:
            line = process.stderr.readline()
            assert line or process.poll() is None, "it ended"
            if line.startswith("serving"):
                port = int(line.split(":")[2].split("/")[0])
        name = 'vllm:decode_tokens_total{model_name="tiny"}'
        first = scrape(port)
        deadline = time.monotonic() + 60
        while scrape(port)[name] <= first[name]:
            assert time.monotonic() < deadline, "no more tokens are decoded"
        recaptures = 'vllm:decode_graph_recaptures_total{model_name="tiny",reason="new_shape"}'
        assert first[recaptures] == 0
        assert first['vllm:decode_graph_captures_total{model_name="tiny"}'] == 2
        assert first['vllm:decode_allocator_bytes{model_name="tiny"}'] > 1e6
        assert 'vllm:decode_graph_pool_bytes{model_name="tiny"}' not in first
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert process.stdout is not None
        assert "requests answered" in process.stdout.read()
