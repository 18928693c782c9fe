"""The decoder runner beside a real vLLM: the same weights, the same requests, the same tokens."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the workloads' extra is not installed")
pytest.importorskip("safetensors", reason="checkpoints are read with it")

from monitorgen.kernels.decode import run_vllm_decoder
from monitorgen.prove.vllm_server import (
    VllmOptions,
    VllmServer,
    cache_folder,
    serve_vllm,
    tiny_model,
    vllm_python,
)

pytestmark = pytest.mark.live

CONFIG = """
model: {model}
dtype: fp32
requests: {{count: 10, prompt_tokens: [1, 60], new_tokens: [1, 20]}}
arrivals: {{process: poisson, rate: 20}}
decoder: {{backends: [torch, flex], slots: 4, context: 128, block: 16}}
slo: {{ttft_ms: 60000, inter_token_ms: 60000}}
"""


@pytest.fixture(scope="module")
def model() -> Path:
    """The checkpoint that vLLM serves and that our decoder loads."""
    return tiny_model(vllm_python(), cache_folder())


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """A real vLLM in float32, uncompiled: that changes no token and saves a minute."""
    options = VllmOptions(model=model, dtype="float32", eager=True)
    with serve_vllm(options, workdir=tmp_path_factory.mktemp("vllm")) as running:
        yield running


def test_vllm_decodes_what_native_flex_attention_chooses(
    server: VllmServer, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "workload.yaml", tmp_path / "found.json"
    file.write_text(CONFIG.format(model=model))
    flags = ["--config", str(file), "--vllm-url", server.url, "--json", str(out)]
    code = run_vllm_decoder.main(flags)
    with capsys.disabled():
        print("\n" + capsys.readouterr().out)
    assert code == 0
    rows = json.loads(out.read_text())["backends"]
    assert list(rows) == ["torch", "flex", "vllm-http"]
    theirs = rows["vllm-http"]
    assert theirs["generated"] == rows["flex"]["generated"]
    assert theirs["parity"]["equal"] == theirs["tokens"] > 10
    assert 0 < theirs["logprob_error"] < 1e-3
    assert theirs["requests"] == 10


def test_another_models_weights_fail(
    server: VllmServer, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server with other weights is found out: exit code 1, with the first token that differs."""
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text((model / "config.json").read_text())
    tensors = load_file(model / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    save_file({**tensors, name: -tensors[name]}, other / "model.safetensors")
    file = tmp_path / "workload.yaml"
    file.write_text(CONFIG.format(model=other).replace("[torch, flex]", "[torch]"))
    assert run_vllm_decoder.main(["--config", str(file), "--vllm-url", server.url]) == 1
    assert "vllm-http, request " in capsys.readouterr().err


def test_vllm_in_our_process_decodes_the_same(model: Path, tmp_path: Path) -> None:
    """Its engine core as a backend, in the interpreter that has vLLM, from a bare checkout."""
    root = Path(__file__).resolve().parents[2]
    file, out = tmp_path / "workload.yaml", tmp_path / "found.json"
    file.write_text(CONFIG.format(model=model).replace("[torch, flex]", "[torch, vllm]"))
    program = (
        "import sys; root = sys.argv.pop(1); sys.path.insert(0, root); import monitorgen; "
        "sys.path.remove(root); from monitorgen.kernels.decode.run_vllm_decoder import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [vllm_python(), "-P", "-c", program, root, "--config", file, "--json", out, "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(out.read_text())["backends"]
    assert list(rows) == ["torch", "vllm"]
    assert rows["vllm"]["generated"] == rows["torch"]["generated"]
    assert rows["vllm"]["parity"]["equal"] == rows["vllm"]["tokens"] > 10
