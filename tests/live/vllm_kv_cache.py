"""Run by path with the interpreter that has vLLM: what vLLM's own functions say about models, as JSON.

Reads a list of cases from standard input (see `cases` in test_live_kv_cache.py) and prints, for each, the
tokens that vLLM would report, the blocks, and the bytes that one request needs; or the error it raises.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from vllm.config.model import ModelConfig
from vllm.distributed.utils import get_pp_indices
from vllm.model_executor.layers.attention.mla_attention import MLACommonBackend
from vllm.platforms.interface import Platform
from vllm.utils.torch_utils import nvfp4_kv_cache_full_dim
from vllm.v1.attention.backends.triton_attn import TritonAttentionBackend
from vllm.v1.core import kv_cache_utils
from vllm.v1.kv_cache_interface import (
    ChunkedLocalAttentionSpec,
    FullAttentionSpec,
    KVQuantMode,
    MambaSpec,
    MLAAttentionSpec,
    SlidingWindowSpec,
)
from vllm.v1.kv_cache_layout import KVCacheLayout

TORCH = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp8": torch.uint8}
MODE = {"int8": KVQuantMode.INT8_PER_TOKEN_HEAD, "int4": KVQuantMode.INT4_PER_TOKEN_HEAD}
NAME = {"int8": "int8_per_token_head", "int4": "int4_per_token_head", "fp8": "fp8", "fp4": "nvfp4"}


def attention(layer: dict[str, Any], case: dict[str, Any], block: int) -> Any:
    """The spec of an attention layer, packed by vLLM's backend."""
    dtype = case["dtype"]
    parallel = SimpleNamespace(tensor_parallel_size=case["tp"])
    config = SimpleNamespace(
        use_mla=layer["kind"] == "mla",
        model_arch_config=SimpleNamespace(total_num_kv_heads=layer["kv_heads"]),
    )
    common: dict[str, Any] = {
        "block_size": block,
        "num_kv_heads": ModelConfig.get_num_kv_heads(config, parallel),
        "head_size": layer["k_dim"],
        "dtype": TORCH.get(dtype, torch.uint8),
        "kv_quant_mode": MODE.get(dtype, KVQuantMode.NONE),
    }
    if layer["kind"] == "mla":
        packed = {"fp8_ds_mla": 656, "fp4": nvfp4_kv_cache_full_dim(layer["k_dim"])}.get(dtype)
        return MLACommonBackend.customize_spec(MLAAttentionSpec(**common, state_content_bytes=packed))
    common["head_size_v"] = layer["v_dim"]
    if dtype == "fp4":
        sides = nvfp4_kv_cache_full_dim(layer["k_dim"]) + nvfp4_kv_cache_full_dim(layer["v_dim"])
        common["state_content_bytes"] = sides
    spec = {
        "full": FullAttentionSpec,
        "sliding": lambda **more: SlidingWindowSpec(sliding_window=layer["window"], **more),
        "chunked": lambda **more: ChunkedLocalAttentionSpec(attention_chunk_size=layer["window"], **more),
    }[layer["kind"]](**common)
    return TritonAttentionBackend.customize_spec(spec)


def state(layer: dict[str, Any], case: dict[str, Any], block: int, padded: int | None = None) -> Any:
    """The spec of a state of so many bytes."""
    size = layer["state_bytes"] // case["tp"]
    return MambaSpec(block_size=block, shapes=((size,),), dtypes=(torch.uint8,), page_size_padded=padded)


def aligned(case: dict[str, Any]) -> tuple[int, int | None]:
    """Block size and padded state page of a hybrid model, by vLLM's own alignment."""
    block = case["block"]
    states = [layer for layer in case["layers"] if layer["kind"] == "state"]
    others = [layer for layer in case["layers"] if layer["kind"] not in ("state", "none")]
    if not states or not others:
        return block, None
    first = next((layer for layer in others if layer["kind"] in ("full", "mla")), others[0])
    one = attention(first, case, 1)
    cache = SimpleNamespace(
        cache_dtype="auto", block_size=block, mamba_cache_mode="none", mamba_page_size_padded=None
    )
    model = SimpleNamespace(
        dtype=one.dtype,
        use_mla=first["kind"] == "mla",
        get_num_kv_heads=lambda parallel: one.num_kv_heads,
        get_head_size=lambda: first["k_dim"],
        architecture="",
    )
    shapes = SimpleNamespace(
        get_mamba_state_shape_from_config=lambda config: state(states[0], case, -1).shapes,
        get_mamba_state_dtype_from_config=lambda config: (torch.uint8,),
    )
    backend = MLACommonBackend if model.use_mla else TritonAttentionBackend
    with (
        mock.patch.object(Platform, "_find_non_ssm_backends", return_value=[backend]),
        mock.patch.object(backend, "get_supported_kernel_block_sizes", return_value=[16]),
        mock.patch("vllm.config.vllm.set_current_vllm_config", mock.MagicMock()),
        mock.patch("vllm.model_executor.models.ModelRegistry.resolve_model_cls", return_value=(shapes, "")),
    ):
        Platform._align_hybrid_block_size(
            SimpleNamespace(cache_config=cache, model_config=model, parallel_config=None), backend
        )
    return cache.block_size, cache.mamba_page_size_padded


def answer(case: dict[str, Any]) -> dict[str, Any]:
    """What vLLM says about one case."""
    block, padded = aligned(case)
    specs = {
        str(number): state(layer, case, block, padded)
        if layer["kind"] == "state"
        else attention(layer, case, block)
        for number, layer in enumerate(case["layers"])
        if layer["kind"] != "none"
    }
    stages = [range(*get_pp_indices(len(case["layers"]), rank, case["pp"])) for rank in range(case["pp"])]
    workers = [{name: spec for name, spec in specs.items() if int(name) in stage} for stage in stages]
    config = SimpleNamespace(
        model_config=SimpleNamespace(max_model_len=case["tokens"], original_max_model_len=case["tokens"]),
        scheduler_config=SimpleNamespace(disable_hybrid_kv_cache_manager=False),
        cache_config=SimpleNamespace(
            num_gpu_blocks_override=None,
            mamba_cache_mode="none",
            prefix_cache_retention_interval=None,
            get_resolved_kv_cache_layout=lambda: KVCacheLayout.LBHNC,
        ),
        parallel_config=SimpleNamespace(decode_context_parallel_size=1, tensor_parallel_size=case["tp"]),
        attention_config=SimpleNamespace(hisparse_config=None),
        speculative_config=None,
        num_prefill_lookahead_tokens=0,
        max_in_flight_tokens=case["in_flight"],
    )
    try:
        configs = kv_cache_utils.get_kv_cache_configs(config, workers, [case["memory"]] * len(workers))
    except (ValueError, NotImplementedError) as error:
        return {"error": type(error).__name__}
    scheduler = kv_cache_utils.generate_scheduler_kv_cache_config(configs)
    tokens, _ = kv_cache_utils.get_kv_cache_capacity(config, scheduler)
    needs = [
        kv_cache_utils._max_memory_usage_bytes_from_groups(config, one.kv_cache_groups) for one in configs
    ]
    return {"tokens": tokens, "blocks": scheduler.num_blocks, "request_bytes": max(needs)}


json.dump([answer(case) for case in json.load(sys.stdin)], sys.stdout)
