"""The runner: parity holds in seconds on a CPU and fails for a wrong mask; numbers follow from times."""

from __future__ import annotations

import json
import socket
import threading
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workloads' extra is not installed")

from monitorgen.kernels.attention import static_decoder  # noqa: E402
from monitorgen.kernels.attention.flexdecoding_blocks import BlockIndex  # noqa: E402
from monitorgen.kernels.attention.flexdecoding_reference import logits_reference  # noqa: E402
from monitorgen.kernels.counters import DecodeCounters, RunnerCounters  # noqa: E402
from monitorgen.kernels.decode import run_vllm_decoder  # noqa: E402
from monitorgen.kernels.decode.native_flex import NativeFlex  # noqa: E402
from monitorgen.kernels.decode.parity import compare_chosen, epsilon  # noqa: E402
from monitorgen.kernels.decode.runner_backends import DecoderBackend, Served  # noqa: E402
from monitorgen.kernels.decode.runner_report import measured, notes, picture, quantiles  # noqa: E402
from monitorgen.kernels.decode.runner_vllm import find_server  # noqa: E402
from monitorgen.kernels.decode.weights import make_weights  # noqa: E402
from monitorgen.kernels.decode.workload_config import Request, Slo, load_config  # noqa: E402
from monitorgen.kernels.workload import WORKLOADS, UsageError  # noqa: E402

CONFIG = """
requests: {count: 5, prompt_tokens: [1, 20], new_tokens: [1, 6]}
arrivals: {process: poisson, rate: 500}
decoder: {backends: BACKENDS, slots: 2, context: 32, window: 9, block: 16}
slo: {ttft_ms: 60000, inter_token_ms: 60000}
parity: {logits_of: 2}
"""


def config_file(folder: Path, backends: str = "[torch, math, flex]") -> Path:
    file = folder / "workload.yaml"
    file.write_text(CONFIG.replace("BACKENDS", backends))
    return file


def run(*flags: str) -> int:
    code: int = run_vllm_decoder.main(list(flags))
    return code


