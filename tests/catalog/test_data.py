"""The catalogs that come with the package, against what is known of vLLM independently of our code."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from monitorgen import catalog, telemetry
from monitorgen.catalog import generate, store
from monitorgen.catalog.conventions import UNITLESS
from monitorgen.catalog.units import UNITS

FIXTURES = Path(__file__).parents[1] / "fixtures"
RANGE = ">=0.9, <0.33"
ALL = [catalog.load(engine, version) for engine in catalog.engines() for version in catalog.versions(engine)]
VLLM = [one for one in ALL if one.engine == "vllm"]


def test_what_we_scraped_is_marked_as_recorded() -> None:
    assert [one.version for one in catalog.recorded("vllm", RANGE)] == [
        "0.9.2",
        "0.11.2",
        "0.14.1",
        "0.20.2",
        "0.24.0",
        "0.32.0",
    ]
    assert len(catalog.in_range("vllm", RANGE)) == 26
    assert catalog.in_range("vllm", ">=7") == ()


@pytest.mark.parametrize(
    ("version", "name", "type_", "unit", "labels"),
    [
        ("0.32", "vllm:iteration_tokens_total", "histogram", "tokens", "engine model_name"),
        ("0.32", "vllm:kv_cache_usage_perc", "gauge", "ratio", "engine model_name"),
        ("0.9", "vllm:gpu_cache_usage_perc", "gauge", "ratio", "engine model_name"),
        ("0.32", "vllm:request_success_total", "counter", "requests", "engine finished_reason model_name"),
        ("0.32", "vllm:admission_rejections_total", "counter", "requests", "model_name reason"),
        ("0.32", "vllm:num_requests_waiting_by_reason", "gauge", "requests", "engine model_name reason"),
        ("0.32", "vllm:generation_tokens_total", "counter", "tokens", "engine model_name"),
        ("0.32", "vllm:num_preemptions_total", "counter", "events", "engine model_name"),
        ("0.32", "vllm:engine_sleep_state", "gauge", "bool", "engine model_name sleep_state"),
        ("0.32", "vllm:estimated_flops_per_gpu_total", "counter", "flops", "engine model_name"),
        ("0.32", "vllm:e2e_request_latency_seconds", "histogram", "seconds", "engine model_name"),
        ("0.32", "vllm:kv_offload_tiering_chunk_hits_total", "counter", "number", "engine model_name tier"),
        ("0.32", "http_requests_total", "counter", "requests", "handler method status"),
        ("0.32", "http_request_size_bytes", "summary", "bytes", "handler"),
        ("0.13", "http_requests_total", "counter", "requests", "handler method status"),
        ("0.32", "process_start_time_seconds", "gauge", "timestamp", ""),
        ("0.32", "process_cpu_seconds_total", "counter", "seconds", ""),
        ("0.10.0", "vllm:time_per_output_token_seconds", "histogram", "seconds", "engine model_name"),
    ],
)
def test_families(version: str, name: str, type_: str, unit: str, labels: str) -> None:
    family = catalog.load("vllm", version).families[name]
    assert (family.type, family.unit, family.labels) == (type_, unit, tuple(labels.split()))


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("vllm:gpu_cache_usage_perc", "0.9.0.1", "0.11.2"),
        ("vllm:gpu_prefix_cache_hits_total", "0.9.0.1", "0.11.2"),
        ("vllm:kv_cache_usage_perc", "0.9.2", "0.32.0"),
        ("vllm:time_per_output_token_seconds", "0.9.0.1", "0.14.1"),
        ("vllm:inter_token_latency_seconds", "0.11.0", "0.32.0"),
        ("vllm:prompt_tokens_recomputed_total", "0.16.0", "0.19.1"),
        ("vllm:admission_rejections_total", "0.32.0", "0.32.0"),
        ("vllm:request_success_total", "0.9.0.1", "0.32.0"),
        ("http_requests_total", "0.9.0.1", "0.32.0"),
    ],
)
def test_families_come_and_go_without_holes(name: str, first: str, last: str) -> None:
    having = [one.version for one in VLLM if name in one.families]
    between = [one.version for one in VLLM]
    assert having == between[between.index(first) : between.index(last) + 1]


@pytest.mark.parametrize("name", ["vllm:num_requests_swapped", "vllm:gpu_prefix_cache_hit_rate"])
def test_families_of_the_v0_engine_are_left_out(name: str) -> None:
    assert not [one.version for one in VLLM if name in one.families]


@pytest.mark.parametrize(
    ("version", "name", "needs"),
    [
        ("0.32", "vllm:spec_decode_num_drafts_total", "--speculative-config"),
        ("0.32", "vllm:kv_block_lifetime_seconds", "--kv-cache-metrics"),
        ("0.32", "vllm:estimated_flops_per_gpu_total", "--enable-mfu-metrics"),
        ("0.11.2", "vllm:gpu_cache_usage_perc", "--show-hidden-metrics-for-version=0.10"),
        ("0.14.1", "vllm:time_per_output_token_seconds", "--show-hidden-metrics-for-version=0.13"),
        ("0.32", "vllm:lora_requests_info", "--enable-lora"),
        ("0.32", "process_start_time_seconds", "--api-server-count"),
    ],
)
def test_what_is_conditional_says_so(version: str, name: str, needs: str) -> None:
    assert needs in catalog.load("vllm", version).families[name].needs


@pytest.mark.parametrize(
    "name",
    [
        "vllm:time_to_first_token_seconds",
        "vllm:kv_cache_usage_perc",
        "vllm:num_preemptions_total",
        "http_requests_total",
    ],
)
def test_what_is_always_there_needs_nothing(name: str) -> None:
    assert catalog.load("vllm", "0.32").families[name].needs == ""


def test_no_condition_is_left_unexplained() -> None:
    found = [f.name for one in VLLM for f in one.families.values() if f.needs.startswith("seen in")]
    assert found == []


@pytest.mark.parametrize(
    ("version", "name", "label", "values"),
    [
        ("0.9.2", "vllm:request_success_total", "finished_reason", "abort length stop"),
        ("0.14.1", "vllm:request_success_total", "finished_reason", "abort error length stop"),
        ("0.32", "vllm:request_success_total", "finished_reason", "abort error length repetition stop"),
        ("0.32", "vllm:num_requests_waiting_by_reason", "reason", "capacity deferred"),
        ("0.32", "vllm:admission_rejections_total", "reason", "max_num_queued_reqs max_num_queued_tokens"),
        ("0.28.0", "vllm:engine_sleep_state", "sleep_state", "awake discard_all weights_offloaded"),
        ("0.9.2", "http_requests_total", "status", "2xx 4xx 5xx"),
    ],
)
def test_values_of_labels(version: str, name: str, label: str, values: str) -> None:
    assert catalog.load("vllm", version).families[name].values[label] == tuple(values.split())


TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
ITL = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0)


@pytest.mark.parametrize("version", [one.version for one in VLLM])
def test_edges_hold_in_every_version(version: str) -> None:
    families = catalog.load("vllm", version).families
    assert families["vllm:time_to_first_token_seconds"].buckets[: len(TTFT)] == TTFT
    itl = families.get("vllm:inter_token_latency_seconds", families.get("vllm:time_per_output_token_seconds"))
    assert itl is not None
    assert itl.buckets[: len(ITL)] == ITL
    assert families["vllm:e2e_request_latency_seconds"].buckets[0] == 0.3


def test_edges_that_depend_on_flags_are_those_that_both_neighbours_have() -> None:
    edges = [
        catalog.load("vllm", v).families["vllm:request_prompt_tokens"].buckets
        for v in ("0.20.2", "0.22.1", "0.24.0")
    ]
    assert edges[0][-1] == 1000.0
    assert edges[2][-1] == 2000.0
    assert edges[1] == edges[0]


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.reference)
def test_every_family_is_whole(one: catalog.Catalog) -> None:
    for name, family in one.families.items():
        assert name == family.name
        assert re.fullmatch("[a-zA-Z_:][a-zA-Z0-9_:]*", name)
        assert not name.endswith("_created")
        assert family.unit in UNITS or (family.unit == "" and UNITLESS.get(name)), name
        assert list(family.labels) == sorted(set(family.labels)), name
        assert not {"le", "job", "instance"} & set(family.labels), name
        assert set(family.values) <= set(family.labels), name
        assert not {"model_name", "engine"} & set(family.values), name
        assert list(family.buckets) == sorted(set(family.buckets)), name
        assert (family.type == "histogram") >= bool(family.buckets), name
        if family.type == "histogram" and family.origin == "wire":
            assert family.buckets, name


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.reference)
def test_every_series_leads_back_to_its_family(one: catalog.Catalog) -> None:
    for family in one.families.values():
        for series in family.series:
            assert one.family_of(series) is family


def test_series_and_families() -> None:
    one = catalog.load("vllm", "0.32")
    histogram = one.families["vllm:iteration_tokens_total"]
    assert histogram.series == (
        "vllm:iteration_tokens_total_bucket",
        "vllm:iteration_tokens_total_sum",
        "vllm:iteration_tokens_total_count",
    )
    assert one.family_of("vllm:iteration_tokens_total") is None
    assert one.families["http_request_size_bytes"].series == (
        "http_request_size_bytes_sum",
        "http_request_size_bytes_count",
    )
    created = one.family_of("vllm:request_success_created")
    assert created is not None
    assert (created.type, created.unit) == ("gauge", "timestamp")
    assert created.labels == ("engine", "finished_reason", "model_name")
    assert one.family_of("vllm:iteration_tokens_total_created") is not None
    assert one.family_of("vllm:kv_cache_usage_perc_created") is None


def test_evidence_is_not_mixed_up() -> None:
    for one in VLLM:
        origins = {family.origin for family in one.families.values()}
        assert ("wire" in origins) == (one.recorded or one.version in ("0.12.0", "0.30.0")), one.version
        assert not (one.recorded and "neighbour" in origins), one.version
        for family in one.families.values():
            if family.origin == "neighbour":
                assert family.name.startswith(("http_", "process_", "python_")), (one.version, family.name)


def test_the_data_is_what_the_generator_makes_of_our_recordings(tmp_path: Path) -> None:
    paths = generate.generate(FIXTURES / "scrapes", FIXTURES / "vllm-families.tsv.gz", tmp_path)
    assert {path.relative_to(tmp_path) for path in paths} == {
        path.relative_to(store.DATA) for path in store.DATA.glob("*/*.yaml") if path.name != "renames.yaml"
    }
    for path in paths:
        kept = store.DATA / path.relative_to(tmp_path)
        assert path.read_bytes() == kept.read_bytes(), f"{kept}: run python -m monitorgen.catalog.generate"


def test_the_fixtures_are_the_recordings_as_they_were_made() -> None:
    """Beside a checkout with the raw inputs: they are the same as what the tests use."""
    import gzip

    raw = Path(__file__).parents[3] / "shared" / "data"
    if not raw.is_dir():
        pytest.skip("the raw recordings are not beside this checkout")
    for path in (FIXTURES / "scrapes").iterdir():
        original = raw / "scrapes" / path.name.removesuffix(".gz")
        assert gzip.decompress(path.read_bytes()) == original.read_bytes()


@pytest.mark.parametrize(
    "path", sorted(store.DATA.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_every_data_file_is_yaml(path: Path) -> None:
    text = path.read_text("utf-8")
    data = yaml.safe_load(text)
    if path.name != "renames.yaml":
        assert data == json.loads(text)


def test_the_workload_catalog_is_what_telemetry_declares() -> None:
    families = catalog.load("workload", telemetry.VERSION).families
    assert set(families) == {metric.name for metric in telemetry.METRICS}
    for metric in telemetry.METRICS:
        family = families[metric.name]
        assert (family.type, family.unit, family.help) == (metric.type, metric.unit, metric.help)
        assert family.labels == tuple(sorted(metric.labels))
        assert dict(family.values) == {label: tuple(sorted(values)) for label, values in metric.values}
        assert family.buckets == metric.buckets
        assert (family.origin, family.needs) == ("declared", metric.needs)


def test_telemetry_declares_sound_metrics() -> None:
    names = [metric.name for metric in telemetry.METRICS]
    assert len(names) == len(set(names))
    for metric in telemetry.METRICS:
        assert metric.unit in UNITS
        assert metric.help.endswith(".")
        assert metric.name.endswith("_total") == (metric.type == "counter")
        assert bool(metric.buckets) == (metric.type == "histogram")
        assert {label for label, _ in metric.values} <= set(metric.labels)


def test_telemetry_imports_nothing_heavy() -> None:
    code = "import sys, monitorgen.telemetry; print(*sorted(m for m in sys.modules if m.partition('.')[0] in "
    code += "('monitorgen', 'torch', 'prometheus_client')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["monitorgen", "monitorgen.telemetry"]


def test_loading_a_range_imports_neither_yaml_nor_pydantic_nor_http() -> None:
    code = "import sys; from monitorgen import catalog; catalog.in_range('vllm', '>=0.9'); "
    code += "print(*({'yaml', 'pydantic', 'rich', 'urllib.request', 'prometheus_client'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_loading_the_whole_range_is_fast() -> None:
    # CPU time: what a busy machine does meanwhile says nothing.
    best = float("inf")
    for _ in range(3):
        store._load.cache_clear()
        start = time.process_time()
        catalog.in_range("vllm", RANGE)
        best = min(best, time.process_time() - start)
    assert best < 0.25


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("vllm:gpu_cache_usage_prec", "vllm:gpu_cache_usage_perc"),
        ("vllm:time_to_first_token_second_bucket", "vllm:time_to_first_token_seconds_bucket"),
        ("vllm:iteration_tokens_total", "vllm:iteration_tokens_total_sum"),
        ("vllm:running_requests_num", "vllm:num_requests_running"),
        ("vllm:cache_kv_usage_perc", "vllm:kv_cache_usage_perc"),
    ],
)
def test_nearest_names(wrong: str, right: str) -> None:
    assert right in catalog.nearest(wrong, catalog.in_range("vllm", RANGE))


def test_nothing_is_near_to_nonsense() -> None:
    assert catalog.nearest("zzzzqqqq", VLLM) == ()
    assert len(catalog.nearest("vllm:request", VLLM, n=2)) <= 2
