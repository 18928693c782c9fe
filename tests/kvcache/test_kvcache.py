"""KV cache sizing: vLLM's numbers to the token, configs of real models, shapes as people write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monitorgen.errors import InputError
from monitorgen.kvcache import (
    Budget,
    ElementType,
    Layer,
    Model,
    Serving,
    State,
    even_layers,
    parse_size,
    plan_of,
)
from monitorgen.kvcache.groups import stages_of
from monitorgen.kvcache.huggingface import model_of
from monitorgen.kvcache.read import Numbers, flat_model, read_model

GIB = 1024**3
LENGTH = 131_072

FULL = Layer("full", 8, 128, 128)
# What vLLM 0.32 reports on a CPU for these models and so much memory, with 8,192 tokens in flight.
VLLM = {
    "Llama-3-8B": ([(32, FULL)], 40, 16, 327_680),
    "DeepSeek-V3": ([(61, Layer("mla", 1, 576))], 40, 64, 611_136),
    "gpt-oss-20b shape": (
        [(12, Layer("sliding", 8, 64, 64, 128)), (12, Layer("full", 8, 64, 64))],
        10,
        16,
        410_771,
    ),
    "Gemma-3 shape": ([(8, FULL), (40, Layer("sliding", 8, 128, 128, 1024))], 20, 16, 484_671),
    "attention and Mamba": ([(4, FULL), (28, Layer("state", state=State(2 * 1024**2)))], 40, 16, 2_551_667),
}


@pytest.mark.parametrize("name", VLLM)
def test_as_vllm_reports(name: str) -> None:
    kinds, memory, block, tokens = VLLM[name]
    plan = plan_of(Model(even_layers(kinds)), Serving(block_tokens=block))
    assert plan.vllm_tokens(memory * GIB, LENGTH) == tokens


# Bytes of K and V of one head of 128 in one token, from the layouts: elements and then scales.
HEADS = [
    ("fp32", 0.0, 0, 1024),
    ("fp16", 0.0, 0, 512),
    ("bf16", 0.0, 0, 512),
    ("fp8", 0.0, 0, 256),
    ("int8", 0.0, 0, 2 * (128 + 4)),
    ("int4", 0.0, 0, 2 * (64 + 4)),
    ("int4", 0.0, 32, 2 * (64 + 4 * 4)),
    ("fp4", 0.0, 0, 2 * (64 + 8)),
    ("custom", 0.75, 0, 192),
]


@pytest.mark.parametrize(("name", "custom", "group", "size"), HEADS)
def test_element_types(name: str, custom: float, group: int, size: int) -> None:
    plan = plan_of(
        Model((Layer("full", 1, 128, 128),)), Serving(ElementType(name, custom, group), block_tokens=16)
    )
    assert plan.token_bytes == size
    assert plan.block_bytes == 16 * size


def test_latent_is_on_every_rank_and_heads_are_not() -> None:
    sizes = {tp: plan_of(Model((Layer("mla", 1, 576),)), Serving(tp=tp)).token_bytes for tp in (1, 8)}
    assert sizes == {1: 1152, 8: 1152}
    heads = {tp: plan_of(Model((FULL,)), Serving(tp=tp)).token_bytes for tp in (1, 2, 8, 16)}
    assert heads == {1: 4096, 2: 2048, 8: 512, 16: 512}, "repeated beyond a head a rank"
    assert plan_of(Model((Layer("mla", 1, 576),)), Serving(ElementType("fp8_ds_mla"))).token_bytes == 656


def test_pipeline_stages_take_the_fewest_blocks() -> None:
    assert [len(stage) for stage in stages_of(10, 4)] == [2, 3, 3, 2]
    assert [len(stage) for stage in stages_of(7, 2)] == [4, 3]
    assert [len(stage) for stage in stages_of(8, 1)] == [8]
    whole, halves = (plan_of(Model((FULL,) * 7), Serving(pp=pp)) for pp in (1, 2))
    assert whole.block_bytes == 7 * 16 * 4096
    assert halves.block_bytes == 4 * 16 * 4096


def test_requests_leave_the_null_block() -> None:
    plan = plan_of(Model((FULL,)), Serving())
    four = 4 * plan.request_bytes(1600)
    assert plan.requests(four, 1600) == 3
    assert plan.requests(four + plan.block_bytes, 1600) == 4
    assert plan.longest(four + plan.block_bytes, 4) == 1600
    assert plan.longest(four + plan.block_bytes - 1, 4) == 1600 - 16
    assert plan.longest(plan.block_bytes, 1) == 0


def test_a_window_stops_growing() -> None:
    plan = plan_of(Model((Layer("sliding", 8, 128, 128, 1024),)), Serving(in_flight=2048))
    # 1,023 tokens of the window and 2,048 in flight are 192 blocks, and it may begin within one more.
    assert [plan.request_blocks(n) for n in (16, 3071, 100_000)] == [2, 193, 193]


def test_budget() -> None:
    budget = Budget(gpu=80 * GIB, weights=32 * GIB, reserve=4 * GIB, utilization=0.9, overhead=0.25)
    assert budget.cache_bytes(2) == int((72 - 16 - 4) * GIB / 1.25)
    with pytest.raises(InputError, match="nothing is left"):
        Budget(gpu=10 * GIB, weights=32 * GIB).cache_bytes(2)


# Keys of published configs, with what they mean counted by hand from the models' cards.
LLAMA = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
GEMMA3 = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 48,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 256,
        "hidden_size": 3840,
        "sliding_window": 1024,
    },
}
QWEN_NEXT = {
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "hidden_size": 2048,
    "linear_num_key_heads": 16,
    "linear_key_head_dim": 128,
    "linear_num_value_heads": 32,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "torch_dtype": "bfloat16",
}
NEMOTRON = {
    "num_hidden_layers": 6,
    "hybrid_override_pattern": "M-M*-M",
    "num_attention_heads": 32,
    "hidden_size": 4096,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "mamba_num_heads": 128,
    "mamba_head_dim": 64,
    "n_groups": 8,
    "ssm_state_size": 128,
    "conv_kernel": 4,
}
CONFIGS = [
    ("llama", LLAMA, {"full": 32}, 32 * 4096),
    ("no kv heads", {**LLAMA, "num_key_value_heads": None}, {"full": 32}, 32 * 16384),
    ("deepseek", {**LLAMA, "kv_lora_rank": 512, "qk_rope_head_dim": 64}, {"mla": 32}, 32 * 1152),
    (
        "deepseek 3.2",
        {**LLAMA, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "index_head_dim": 128},
        {"mla": 32},
        32 * (1152 + 132),
    ),
    ("gemma 3", GEMMA3, {"sliding": 40, "full": 8}, 8 * 8192),
    ("mistral", {**LLAMA, "sliding_window": 4096}, {"sliding": 32}, 0),
    ("mistral, no window", {**LLAMA, "sliding_window": None}, {"full": 32}, 32 * 4096),
    ("qwen 2", {**LLAMA, "sliding_window": 4096, "use_sliding_window": False}, {"full": 32}, 32 * 4096),
    (
        "qwen 2 with windows",
        {**LLAMA, "sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 28},
        {"full": 28, "sliding": 4},
        28 * 4096,
    ),
    (
        "gpt-oss",
        {**LLAMA, "sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"] * 12},
        {"sliding": 12, "full": 12},
        12 * 4096,
    ),
    ("llama 4", {**LLAMA, "attention_chunk_size": 8192}, {"chunked": 24, "full": 8}, 8 * 4096),
    (
        "jamba",
        {
            **LLAMA,
            "attn_layer_period": 8,
            "attn_layer_offset": 4,
            "mamba_d_state": 16,
            "mamba_d_conv": 4,
            "mamba_expand": 2,
        },
        {"state": 28, "full": 4},
        4 * 4096,
    ),
    ("qwen 3 next", QWEN_NEXT, {"state": 36, "full": 12}, 12 * 2048),
    ("nemotron-h", NEMOTRON, {"state": 3, "none": 2, "full": 1}, 4096),
    ("shared", {**LLAMA, "num_kv_shared_layers": 12}, {"full": 20, "none": 12}, 20 * 4096),
    ("gpt-2", {"n_layer": 12, "n_head": 12, "n_embd": 768}, {"full": 12}, 12 * 3072),
]


@pytest.mark.parametrize(
    ("data", "kinds", "token_bytes"), [row[1:] for row in CONFIGS], ids=[row[0] for row in CONFIGS]
)
def test_configs(data: dict, kinds: dict, token_bytes: int) -> None:
    model = model_of(data, "config.json")
    names = [layer.kind for layer in model.layers]
    assert {kind: names.count(kind) for kind in names} == kinds
    assert plan_of(model, Serving()).token_bytes == token_bytes


def test_sizes_of_states() -> None:
    state = {
        name: next(x.state for x in model_of(data, "").layers if x.state)
        for name, data, _, _ in CONFIGS[11:14]
    }
    # Jamba: 8,192 channels with 3 past inputs and 16 values, in 16 bits.
    assert state["jamba"].rank_bytes(1) == 8192 * (3 + 16) * 2
    # Gated delta net: 2 * 2,048 + 4,096 channels with 3 past inputs; 32 states of 128 x 128.
    assert state["qwen 3 next"].rank_bytes(1) == (8192 * 3 + 32 * 128 * 128) * 2
    assert state["qwen 3 next"].rank_bytes(4) == (8192 * 3 + 32 * 128 * 128) * 2 // 4
    # Mamba 2: 8,192 + 2 * 8 groups * 128 channels with 3 past inputs; 128 states of 64 x 128.
    assert state["nemotron-h"].rank_bytes(1) == ((8192 + 2048) * 3 + 128 * 64 * 128) * 2
    # 16 ranks need a group each, though there are 8.
    assert state["nemotron-h"].rank_bytes(16) == ((8192 + 4096) * 3 + 128 * 64 * 128) * 2 // 16


def test_model_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "max_position_embeddings": 8192}))
    (tmp_path / "model-00001.safetensors").write_bytes(b"x" * 1000)
    (tmp_path / "model-00002.safetensors").write_bytes(b"x" * 234)
    model = read_model(tmp_path)
    assert (model.weight_bytes, model.max_tokens, len(model.layers)) == (1234, 8192, 32)


def test_shape_file(tmp_path: Path) -> None:
    file = tmp_path / "gemma.yaml"
    file.write_text(
        "weights: 24GB\nmax_tokens: 131072\nrepeat: 8\nlayers:\n"
        "  - {kind: sliding, count: 5, kv_heads: 8, head_dim: 128, window: 1024}\n"
        "  - {kind: full, kv_heads: 8, head_dim: 128}\n"
    )
    model = read_model(file)
    assert (model.name, model.weight_bytes) == ("gemma", 24 * 10**9)
    assert [layer.kind for layer in model.layers[:7]] == ["sliding"] * 5 + ["full", "sliding"]
    assert plan_of(model, Serving()).vllm_tokens(20 * GIB, LENGTH) == VLLM["Gemma-3 shape"][3]


def test_sizes() -> None:
    said = {
        "80": 80 * 10**9,
        "80GB": 80 * 10**9,
        "40 GiB": 40 * GIB,
        "1.5mib": 3 * 2**19,
        "10B": 10,
        ".5": 5 * 10**8,
    }
    assert {text: parse_size(text) for text in said} == said


def test_layers_are_spread() -> None:
    model = flat_model(Numbers(layers=6, kv_heads=1, head_dim=8, window=4, sliding_layers=4))
    assert "".join(layer.kind[0] for layer in model.layers) == "sfssfs"
