"""The decoder computes what transformers computes, and a row's neighbours do not matter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workloads' extra is not installed")

from monitorgen.kernels.decode.config import SHAPES, read_config  # noqa: E402
from monitorgen.kernels.decode.model import decode_step, generate, prefill  # noqa: E402
from monitorgen.kernels.decode.sampling import Sampling, kept_logits, sample  # noqa: E402
from monitorgen.kernels.decode.state import make_cache, make_state, static_cache  # noqa: E402
from monitorgen.kernels.decode.torch_ops import TorchOps  # noqa: E402
from monitorgen.kernels.decode.weights import Weights, load_weights, make_weights  # noqa: E402
from monitorgen.kernels.workload import UsageError  # noqa: E402

SIZES = {
    "vocab_size": 199, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
# Prompts of different lengths: the shortest there is, and odd ones.
PROMPTS = [[7], [3, 150, 9, 8, 77], [int(t) for t in range(11, 28)]]


def save_model(folder: Path, shard: str = "5GB", **changes: Any) -> Any:
    """A random LlamaForCausalLM in float32, saved as Hugging Face does; returns it."""
    transformers = pytest.importorskip("transformers", reason="the model is compared with transformers")
    torch.manual_seed(4)
    config = transformers.LlamaConfig(**SIZES | changes, attn_implementation="eager")
    model = transformers.LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        else:  # larger than the default, so that logits differ by more than rounding
            torch.nn.init.normal_(parameter, 0.0, parameter.shape[-1] ** -0.5)
    model.save_pretrained(folder, max_shard_size=shard)
    return model


def theirs(model: Any, prompt: list[int], count: int) -> tuple[list[int], Any]:
    """Greedy tokens of transformers, without a cache, and the logits that chose each: [count, V]."""
    tokens, logits = list(prompt), []
    with torch.no_grad():
        for _ in range(count):
            logits.append(model(torch.tensor([tokens])).logits[0, -1])
            tokens.append(int(logits[-1].argmax()))
    return tokens[len(prompt) :], torch.stack(logits)


def ours(weights: Weights, prompt: list[int], follow: list[int]) -> Any:
    """The logits of our prefill and decode steps along given tokens: [len(follow), V]."""
    cache, state = static_cache(weights.config, 2, 64, device="cpu", dtype=torch.float32)
    ops, slot = TorchOps(weights), torch.tensor([1])
    found = [prefill(weights, cache, state, slot, torch.tensor([prompt]), torch.tensor([len(prompt)]))[0]]
    work, chosen = ops.workspace(1, 64), torch.empty(1, dtype=torch.int64)
    for token in follow[:-1]:
        state.tokens[1] = token
        decode_step(weights, cache, state, slot, ops, work, chosen)
        found.append(work.logits[0].clone())
    return torch.stack(found)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
        {"rope_parameters": LLAMA3},
        {"num_key_value_heads": 6},
        {"num_key_value_heads": 1},
        {"head_dim": 16, "rms_norm_eps": 1e-3},
    ],
    ids=["plain", "tied", "theta", "llama3", "multi-head", "multi-query", "own head_dim"],
)
def test_logits_and_greedy_tokens_are_those_of_transformers(changes: dict[str, Any], tmp_path: Path) -> None:
    model = save_model(tmp_path, **changes)
    weights = load_weights(tmp_path, device="cpu", dtype=torch.float32)
    assert weights.config.parameters == sum(p.numel() for p in model.parameters())
    for prompt in PROMPTS:
        tokens, logits = theirs(model, prompt, 20)
        torch.testing.assert_close(ours(weights, prompt, tokens), logits, rtol=1e-4, atol=1e-4)
        cache, state = static_cache(weights.config, 1, 64, device="cpu", dtype=torch.float32)
        assert generate(weights, cache, state, TorchOps(weights), [prompt], 20) == [tokens]


def test_a_sharded_checkpoint_is_the_same(tmp_path: Path) -> None:
    save_model(tmp_path / "whole")
    save_model(tmp_path / "parts", shard="40KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    whole, parts = (
        load_weights(tmp_path / name, device="cpu", dtype=torch.float32) for name in ("whole", "parts")
    )
    for one, other in zip(whole.tensors(), parts.tensors(), strict=True):
        assert torch.equal(one, other)


@pytest.fixture(scope="module")
def tiny() -> Weights:
    return make_weights("tiny", device="cpu", dtype=torch.float32, seed=1, positions=128)


def alone(weights: Weights, prompt: list[int], count: int) -> list[int]:
    cache, state = static_cache(weights.config, 1, 96, device="cpu", dtype=torch.float32)
    return generate(weights, cache, state, TorchOps(weights), [prompt], count)[0]


def test_a_ragged_batch_is_each_row_alone(tiny: Weights) -> None:
    cache, state = static_cache(tiny.config, 3, 96, device="cpu", dtype=torch.float32)
    together = generate(tiny, cache, state, TorchOps(tiny), PROMPTS, 24)
    assert together == [alone(tiny, prompt, 24) for prompt in PROMPTS]


def test_scattered_pages_and_padded_rows_change_nothing(tiny: Weights) -> None:
    # Pages of 5 tokens in a shuffled order; what no request owns is poisoned, and would be seen.
    cache = make_cache(tiny.config, 40, 5, device="cpu", dtype=torch.float32)
    state = make_state(6, 10, 40, "cpu")
    cache.k[:, :40], cache.v[:, :40] = torch.nan, torch.nan
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3)).int()
    slots = torch.tensor([4, 0, 2])
    for at, slot in enumerate(slots.tolist()):
        state.table[slot] = order[at * 10 : at * 10 + 10]
        cache.k[:, state.table[slot].long()], cache.v[:, state.table[slot].long()] = 0.0, 0.0
    lengths = torch.tensor([len(prompt) for prompt in PROMPTS])
    tokens = torch.tensor([prompt + [0] * (17 - len(prompt)) for prompt in PROMPTS])
    ops = TorchOps(tiny)
    state.tokens[slots] = prefill(tiny, cache, state, slots, tokens, lengths).argmax(-1)
    rows = torch.tensor([4, 0, 2, 6, 6])  # two padded rows
    work, chosen = ops.workspace(5, 50), torch.empty(5, dtype=torch.int64)
    found = [state.tokens[slots].tolist()]
    for _ in range(20):
        decode_step(tiny, cache, state, rows, ops, work, chosen)
        found.append(chosen[:3].tolist())
    assert [list(row) for row in zip(*found, strict=True)] == [alone(tiny, p, 21) for p in PROMPTS]
    assert state.positions[6] == 0
    assert state.positions[slots].tolist() == [len(prompt) + 20 for prompt in PROMPTS]


def test_moved_pages_keep_what_they_hold(tiny: Weights) -> None:
    cache = make_cache(tiny.config, 6, 4, device="cpu", dtype=torch.float32)
    cache.k.copy_(torch.rand_like(cache.k))
    cache.v.copy_(torch.rand_like(cache.v))
    keys, values = cache.k.clone(), cache.v.clone()
    cache.move([4, 5], [1, 0])
    assert torch.equal(cache.k[:, [1, 0]], keys[:, [4, 5]])
    assert torch.equal(cache.v[:, [1, 0]], values[:, [4, 5]])
    assert torch.equal(cache.k[:, 2:], keys[:, 2:])


def test_low_precision_stays_near(tiny: Weights) -> None:
    rough = make_weights("tiny", device="cpu", dtype=torch.bfloat16, seed=1, positions=128)
    exact = type(tiny)(
        tiny.config, *(t.float() for t in (rough.embed,)), tuple(
            type(layer)(*(getattr(layer, name).float() for name in layer.__slots__)) for layer in rough.layers
        ), rough.norm.float(), rough.head.float(), rough.cos, rough.sin,
    )  # fmt: skip
    found = []
    for weights, dtype in ((rough, torch.bfloat16), (exact, torch.float32)):
        cache, state = static_cache(weights.config, 1, 64, device="cpu", dtype=dtype)
        prompt = torch.tensor([PROMPTS[2]])
        found.append(prefill(weights, cache, state, torch.tensor([0]), prompt, torch.tensor([17])))
    assert (found[0] - found[1]).norm() / found[1].norm() < 0.03


def test_kept_tokens_are_those_of_top_k_and_top_p() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    generator = torch.Generator()
    for options, kept in (
        ({}, 4), ({"top_k": 2}, 2), ({"top_k": 9}, 4), ({"top_p": 0.5}, 1), ({"top_p": 0.51}, 2),
        ({"top_p": 0.96}, 4), ({"top_k": 3, "top_p": 0.99}, 3), ({"top_p": 0.01}, 1),
    ):  # fmt: skip
        found = kept_logits(logits, Sampling(generator, **options))  # type: ignore[arg-type]
        assert found.isfinite().sum() == kept, options


def test_samples_follow_the_probabilities() -> None:
    wanted = torch.tensor([0.5, 0.3, 0.15, 0.05])
    sampling = Sampling(torch.Generator().manual_seed(5), temperature=2.0)
    out = torch.empty(40_000, dtype=torch.int64)
    sample((2 * wanted.log()).expand(40_000, 4), sampling, out)
    counted = out.bincount(minlength=4) / 40_000
    assert (counted - wanted).abs().max() < 0.01  # 4 standard deviations of the likeliest token


def test_sampling_is_repeatable_and_not_greedy(tiny: Weights) -> None:
    def drawn(seed: int) -> list[list[int]]:
        cache, state = static_cache(tiny.config, 3, 96, device="cpu", dtype=torch.float32)
        sampling = Sampling(torch.Generator().manual_seed(seed), temperature=1.0, top_k=40, top_p=0.95)
        return generate(tiny, cache, state, TorchOps(tiny), PROMPTS, 12, sampling)

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert drawn(1) != [alone(tiny, prompt, 12) for prompt in PROMPTS]


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_impossible_sampling_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Sampling(torch.Generator(), **options)


def test_the_1b_shape_is_1b() -> None:
    shape = SHAPES["1b"]
    assert shape.parameters == 1_235_814_400  # as the model card of Llama 3.2 1B counts: 1.23B
    assert shape.step_bytes(1, 0, 2) == pytest.approx(2 * 1_235_814_400, rel=1e-4)


CONFIG = {"model_type": "llama", "tie_word_embeddings": False} | SIZES


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "holds no config.json"),
        ({"config.json": "{"}, "cannot be read"),
        ({"config.json": "[]"}, "holds no object"),
        ({"config.json": json.dumps(CONFIG | {"model_type": "mamba"})}, "model_type is 'mamba'"),
        ({"config.json": json.dumps(CONFIG | {"attention_bias": True})}, "no attention_bias"),
        ({"config.json": json.dumps(CONFIG | {"num_key_value_heads": 4})}, "multiple of KV heads"),
        ({"config.json": json.dumps({"model_type": "llama"})}, "lacks hidden_size"),
        ({"config.json": json.dumps(CONFIG | {"rope_scaling": {"type": "yarn"}})}, "rope_type 'yarn'"),
        ({"config.json": json.dumps(CONFIG)}, "neither model.safetensors nor"),
        ({"config.json": json.dumps(CONFIG), "model.safetensors": "junk"}, "no tensor model.layers.0"),
        ({"config.json": json.dumps(CONFIG), "model.safetensors.index.json": "{}"}, "cannot be read"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(files: dict[str, str], said: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="checkpoints are read with safetensors")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=said):
        make_weights(str(tmp_path), device="cpu", dtype=torch.float32)


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no folder; give a checkpoint, or one of: tiny, 1b"):
        make_weights(str(tmp_path / "none"), device="cpu", dtype=torch.float32)


def test_tensors_of_another_shape_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 90}))
    assert read_config(tmp_path).intermediate == 90
    with pytest.raises(UsageError, match=r"gate_proj.weight is \(80, 48\), config.json says \(90, 48\)"):
        make_weights(str(tmp_path), device="cpu", dtype=torch.float32)


def test_a_context_beyond_the_models_positions_is_refused(tiny: Weights) -> None:
    with pytest.raises(UsageError, match="4096 tokens: tiny has 2048 positions"):
        static_cache(tiny.config, 1, 4096, device="cpu", dtype=torch.float32)
