"""What a family's name says about its unit: one table, then rules for suffixes, in this order.

A unit that does not fit a family is worse than none, so where nothing is measured the unit is empty, with
the reason in `UNITLESS`.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

# Full names or patterns; the first that fits wins.
_TABLE: tuple[tuple[str, str], ...] = (
    ("up", "bool"),
    ("ALERTS", "bool"),
    ("ALERTS_FOR_STATE", "timestamp"),
    ("scrape_samples_*", "number"),
    ("scrape_series_added", "number"),
    ("http_requests_total", "requests"),
    ("process_*_fds", "number"),
    ("python_gc_collections_total", "events"),
    ("python_gc_objects_*_total", "number"),
    # vLLM: the scheduler and the requests.
    ("vllm:num_requests_*", "requests"),
    ("vllm:request_success_total", "requests"),
    ("vllm:corrupted_requests_total", "requests"),
    ("vllm:admission_rejections_total", "requests"),
    ("vllm:watermark_requests_total", "requests"),
    ("vllm:nixl_num_kv_expired_reqs_total", "requests"),
    ("vllm:num_preemptions_total", "events"),
    ("vllm:request_num_preemptions", "events"),
    ("vllm:request_params_n", "number"),
    ("vllm:engine_sleep_state", "bool"),
    ("vllm:tool_call_parser_invocations_total", "events"),
    # vLLM: tokens. Prefix cache queries and hits are counted in tokens; the multimodal cache in items.
    ("vllm:prefix_cache_*_total", "tokens"),
    ("vllm:gpu_prefix_cache_*_total", "tokens"),
    ("vllm:external_prefix_cache_*_total", "tokens"),
    ("vllm:mm_cache_*_total", "number"),
    ("vllm:prompt_tokens*_total", "tokens"),
    ("vllm:iteration_tokens_total", "tokens"),
    ("vllm:spec_decode_num_drafts_total", "events"),
    ("vllm:spec_decode_num_*_tokens*_total", "tokens"),
    ("vllm:diffusion_num_canvas_positions_total", "tokens"),
    ("vllm:diffusion_num_denoising_steps_total", "events"),
    # vLLM: what moves and holds the KV cache.
    ("vllm:estimated_flops_per_gpu_total", "flops"),
    ("vllm:estimated_*_bytes_per_gpu_total", "bytes"),
    ("vllm:nixl_bytes_transferred", "bytes"),
    ("vllm:nixl_num_descriptors", "number"),
    ("vllm:nixl_num_*_total", "events"),
    ("vllm:hf3fs_num_failed_*_total", "events"),
    ("vllm:hisparse_pending_page_transfers", "number"),
    ("vllm:hisparse_cache_*_total", "number"),
    ("vllm:kv_offload_size", "bytes"),
    ("vllm:kv_offload_load_size", "bytes"),
    ("vllm:kv_offload_store_size", "bytes"),
    ("vllm:kv_offload_total_bytes_total", "bytes"),
    ("vllm:kv_offload_total_time_total", "seconds"),
    ("vllm:kv_offload_cpu_allocation_size", "number"),
    ("vllm:kv_offload_*_time_total", "seconds"),
    ("vllm:kv_offload_allocation_failure_total", "events"),
    ("vllm:kv_offload_stores_skipped_total", "events"),
    ("vllm:kv_offload_tiering_active_*_jobs", "number"),
    ("vllm:kv_offload_tiering_chunk_*_total", "number"),
    ("vllm:kv_offload_tiering_*_failures_total", "events"),
    ("vllm:kv_offload_tiering_*_dropped_total", "events"),
    ("vllm:mooncake_store_operation_total", "events"),
    ("vllm:mooncake_store_operation_*keys_total", "number"),
    ("vllm:simple_kv_offload_*_blocks*", "number"),
    ("vllm:simple_kv_offload_save_outcomes_total", "events"),
    ("vllm:rl_weight_update_operations_in_flight", "number"),
    ("vllm:sleep_mode_operations_in_flight", "number"),
    ("vllm:websocket_connections_total", "events"),
    ("vllm:websocket_connections_active", "number"),
)

# Families without a unit, and why.
UNITLESS: dict[str, str] = {
    "vllm:kv_offload_tiering_backpressure_store_latency_ema": "seconds per MiB stored, smoothed",
}

# Suffixes after `_total` and `_created` are taken off; the first that fits wins.
_SUFFIXES: tuple[tuple[str, str], ...] = (
    ("_milliseconds", "milliseconds"),
    ("_time_seconds", "seconds"),
    ("_timestamp_seconds", "timestamp"),
    ("_start_time_seconds", "timestamp"),
    ("_seconds", "seconds"),
    ("_bytes", "bytes"),
    ("_perc", "ratio"),
    ("_ratio", "ratio"),
    ("_percent", "percent"),
    ("_tokens", "tokens"),
    ("_requests", "requests"),
    ("_flops", "flops"),
    ("_info", "info"),
)


def grows(name: str) -> bool:
    """Whether a histogram's edges depend on the model's length: vLLM builds those of tokens a request so."""
    return fnmatchcase(name, "vllm:request_*_tokens")


def unit_of(name: str, kind: str) -> str:
    """The unit of a family by its name and type: a key of `units.UNITS`, or empty where nothing is known."""
    if name in UNITLESS:
        return ""
    for pattern, unit in _TABLE:
        if fnmatchcase(name, pattern):
            return unit
    if kind == "info":
        return "info"
    base = name.removesuffix("_total")
    if base.endswith("_start_time_seconds"):
        return "timestamp"
    return next((unit for suffix, unit in _SUFFIXES if base.endswith(suffix)), "")
