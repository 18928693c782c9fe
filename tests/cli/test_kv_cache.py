"""`monitorgen kv-cache`: what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

LLAMA = ["--layers", 32, "--kv-heads", 8, "--head-dim", 128, "--tokens", 131072]
CONFIG = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "max_position_embeddings": 8192,
}


def test_the_documented_call(run):
    flags = ["--layers", 80, "--hidden", 8192, "--tokens", 4096, "--batch", 8, "--dtype", "fp8"]
    flags += ["--gpu-mem-gb", 192, "--kv-overhead-frac", "0.10", "--reserve-activations-gb", 40]
    ran = run("kv-cache", *flags, "--json")
    told = json.loads(ran.out)
    assert ran.code == 0
    assert told["batch_bytes"] == int(2 * 80 * 8192 * 4096 * 8 * 1.1), "2 L H T N, and a tenth"
    assert told["cache_bytes"] == int((192 - 40) * 10**9 / 1.1)
    # 152 GB / 1.1 in blocks of 16 tokens, each 2 * 80 * 8192 bytes.
    assert told["vllm_tokens"] == told["cache_bytes"] // (2 * 80 * 8192 * 16) * 16
    table = run("kv-cache", *flags)
    assert table.code == 0
    assert f"{told['vllm_tokens']:,} tokens" in table.out
    assert "25 requests" in table.out


def test_without_memory_it_says_what_is_needed(run):
    told = json.loads(run("kv-cache", *LLAMA, "--json").out)
    assert told["request_bytes"] == 131072 * 32 * 4096
    assert "vllm_tokens" not in told


def test_a_model_folder(run):
    Path("model").mkdir()
    Path("model/config.json").write_text(json.dumps(CONFIG))
    Path("model/model.safetensors").write_bytes(b"x" * 4096)
    told = json.loads(run("kv-cache", "--config", "model", "--gpu-mem-gb", "8GiB", "--tp", 2, "--json").out)
    assert told["tokens"] == 8192, "the model's own length"
    assert told["cache_bytes"] == 8 * 1024**3 - 2048, "weights are split over the GPUs"


def test_what_does_not_fit_says_what_would(run, refused):
    said = refused("kv-cache", *LLAMA, "--batch", 4, "--kv-mem", "40GiB")
    assert "4 requests of 131,072 tokens do not fit" in said
    assert "would fit: 2 of that length, or 4 of 81,904 tokens, or 64.00 GiB" in said
    assert run("kv-cache", *LLAMA, "--batch", 2, "--kv-mem", "40GiB").code == 0
    assert run("kv-cache", *LLAMA, "--tokens", 81904, "--batch", 4, "--kv-mem", "40GiB").code == 0
    assert run("kv-cache", *LLAMA, "--batch", 4, "--kv-mem", f"{64 * 1024 + 2}MiB").code == 0


BAD = [
    ([], "--layers is missing"),
    (["--layers", 4], "--kv-heads with --head-dim is missing"),
    (["--layers", 4, "--kv-heads", 8], "--kv-heads needs --head-dim"),
    (["--layers", 4, "--head-dim", 8], "--head-dim needs --kv-heads"),
    (["--layers", 4, "--hidden", 100, "--heads", 3], "no multiple of --heads"),
    (["--layers", 4, "--hidden", 96, "--heads", 6, "--kv-heads", 4], "does not divide --heads"),
    (["--layers", 4, "--hidden", 64], "--tokens is missing"),
    (["--layers", 4, "--mla-dim", 576, "--kv-heads", 2, "--tokens", 1], "--mla-dim is all of a layer"),
    ([*LLAMA, "--sliding-layers", 4], "needs --window"),
    ([*LLAMA, "--window", 8, "--sliding-layers", 40], "are more than 32"),
    ([*LLAMA, "--state-layers", 4], "go together"),
    ([*LLAMA, "--dtype", "custom"], "--dtype custom needs it"),
    ([*LLAMA, "--bytes-per-elem", 2], "goes with --dtype custom"),
    ([*LLAMA, "--dtype", "fp8_ds_mla"], "layout of a latent"),
    ([*LLAMA, "--tp", 3], "8 KV heads do not split over --tp 3 (1, 2, 4, 8 would do)"),
    ([*LLAMA, "--pp", 33], "32 layers do not fill --pp 33 stages"),
    ([*LLAMA, "--gpu-mem-gb", 10, "--kv-mem", 10], "two ways to say the same"),
    ([*LLAMA, "--weights-gb", 10], "taken off --gpu-mem-gb"),
    ([*LLAMA, "--gpu-mem-gb", 10, "--weights-gb", 10], "nothing is left for the KV cache"),
    (["--config", "nope"], "no file or folder nope"),
    (["--config", ".", "--layers", 3], "--config says what --layers would say"),
    (["--config", "."], "is no model folder: it has no config.json"),
]


@pytest.mark.parametrize(("flags", "says"), BAD, ids=[says for _, says in BAD])
def test_bad_flags(refused, flags, says):
    assert says in refused("kv-cache", *flags)


@pytest.mark.parametrize(
    "flags",
    [
        ["--layers", "-1"],
        ["--layers", "x"],
        ["--tokens", "0"],
        ["--dtype", "fp3"],
        ["--gpu-mem-gb", "much"],
        ["--gpu-mem-gb", "-3"],
        ["--gpu-mem-gb", "1e400"],
        ["--gpu-mem-gb", "9999999999999TiB"],
        ["--layer", "3"],
        ["--gpu-memory-utilization", "1.5"],
        ["--gpu-memory-utilization", "0"],
        ["--tokens", "99999999999999"],
    ],
    ids=" ".join,
)
def test_flags_that_cannot_be(run, flags):
    ran = run("kv-cache", *LLAMA, *flags)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.count("Error: ") == 1
    assert flags[0] in ran.err


FILES = [
    ("config.json", "{", "is not JSON"),
    ("config.json", "[]", "holds no mapping"),
    ("config.json", "{}", "no num_hidden_layers"),
    ("config.json", '{"num_hidden_layers": "3"}', "num_hidden_layers is '3', not a whole number"),
    ("config.json", '{"num_hidden_layers": 0}', "0 layers cannot be"),
    ("config.json", '{"num_hidden_layers": 3, "num_attention_heads": 0}', "without attention heads"),
    (
        "config.json",
        '{"num_hidden_layers": 3, "num_attention_heads": 8, "hidden_size": 4}',
        "less than the number",
    ),
    (
        "config.json",
        json.dumps({**CONFIG, "layer_types": ["full_attention", "odd"]}),
        "unknown kind of layer 'odd'",
    ),
    ("a.yaml", "layers: []\n", "at least 1 item"),
    ("a.yaml", "layers:\n  - {kind: full}\n", "a.yaml:2:5: layers.0: a layer of kind full needs kv_heads"),
    ("a.yaml", "layers:\n  - {kind: ful, kv_heads: 1, head_dim: 1}\n", "layers.0.kind"),
    ("a.yaml", "layers:\n  - {kind: mla, latent: 576, window: 3}\n", "has no window"),
    ("a.yaml", "layer: []\n", "did you mean 'layers'?"),
    ("a.yaml", "layers:\n  - {kind: full, kv_heads: 1, head_dims: 1}\n", "did you mean 'head_dim'?"),
    ("a.yaml", "layers:\n  - {kind: full, kv_heads: 1.5, head_dim: 1}\n", "layers.0.kv_heads"),
    ("a.yaml", "weights: much\nlayers:\n  - {kind: none}\n", "is no size"),
    ("a.yaml", "layers:\n  - {kind: none}\n", "no layer that caches anything"),
    ("a.yaml", "repeat: 10000\nlayers:\n  - {kind: none, count: 10000}\n", "more than any model has"),
    ("a.yaml", "{", "not valid YAML"),
]


@pytest.mark.parametrize(("name", "text", "says"), FILES, ids=[says for _, _, says in FILES])
def test_bad_files(refused, name, text, says):
    Path(name).write_text(text)
    assert says in refused("kv-cache", "--config", name, "--tokens", 100)


def test_what_cannot_be_mixed(refused):
    Path("a.yaml").write_text(
        "layers:\n  - {kind: mla, latent: 577}\n  - {kind: chunked, kv_heads: 8, head_dim: 64, window: 64}\n"
    )
    assert "do not divide those of the other layers" in refused(
        "kv-cache", "--config", "a.yaml", "--tokens", 4096
    )
