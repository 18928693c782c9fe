"""The checks against recorded vLLM metrics: mistakes seen in the wild, and our own profiles."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitorgen.build import build
from monitorgen.bundle import AlertRule, Bundle, Dashboard, Panel, Query, RecordingRule, Row, RuleGroup, pairs
from monitorgen.checks import Context, run
from monitorgen.profile import load_profile

VLLM = (("vllm", ">=0.9, <0.33"),)


def _ids(expr: str, *, kind: str = "alert", engines: tuple[tuple[str, str], ...] = VLLM) -> set[str]:
    """The checks that complain about a lone rule or query."""
    rule: AlertRule | RecordingRule = AlertRule("A", expr, 60.0)
    if kind == "record":
        rule = RecordingRule("model:vllm_x:value", expr)
    dashboards: tuple[Dashboard, ...] = ()
    if kind == "query":
        dashboards = (Dashboard("d", "D", (Row("", (Panel("P", (Query(expr),)),)),)),)
    groups = () if dashboards else (RuleGroup("g", (rule,)),)
    return {
        one.check for one in run(Context(Bundle("b", groups=groups, dashboards=dashboards, engines=engines)))
    }


@pytest.mark.parametrize(
    ("expr", "check"),
    [
        ("vllm:gpu_cache_usage_perc > 0.9", "metric-range"),
        ("vllm:kv_cache_usage_perc > 0.9", "metric-range"),
        ("vllm:kv_cache_usage_perc > 90 or vllm:gpu_cache_usage_perc > 90", "threshold-reachable"),
        ("rate(vllm:time_per_output_token_seconds_sum[5m]) > 1", "metric-range"),
        ("vllm:cudagraph_mode_info > 0", "metric-exists"),
        ("rate(vllm:engine_core_errors_total[5m]) > 0", "metric-exists"),
        ("rate(vllm:iteration_tokens_total[5m]) > 0", "metric-exists"),
        ("rate(vllm:request_success[5m]) > 0", "metric-exists"),
        ('rate(vllm:request_success_total{finished_reason="aborted"}[5m]) > 0', "label-value"),
        ('rate(vllm:request_success_total{reason="abort"}[5m]) > 0', "label-exists"),
        ("vllm:generation_tokens_total > 5", "raw-counter"),
        ("rate(vllm:num_requests_running[5m]) > 5", "rate-of-counter"),
        ('rate(vllm:time_to_first_token_seconds_bucket{le="0.6"}[5m]) > 1', "bucket-edge"),
        (
            "histogram_quantile(0.9, sum by (le) (rate(vllm:time_to_first_token_seconds_bucket[5m]))) > 5000",
            "threshold-reachable",
        ),
        ("rate(vllm:spec_decode_num_drafts_total[5m]) > 1", "metric-range"),
        ("vllm:num_requests_running > 5 and up == 1", "label-flow"),
    ],
)
def test_mistakes_with_real_metrics_are_found(expr, check):
    assert check in _ids(expr)


@pytest.mark.parametrize(
    "expr",
    [
        "vllm:kv_cache_usage_perc > 0.9 or vllm:gpu_cache_usage_perc > 0.9",
        'rate(vllm:request_success_total{finished_reason=~"abort|length"}[5m]) > 0',
        "rate(vllm:iteration_tokens_total_sum[5m]) > 5",
        "histogram_quantile(0.9, sum by (le) (rate(vllm:time_to_first_token_seconds_bucket[5m]))) > 0.6",
        'rate(vllm:time_to_first_token_seconds_bucket{le="0.5"}[5m]) > 1',
        "up == 0",
        'absent(vllm:num_requests_running{job="vllm"})',
    ],
)
def test_right_expressions_pass_what_asks_about_metrics(expr):
    about_metrics = {
        "metric-exists",
        "metric-range",
        "label-exists",
        "label-value",
        "label-flow",
        "bucket-edge",
        "raw-counter",
        "rate-of-counter",
        "threshold-reachable",
        "threshold-resolution",
        "unit-mismatch",
    }
    assert _ids(expr) & about_metrics == set()


def test_a_renamed_family_is_fine_where_the_range_has_one_name():
    assert "metric-range" not in _ids("vllm:kv_cache_usage_perc > 0.9", engines=(("vllm", ">=0.12"),))
    assert "metric-range" in _ids("vllm:gpu_cache_usage_perc > 0.9", engines=(("vllm", ">=0.10"),))


@pytest.mark.parametrize("name", ["baseline", "optimized", "kernels", "speculative"])
def test_our_profiles_have_no_findings(name):
    built = build(load_profile(name))
    assert [str(one) for one in run(Context(built.bundle, built.catalogs))] == []


@pytest.mark.parametrize("name", ["baseline", "optimized", "kernels", "speculative"])
def test_findings_about_our_profiles_point_to_the_profile(name):
    built = build(load_profile(name))
    groups = tuple(
        replace(group, rules=tuple(replace(rule, expr=f"{rule.expr} + gone_metric") for rule in group.rules))
        for group in built.bundle.groups
    )
    found = run(Context(replace(built.bundle, groups=groups), built.catalogs), {"metric-exists"})
    assert {one.item for one in found} == {rule.id for group in groups for rule in group.rules}
    assert all(one.origin.file.endswith(".yaml") and one.origin.line > 1 for one in found)


_NAMES = ["up", "vllm:num_requests_running", "vllm:request_success_total", "r:x:rate5m", "r:y:p90"]
_SYNTAX = [
    "sum",
    "by",
    "(job)",
    "rate",
    "(",
    ")",
    "[5m]",
    ">",
    "==",
    "0.5",
    "90",
    "and",
    "or",
    "unless",
    "on",
    ",",
]
_WORDS = st.sampled_from(
    [*_NAMES, *_SYNTAX, '{le="0.5"}', '{finished_reason=~"stop|x"}', "$__rate_interval", "bool"]
)
_GROWN = st.recursive(
    st.sampled_from(
        ["up", "r:x:rate5m", "r:y:p90", "vllm:num_requests_running", "vllm:kv_cache_usage_perc", "3"]
    ),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "/", ">", "and", "or", "unless", "== bool"]), inner).map(
            lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"
        ),
        inner.map(lambda text: f"sum by (job) ({text})"),
        inner.map(lambda text: f"max without (engine) ({text})"),
        inner.map(lambda text: f"max_over_time({text}[5m:1m])"),
        inner.map(lambda text: f"clamp_min({text}, 1)"),
        inner.map(lambda text: f"histogram_quantile(0.9, {text})"),
    ),
    max_leaves=6,
)
_EXPRS = st.one_of(_GROWN, st.lists(_WORDS, max_size=12).map(" ".join), st.text(max_size=20))


@settings(max_examples=60, deadline=None)
@given(_EXPRS, _EXPRS, _EXPRS, st.text(max_size=15))
def test_no_bundle_breaks_the_checks(one, other, third, text):
    """Whatever stands in foreign files, circles included, checks answer with findings."""
    rules = (
        RecordingRule("r:x:rate5m", one),
        RecordingRule("r:y:p90", other, pairs({text: text})),
        AlertRule("A", third, 60.0, pairs({"severity": text}), pairs({"summary": text, "runbook_url": text})),
    )
    panel = Panel(text, (Query(one, legend=text), Query(third)), unit=text)
    bundle = Bundle(
        "b",
        groups=(RuleGroup("g", rules, interval=30.0),),
        dashboards=(Dashboard(text, text, (Row("", (panel,)),)),),
        engines=(("vllm", ">=0.31"),),
    )
    assert all(finding.check and finding.message for finding in run(Context(bundle)))
