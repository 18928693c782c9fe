"""The metric names that older override files use, and the signals that they mean.

`metrics: {ttft_hist: ...}` names the family of a signal. The last two never existed in any vLLM release:
their signals are dormant until an override names a real counter.
"""

from __future__ import annotations

METRIC_KEYS: dict[str, str] = {
    "ttft_hist": "ttft",
    "prefill_hist": "prefill",
    "decode_hist": "decode",
    "e2e_hist": "e2e",
    "inter_token_hist": "inter_token",
    "queue_hist": "queue_time",
    "request_success": "finished",
    "num_running": "running",
    "num_waiting": "waiting",
    "gpu_cache_usage": "kv_cache_usage",
    "cudagraph_mode_info": "graph_mode",
    "enginecore_errors_total": "engine_errors",
    "scheduler_errors_total": "scheduler_errors",
}

# Thresholds of such files: known everywhere, so that one file of overrides suits every profile.
THRESHOLDS = frozenset(
    {
        "ttft_p90_warn",
        "ttft_p99_crit",
        "prefill_p90_warn",
        "decode_p90_warn",
        "inter_token_p90_warn",
        "kv_warn",
        "kv_crit",
        "stalled_finished_rate",
        "stalled_active_floor",
    }
)
