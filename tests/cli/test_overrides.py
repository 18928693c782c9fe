"""Overrides: files with the names of older monitoring, --set, several files; and the rules that result."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from monitorgen.build import build
from monitorgen.errors import InputError
from monitorgen.profile import load_profile

# The names that operators' override files use, each with a family that vLLM or our workloads export.
METRICS = {
    "ttft_hist": "vllm:time_to_first_token_seconds",
    "prefill_hist": "vllm:request_prefill_time_seconds",
    "decode_hist": "vllm:request_decode_time_seconds",
    "e2e_hist": "vllm:e2e_request_latency_seconds",
    "inter_token_hist": "vllm:inter_token_latency_seconds",
    "request_success": "vllm:request_success_total",
    "num_running": "vllm:num_requests_running",
    "num_waiting": "vllm:num_requests_waiting",
    "gpu_cache_usage": "vllm:kv_cache_usage_perc",
    "cudagraph_mode_info": "vllm:decode_graph_mode",
    "enginecore_errors_total": "vllm:num_preemptions_total",
    "scheduler_errors_total": "vllm:num_preemptions_total",
}
THRESHOLDS = {
    "ttft_p90_warn": 0.6,
    "ttft_p99_crit": 1.5,
    "prefill_p90_warn": 1.5,
    "decode_p90_warn": 10,
    "inter_token_p90_warn": 0.15,
    "kv_warn": 90,
    "kv_crit": 98,
    "stalled_finished_rate": 0.05,
    "stalled_active_floor": 50,
}


def built(profile="baseline", *, config="", sets=(), more=()):
    """Builds a profile under an overrides file with the text `config`, and further files."""
    paths = []
    for number, text in enumerate(filter(None, [config, *more])):
        paths.append(Path(f"o{number}.yaml"))
        paths[-1].write_text(text)
    return build(load_profile(profile, config=paths, sets=sets))


def alerts(made):
    return {rule.alert: rule.expr for rule in made.bundle.alerts}


def records(made):
    return {rule.signal: rule.expr for rule in made.bundle.recording_rules}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_names_of_older_files_change_nothing_that_is_so_already():
    config = yaml.safe_dump({"metrics": METRICS, "thresholds": THRESHOLDS})
    plain, made = built(), built(config=config)
    assert (records(made), alerts(made)) == (records(plain), alerts(plain))
    assert made.bundle.dashboards == plain.bundle.dashboards


def test_the_names_of_older_files_wake_what_sleeps():
    plain = built("optimized")
    made = built("optimized", config=yaml.safe_dump({"metrics": METRICS, "thresholds": THRESHOLDS}))
    assert dict(plain.bundle.dormant).keys() >= {"engine_errors", "scheduler_errors", "EngineErrors"}
    assert dict(made.bundle.dormant) == {}
    assert alerts(made).keys() - alerts(plain).keys() == {"EngineErrors", "SchedulerErrors"}
    assert alerts(made)["EngineErrors"] == "model:vllm_engine_errors:rate5m > 0"
    assert "rate(vllm:num_preemptions_total[5m])" in records(made)["engine_errors"]
    shared = alerts(plain).keys() & alerts(made).keys()
    assert {name: alerts(made)[name] for name in shared} == alerts(plain)


@pytest.mark.parametrize(
    ("threshold", "value", "alert", "number"),
    [
        ("ttft_p90_warn", 0.7, "TTFTHigh", "> 0.7"),
        ("ttft_p99_crit", 2, "TTFTCritical", "> 2 "),
        ("prefill_p90_warn", 2.5, "PrefillSlow", "> 2.5"),
        ("decode_p90_warn", 20, "DecodeSlow", "> 20 "),
        ("inter_token_p90_warn", 0.25, "InterTokenSlow", "> 0.25"),
        ("kv_warn", 80, "KVCacheHigh", "> 0.8"),
        ("kv_crit", 99, "KVCacheCritical", "> 0.99"),
        ("stalled_finished_rate", 0.1, "QueueStalled", "< 0.1"),
        ("stalled_active_floor", 60, "QueueStalled", "> 60"),
    ],
)
def test_a_bare_number_takes_the_unit_of_the_threshold(threshold, value, alert, number):
    made = built("optimized", config=f"thresholds: {{{threshold}: {value}}}")
    assert number in alerts(made)[alert] + " "
    others = {name: text for name, text in alerts(built("optimized")).items() if name != alert}
    assert {name: text for name, text in alerts(made).items() if name != alert} == others


def test_a_family_is_replaced():
    made = built(config="metrics: {ttft_hist: 'vllm:request_queue_time_seconds'}")
    assert "vllm:request_queue_time_seconds_bucket" in records(made)["ttft"]
    assert "time_to_first_token" not in records(made)["ttft"]


def test_a_family_that_the_signal_reads_keeps_its_old_name_too():
    made = built(config="metrics: {gpu_cache_usage: 'vllm:kv_cache_usage_perc'}")
    assert "vllm:gpu_cache_usage_perc" in records(made)["kv_cache_usage"]


def test_the_graph_mode_may_come_from_a_family_of_ones_own():
    Path("own.yaml").write_text(
        "engine: mine\nversion: '1'\nfamilies:\n"
        "  my:graph_mode: {type: gauge, unit: info, labels: [model_name, mode]}\n"
    )
    made = built(
        "optimized", config="metrics: {cudagraph_mode_info: 'my:graph_mode'}\ncatalogs: [own.yaml]\n"
    )
    assert records(made)["graph_mode"] == "max by (job, instance, model_name, mode) (my:graph_mode)"
    assert "changes(my:graph_mode[15m])" in records(made)["graph_mode_drift"]


@pytest.mark.parametrize(
    ("text", "number"), [("0.4", "0.4"), ("400ms", "0.4"), ("0.4s", "0.4"), ("4e2ms", "0.4"), ("1m", "60")]
)
def test_set_a_threshold(text, number):
    assert f":p90_5m > {number} and" in alerts(built(sets=[f"ttft_p90_warn={text}"]))["TTFTHigh"]


def test_set_a_dotted_path():
    made = built(sets=["signals.ttft.window=10m", "alerts.TTFTHigh.for=7m", "title=Ours"])
    assert "[10m]" in records(made)["ttft"]
    assert next(rule.hold for rule in made.bundle.alerts if rule.alert == "TTFTHigh") == 420
    assert made.bundle.title == "Ours"


def test_the_last_override_wins():
    config, more = "thresholds: {kv_warn: 70%}", ["thresholds: {kv_warn: 75%}"]
    assert alerts(built(config=config, more=more))["KVCacheHigh"].endswith("> 0.75")
    assert alerts(built(config=config, more=more, sets=["kv_warn=85"]))["KVCacheHigh"].endswith("> 0.85")
    assert alerts(built(config=config, sets=["kv_warn=85%", "kv_warn=86%"]))["KVCacheHigh"].endswith("> 0.86")


def test_null_removes():
    made = built(config="alerts: {TTFTHigh: null}\nthresholds: {ttft_p90_warn: null}\n")
    assert alerts(made).keys() == alerts(built()).keys() - {"TTFTHigh"}
    assert alerts(built(sets=["alerts.TTFTHigh=null"])) == alerts(made)


def test_a_removed_signal_takes_its_alerts_and_panels_along():
    made = built(config="signals: {ttft: null}")
    assert "TTFTHigh" not in alerts(made)
    assert dict(made.bundle.dormant)["TTFTHigh"] == "its signal ttft is dormant"
    panels = {panel.signal for board in made.bundle.dashboards for panel in board.panels}
    assert "ttft" not in panels
    assert "prefill" in panels


def test_rows_merge():
    config = "dashboard:\n  - {row: Queue, panels: [{signal: active, title: Mine}]}\n"
    config += "  - {row: New, panels: [ttft.p90]}\n"
    with pytest.raises(InputError, match="two panels have the title"):
        built(config=config)
    made = built(config=config.replace("[ttft.p90]", "[{signal: ttft.p90, title: Tail}]"))
    rows = [(row.title, [panel.title for panel in row.panels]) for row in made.bundle.dashboards[0].rows]
    plain = [(row.title, [panel.title for panel in row.panels]) for row in built().bundle.dashboards[0].rows]
    assert [title for title, _ in rows] == [*(title for title, _ in plain), "New"]
    assert dict(rows)["Queue"] == [*dict(plain)["Queue"], "Mine"]
    assert dict(rows)["New"] == ["Tail"]


def test_build_check_tells_a_changed_file(run):
    assert run("build", "-p", "baseline", "-o", "out").code == 0
    same = run("build", "-p", "baseline", "-o", "out", "--check")
    assert (same.code, same.err) == (0, "")
    other = run("build", "-p", "baseline", "-o", "out", "--check", "--set", "kv_warn=91%")
    assert other.code == 1
    assert "rules/alerts.yaml" in other.out
    rules = Path("out/rules/recording.yaml")
    text = rules.read_text()
    rules.write_text(text.replace("0.9", "0.8"))
    assert run("build", "-p", "baseline", "-o", "out", "--check").code == 1
    assert rules.read_text() != text, "--check writes nothing"
    rules.unlink()
    assert "missing: rules/recording.yaml" in run("build", "-p", "baseline", "-o", "out", "--check").out
    assert run("build", "-p", "baseline", "-o", "none", "--check").code == 1
    assert not Path("none").exists()
