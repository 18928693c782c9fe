"""A real vLLM `EngineCore`, in this process, behind the interface that our polling loops use.

Nothing of vLLM is imitated here: requests go through `preprocess_add_request` and `add_request`, a step is
`step_fn` and `post_step` as in vLLM's own busy loop, and what is counted is read from its scheduler. Written
against 0.24 and 0.32; fields that only some versions have are looked up, not assumed.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from monitorgen.kernels.decode.engine_types import EngineRequest, StepOutputs
from monitorgen.kernels.workload import UsageError

# What an engine in our own process needs, unless the user says otherwise. The CPU build wants to be told how
# many GiB of KV cache it may take; its scheduler's log would drown ours.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}

GRAMMAR_SCHEMA = (
    '{"type": "object", "properties": {"a": {"type": "string", "maxLength": 8}}, "required": ["a"]}'
)


def installed() -> bool:
    """Whether vLLM can be imported here; it is not imported to find out."""
    return importlib.util.find_spec("vllm") is not None


@dataclass(frozen=True, slots=True)
class VllmSizes:
    """How large an engine to start; None leaves the choice to vLLM."""

    max_num_seqs: int = 8
    max_model_len: int | None = None
    max_num_batched_tokens: int | None = None
    num_blocks: int | None = None
    async_scheduling: bool | None = None
    gpu_memory_utilization: float | None = None
    dtype: str = "auto"
    enforce_eager: bool = False


def model_folder(name: str) -> Path:
    """The folder of a model: a path as it is, or a Hugging Face name looked up in the local cache.

    Raises UsageError if the folder holds no model, or if the name is not in the cache and cannot be fetched.
    """
    path = Path(name).expanduser()
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        if not (path / "config.json").is_file():
            raise UsageError(f"{name} is no model folder: it has no config.json")
        return path
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as missing:
        raise UsageError(
            f"{name} is no folder, and huggingface_hub is not installed to fetch it"
        ) from missing
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "tokenizer*"]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(f"{name} is no folder and cannot be fetched: {first_line}") from error


class VllmEngine:
    """vLLM's engine core in this process. Starting one takes tens of seconds.

    Raises UsageError if the model or the sizes are refused by vLLM.
    """

    def __init__(self, model: Path, sizes: VllmSizes) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        # Imported by name: following vLLM's types would take a type checker minutes and gigabytes.
        EngineArgs = import_module("vllm.engine.arg_utils").EngineArgs  # noqa: N806
        EngineCore = import_module("vllm.v1.engine.core").EngineCore  # noqa: N806
        Executor = import_module("vllm.v1.executor").Executor  # noqa: N806

        arguments: dict[str, Any] = {
            "model": str(model),
            "max_num_seqs": sizes.max_num_seqs,
            "max_model_len": sizes.max_model_len,
            "max_num_batched_tokens": sizes.max_num_batched_tokens,
            "num_gpu_blocks_override": sizes.num_blocks,
            "async_scheduling": sizes.async_scheduling,
            "gpu_memory_utilization": sizes.gpu_memory_utilization,
            "dtype": sizes.dtype,
            "enforce_eager": sizes.enforce_eager,
            "enable_prefix_caching": False,  # so that a block in use is a request's block
            "disable_log_stats": True,
        }
        try:
            config = EngineArgs(
                **{k: v for k, v in arguments.items() if v is not None}
            ).create_engine_config()
        except ValueError as refused:
            raise UsageError(f"vLLM refuses {model}: {_first_line(refused)}") from refused
        self.config = config
        options: dict[str, Any] = {"log_stats": False, "include_finished_set": True}
        known = inspect.signature(EngineCore.__init__).parameters
        self.core: Any = EngineCore(
            config, Executor.get_class(config), **{name: v for name, v in options.items() if name in known}
        )
        self.vocabulary = int(config.model_config.get_vocab_size())
        self.max_model_len = int(config.model_config.max_model_len)

    @property
    def async_scheduling(self) -> bool:
        """Whether a batch is scheduled while the one before it runs: vLLM decides where nobody says."""
        return bool(self.config.scheduler_config.async_scheduling)

    def add_request(self, request: EngineRequest) -> None:
        """Queue a request, greedy, running to `max_tokens` unless a stop token comes.

        A gate of kind `grammar` becomes a request for structured output, whose grammar vLLM compiles on a
        thread of its own. Raises UsageError for a gate that needs a KV connector.
        """
        SamplingParams = import_module("vllm").SamplingParams  # noqa: N806
        EngineCoreRequest = import_module("vllm.v1.engine").EngineCoreRequest  # noqa: N806
        length = len(request.prompt_token_ids)
        if not 0 < length < self.max_model_len:
            raise UsageError(
                f"request {request.request_id}: a prompt of {length} tokens does not fit max_model_len "
                f"{self.max_model_len}"
            )
        parameters = SamplingParams(
            temperature=0.0,
            max_tokens=request.max_tokens,
            ignore_eos=True,
            stop_token_ids=sorted(request.stop_token_ids),
            detokenize=False,
        )
        if request.gate is not None:
            if request.gate.kind != "grammar":
                raise UsageError("waiting for remote KV needs a KV connector, which this engine has not")
            parameters.structured_outputs = self._structured_outputs()
        fields: dict[str, Any] = {
            "request_id": request.request_id,
            "prompt_token_ids": list(request.prompt_token_ids),
            "mm_features": None,
            "sampling_params": parameters,
            "pooling_params": None,
            "eos_token_id": None,
            "arrival_time": time.time(),
            "lora_request": None,
            "cache_salt": None,
            "data_parallel_rank": None,
            "client_index": request.client_index,
        }
        known = EngineCoreRequest.__struct_fields__
        engine_request = EngineCoreRequest(**{name: value for name, value in fields.items() if name in known})
        self.core.add_request(*self.core.preprocess_add_request(engine_request))

    def _structured_outputs(self) -> Any:
        """Parameters for JSON by a schema. The frontend normally chooses the backend; here nobody has."""
        parameters = import_module("vllm.sampling_params").StructuredOutputsParams(json=GRAMMAR_SCHEMA)
        parameters._backend = "xgrammar"
        return parameters

    def step(self) -> tuple[dict[int, StepOutputs], bool]:
        """One step as in vLLM's busy loop. With a batch queue vLLM returns None for nothing yet: {} here."""
        results, executed = self.core.step_fn()
        self.core.post_step(executed)
        return results or {}, executed

    def has_requests(self) -> bool:
        """vLLM's `has_work`: the scheduler has requests, or batches are under way."""
        return bool(self.core.scheduler.has_requests() or self.core.batch_queue)

    def unfinished(self) -> int:
        """Requests that run or wait, whether or not the scheduler is paused."""
        return sum(self.core.scheduler.get_request_counts())

    def blocks_in_use(self) -> int:
        """KV blocks that are not free, vLLM's null block aside."""
        pool = self.core.scheduler.kv_cache_manager.block_pool
        return int(pool.num_gpu_blocks - 1 - pool.get_num_free_blocks())

    def pause(self) -> None:
        """Keep every request and schedule none, as while weights are exchanged."""
        self.core.pause_scheduler(mode="keep", clear_cache=False)

    def resume(self) -> None:
        """Schedule again."""
        self.core.resume_scheduler()

    def abort_all(self) -> None:
        """Drop every request and let the workers know, so that another loop starts on an empty engine."""
        scheduler = self.core.scheduler
        self.core.abort_requests(list(scheduler.requests))
        while self.has_requests():
            self.step()

    def close(self) -> None:
        """Stop the workers and free the cache."""
        self.core.shutdown()


def _first_line(error: BaseException) -> str:
    """A pydantic error's own message, which is on its third line, or the first line of any other."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[2] if "validation error" in lines[0] and len(lines) > 2 else lines[0]