def test_parity_holds_and_everything_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, plot = tmp_path / "found.json", tmp_path / "found.svg"
    assert run("--config", str(config_file(tmp_path)), "--json", str(out), "--plot", str(plot)) == 0
    told = json.loads(out.read_text())
    assert told["parity"] == "holds"
    assert list(told["backends"]) == ["torch", "math", "flex"]
    for row in told["backends"].values():
        assert row["generated"] == told["backends"]["torch"]["generated"]
        assert row["tokens"] == sum(map(len, row["generated"])) == row["parity"]["equal"]
        assert row["parity"]["compared"] == row["tokens"]
        assert 0 < row["logit_error"] < told["logits_tolerance"]
        assert row["requests"] == row["requests_met_slo"] == 5 == len(row["ttft_seconds"])
        assert len(row["inter_token_seconds"]) == row["tokens"] - 5
        assert min(row["ttft_seconds"]) > 0
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"])
        assert row["goodput_requests_per_second"] == pytest.approx(5 / row["seconds"])
    ET.fromstring(plot.read_text())
    said = capsys.readouterr().out
    assert "accuracy parity with native FlexAttention holds" in said
    assert len(said.splitlines()) == 1 + 1 + 3 + 1


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("torch", {"seen": lambda self, keys: keys <= self.offset[:, None]}),  # no window
        ("math", {"seen": lambda self, keys: keys < self.offset[:, None]}),  # not its own token
    ],
)
def test_a_wrong_mask_fails(
    tmp_path: Path,
    name: str,
    broken: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for attribute, function in broken.items():
        monkeypatch.setattr(BlockIndex, attribute, function)
    assert run("--config", str(config_file(tmp_path, f"[{name}]"))) == 1
    said = capsys.readouterr()
    assert "accuracy parity with native FlexAttention fails" in said.out
    assert f"{name}: logits differ by" in said.err


def test_a_window_that_is_one_short_fails_in_flex(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = static_decoder.BlockIndex

    def short(rows: int, context: int, window: int, *rest: Any) -> BlockIndex:
        return right(rows, context, window - 1, *rest)

    monkeypatch.setattr(static_decoder, "BlockIndex", short)
    assert run("--config", str(config_file(tmp_path, "[flex]"))) == 1
    assert "flex: logits differ by" in capsys.readouterr().err


def test_metrics_are_served_with_what_was_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scraped at the moment at which the run has been told, from the exporter of the command itself."""
    pages: list[str] = []
    tell = run_vllm_decoder._tell

    def scrape(*arguments: Any) -> None:
        tell(*arguments)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            pages.append(answer.read().decode())

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(run_vllm_decoder, "_tell", scrape)
    out = tmp_path / "found.json"
    flags = ["--config", str(config_file(tmp_path, "[torch, math]")), "--json", str(out)]
    assert run(*flags, "--prom-port", str(port)) == 0
    rows = json.loads(out.read_text())["backends"]
    lines = dict(line.rsplit(" ", 1) for line in pages[0].splitlines() if not line.startswith("#"))
    for name, row in rows.items():
        labels = f'{{backend="{name}",model_name="tiny"'
        assert float(lines[f"monitorgen_runner_tokens_total{labels}}}"]) == row["tokens"]
        assert float(lines[f'monitorgen_runner_requests_total{labels},slo="met"}}']) == 5
        equal = f'monitorgen_runner_parity_tokens_total{labels},result="equal"}}'
        assert float(lines[equal]) == row["tokens"]
        count = f"monitorgen_runner_time_to_first_token_seconds_count{labels}}}"
        assert float(lines[count]) == 5
    decoded = sum(row["tokens"] - 5 for row in rows.values())  # first tokens come from prefills
    assert float(lines['vllm:decode_tokens_total{model_name="tiny"}']) == decoded


def test_native_flex_attention_is_the_float64_reference() -> None:
    weights = make_weights("tiny", device="cpu", dtype=torch.float32)
    tokens = torch.randint(264, (61,), generator=torch.Generator().manual_seed(3)).tolist()
    for window in (0, 17):
        native = NativeFlex(weights, 64, window)
        for count in (1, 2, 61):
            want = logits_reference(weights, tokens[:count], window)
            got = native.logits(tokens[:count], 0)
            assert (got - want).norm() / want.norm() < 1e-5
        assert torch.equal(native.logits(tokens, 40), native.logits(tokens, 0)[40:])


@pytest.mark.parametrize("broken", [False, True])
def test_in_16_bits_near_ties_are_counted_and_a_wrong_mask_still_fails(
    tmp_path: Path, broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = config_file(tmp_path, "[torch, math]"), tmp_path / "found.json"
    file.write_text("dtype: bf16\nseed: 2\n" + file.read_text())
    if broken:
        monkeypatch.setattr(BlockIndex, "seen", lambda self, keys: keys <= self.offset[:, None])
    assert run("--config", str(file), "--device", "cpu", "--json", str(out)) == int(broken)
    rows = json.loads(out.read_text())["backends"]
    limit = json.loads(out.read_text())["logits_tolerance"]
    for row in rows.values():
        parity = row["parity"]
        assert parity["equal"] + parity["near_ties"] + parity["different"] == row["tokens"]
        assert (row["logit_error"] > limit) == broken
        assert broken or parity["margin"] <= 1


def test_a_backend_whose_logits_are_nan_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one request only, and not in the first: nothing on the way to the verdict may lose it."""
    right = DecoderBackend.logits

    def poisoned(self: DecoderBackend, served: Served) -> Any:
        logits = right(self, served)
        return logits * torch.nan if served.request.number == 1 else logits

    monkeypatch.setattr(DecoderBackend, "logits", poisoned)
    assert run("--config", str(config_file(tmp_path, "[torch]"))) == 1
    assert "torch: logits differ by nan of their norm" in capsys.readouterr().err


def test_near_ties_are_allowed_in_16_bits_alone() -> None:
    """A token behind the likeliest by less than epsilon is a near tie, by more it is different."""
    logits = torch.tensor([[0.0, 4.0, 3.99, -4.0]] * 3)
    allowed = float(epsilon(logits, torch.bfloat16, 2)[0])
    assert 0.01 < allowed < 8.0
    half = compare_chosen(logits, [1, 2, 3], torch.bfloat16, 2, "who: ")
    assert (half.compared, half.equal, half.near_ties, half.different) == (3, 1, 1, 1)
    assert half.first.startswith("who: token 2 is 3, the reference chooses 1")
    assert half.margin == pytest.approx(8.0 / allowed, rel=1e-5)
    single = compare_chosen(logits, [1, 2, 3], torch.float32, 2)
    assert (single.equal, single.near_ties, single.different) == (1, 0, 2)
    both = half + single
    assert (both.compared, both.equal, both.different, both.first) == (6, 2, 3, half.first)


def served(arrival: float, *times: float) -> Served:
    return Served(Request(0, (1,), len(times), arrival), [0] * len(times), list(times))


def test_latencies_follow_from_times() -> None:
    counters = RunnerCounters("tiny", "flex")
    rows = [served(1.0, 1.2, 1.3, 1.5), served(2.0, 2.4), served(2.5, 2.6, 3.5)]
    found = measured("flex", rows, Slo(ttft_ms=300.0, inter_token_ms=200.0), counters)
    assert found.first == pytest.approx((0.2, 0.4, 0.1))
    assert found.gaps == pytest.approx((0.1, 0.2, 0.9))
    assert (found.tokens, found.met) == (6, 1)  # the second's first token, the third's gap came too late
    assert found.seconds == pytest.approx(2.5)
    assert found.goodput == pytest.approx(1 / 2.5)
    assert counters.requests == {"met": 1, "missed": 2}
    assert counters.tokens == 6
    assert (counters.first_seconds, counters.gap_seconds) == pytest.approx((0.7, 1.2))


def test_near_ties_and_log_probabilities_are_told() -> None:
    parity = {"near_ties": 2, "margin": 0.25}
    rows = {"flex": {"parity": parity, "logprob_error": None}, "web": {"parity": {"near_ties": 0}}}
    rows["web"]["logprob_error"] = 3e-4
    assert notes(rows) == [
        "flex: 2 near ties, the widest at 0.25 of what rounding explains",
        "web: log-probabilities of its tokens differ by 3.0e-04 at most",
    ]


def test_quantiles_are_nearest_ranks() -> None:
    assert quantiles([]) == {}
    assert quantiles([3.0]) == {"p50": 3.0, "p90": 3.0, "p99": 3.0}
    assert quantiles(list(range(1, 101))) == {"p50": 50, "p90": 90, "p99": 99}


def test_a_picture_has_a_dot_for_every_sample() -> None:
    rows = [served(0.0, 0.2, 0.3), served(0.0, 0.4)]
    found = measured("a<b", rows, Slo(), RunnerCounters("tiny", "a"))
    root = ET.fromstring(picture([found, found], Slo()))
    kinds = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert kinds.count("circle") == 2 * (2 + 1)
    assert "a<b" in [element.text for element in root.iter()]


def test_the_registered_workload_serves_all_requests(tmp_path: Path) -> None:
    (workload,) = (one for one in WORKLOADS if one.name == "run_vllm_decoder")
    run = workload.prepare("optimized", ["--config", str(config_file(tmp_path))])
    run.step()
    first = run.outcome()
    run.step()
    assert first.exact == run.outcome().exact
    assert [len(tokens) for tokens in first.exact["tokens"]] == [one.new_tokens for one in run.requests]
    assert run.metrics()["tokens"] == 2 * sum(one.new_tokens - 1 for one in run.requests)
    run.close()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--config", "nothing.yaml"], "no such file"),
        (["--model", "nowhere"], "nowhere is no folder"),
        (["--vllm-url", "http://127.0.0.1:9"], "tiny has random weights, which no vLLM serves"),
        (["--config", "gpu", "--device", "cpu"], "triton needs a CUDA device"),
        (["--json", "nowhere/found.json"], "--json nowhere/found.json: the folder nowhere cannot be written"),
        (["--plot", "."], "--plot .: is a folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*flags) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost:8000", "give http://HOST:PORT"),
        ("http://:1", "give http://HOST:PORT"),
        ("http://127.0.0.1:70000", "give http://HOST:PORT"),
        ("http://127.0.0.1:9", "no answer"),
    ],
)
def test_a_server_that_cannot_be_reached(url: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        find_server(url)


class Failing(BaseHTTPRequestHandler):
    """Names a model and then cannot serve it, as a vLLM whose engine has died."""

    def do_GET(self) -> None:
        if self.path.startswith("/locked"):
            self.send_error(401)
            return
        self.answer(200, b'{"data": [{"id": "tiny", "max_model_len": 1024}]}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(500, b'{"error": "EngineDeadError"}')

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def failing() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Failing) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_server_that_fails_is_a_problem_not_an_answer(failing: str, tmp_path: Path) -> None:
    config = load_config(config_file(tmp_path))
    weights = make_weights("tiny", device="cpu", dtype=torch.float32)
    runners = {"vllm-http": RunnerCounters("tiny", "vllm-http")}
    found = run_vllm_decoder.run_all(config, weights, failing, DecodeCounters("tiny"), runners)
    assert found.found == {}
    assert len(found.problems) == 1
    assert "vllm-http: http://127.0.0.1" in found.problems[0]
    assert "HTTP 500" in found.problems[0]
    assert "EngineDeadError" in found.problems[0]
    assert runners["vllm-http"].tokens == 0


def test_a_server_is_asked_what_it_serves(failing: str) -> None:
    server = find_server(f"{failing}/v1")
    assert (server.model, server.max_model_len, server.path) == ("tiny", 1024, "")
    with pytest.raises(UsageError, match="HTTP 401: set VLLM_API_KEY"):
        find_server(f"{failing}/locked")
