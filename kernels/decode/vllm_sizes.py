"""The graph sizes that vLLM captures for a model: from vLLM's own code when installed, else a recorded table.

In vLLM 0.32 they depend on the scheduler's limits, and on the model only where its architecture overrides
the largest size. vLLM computes them inside its configuration, whose other parts want a GPU and the model's
files; its own method is therefore called here on a stand-in that holds just what the method reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from monitorgen.kernels.decode.buckets import vllm_sizes
from monitorgen.kernels.decode.vllm_engine import ENVIRONMENT, installed
from monitorgen.kernels.workload import UsageError

RECORDED = "0.32.0"
"""The vLLM release that the table was recorded from."""

# The largest captured size where an architecture sets it: MODELS_CONFIG_MAP in vLLM's models/config.py.
CEILINGS: Mapping[str, int] = {"GptOssForCausalLM": 1024}

# Architectures of names that people use; any other name follows vLLM's default rule, and the report says so.
ARCHITECTURES: Mapping[str, str] = {
    "gpt-oss": "GptOssForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "deepseek-v3": "DeepseekV3ForCausalLM",
    "deepseek-r1": "DeepseekV3ForCausalLM",
    "gemma-3": "Gemma3ForCausalLM",
    "phi-4": "Phi3ForCausalLM",
}


@dataclass(frozen=True, slots=True)
class CaptureSizes:
    """Sizes ascending, and where they come from, in words for the report."""

    sizes: tuple[int, ...]
    source: str


def architecture_of(model: str) -> str | None:
    """The architecture of a model folder, or of a name that is known; None for another name.

    Raises UsageError for a folder that holds no model.
    """
    path = Path(model).expanduser()
    if path.exists() or model.startswith((".", "/", "~")):
        file = path / "config.json"
        try:
            architectures = json.loads(file.read_text())["architectures"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{model} is no model folder: no architecture in {file.name}") from error
        return str(architectures[0]) if architectures else None
    name = model.rsplit("/", 1)[-1].lower()
    return next((known for part, known in ARCHITECTURES.items() if name.startswith(part)), None)


def capture_sizes(
    model: str, max_num_seqs: int = 1024, max_num_batched_tokens: int = 8192, use_installed: bool = True
) -> CaptureSizes:
    """What vLLM captures for a model with these limits (its defaults on an H100 serving HTTP).

    Raises UsageError for a folder that holds no model, or for limits below 1.
    """
    if min(max_num_seqs, max_num_batched_tokens) < 1:
        raise UsageError(
            f"vLLM needs limits of 1 or more: {max_num_seqs} requests, {max_num_batched_tokens} tokens"
        )
    architecture = architecture_of(model)
    known = architecture or "vLLM's default rule, as the name is not in our table"
    if use_installed and installed():
        try:
            version, sizes = _from_vllm(architecture, max_num_seqs, max_num_batched_tokens)
        except AttributeError as changed:
            why = f"vLLM's configuration has changed: {changed}"
        else:
            return CaptureSizes(tuple(sizes), f"vLLM {version}'s configuration code ({known})")
    else:
        why = "vLLM is not installed" if not installed() else "as asked"
    ceiling = CEILINGS.get(architecture or "")
    sizes = vllm_sizes(max_num_seqs, max_num_batched_tokens, ceiling)
    return CaptureSizes(tuple(sizes), f"table recorded from vLLM {RECORDED} ({known}; {why})")


def _from_vllm(
    architecture: str | None, max_num_seqs: int, max_num_batched_tokens: int
) -> tuple[str, list[int]]:
    """Call vLLM's own methods. Raises AttributeError where a release reads something that is not here."""
    import os

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    vllm: Any = import_module("vllm")
    vllm_config: Any = import_module("vllm.config")
    overrides: Any = import_module("vllm.model_executor.models.config")
    stand_in = SimpleNamespace(
        model_config=SimpleNamespace(enforce_eager=False),
        compilation_config=SimpleNamespace(
            cudagraph_mode=vllm_config.CUDAGraphMode.FULL_AND_PIECEWISE,
            max_cudagraph_capture_size=None,
            cudagraph_capture_sizes=None,
            post_init_cudagraph_sizes=lambda: None,
        ),
        scheduler_config=SimpleNamespace(
            max_num_seqs=max_num_seqs, max_num_batched_tokens=max_num_batched_tokens
        ),
        structured_outputs_config=SimpleNamespace(reasoning_parser=""),
        parallel_config=SimpleNamespace(tensor_parallel_size=1),
        speculative_config=None,
        num_speculative_tokens=0,
        uniform_decode_query_len=1,
        performance_mode="balanced",
    )
    if architecture in CEILINGS:
        overrides.MODELS_CONFIG_MAP[architecture].verify_and_update_config(stand_in)
    vllm_config.VllmConfig._set_cudagraph_sizes(stand_in)
    return str(vllm.__version__), list(stand_in.compilation_config.cudagraph_capture_sizes)
