"""What live proofs ask and how they judge the answers; the servers themselves are in tests/live."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from monitorgen.errors import InputError
from monitorgen.prove.exported import Exported, selectors_without_series, whereabouts
from monitorgen.prove.live import LiveReport, LiveResult, Source, ask
from monitorgen.prove.prometheus import PrometheusClient, PrometheusError, Sample, Series
from monitorgen.prove.questions import Question, Subject, subject_of_files, subject_of_folder

HERE = frozenset({"a", "b_bucket", "c_total"})
RECORDED = {
    "x:a": ("sum(a)",),
    "x:gone": ("gone_total",),
    "x:far": ("x:gone + 1",),
    "x:either": ("gone", "a"),
}


@pytest.mark.parametrize(
    ("expr", "lacking"),
    [
        ("a", ""),
        ("gone", "gone"),
        ("rate(gone[5m])", "gone"),
        ("a / gone", "gone"),
        ("gone + lost", "gone lost"),
        ("a or gone", ""),
        ("gone or a", ""),
        ("gone or lost", "gone lost"),
        ("(gone or lost) / a", "gone lost"),
        ("a unless gone", ""),
        ("gone unless a", "gone"),
        ("a and gone", "gone"),
        ("absent(gone)", ""),
        ("absent_over_time(gone[5m])", ""),
        ("a * absent(gone) or lost", ""),
        ("histogram_quantile(0.9, sum by (le) (rate(b_bucket[5m])))", ""),
        ("histogram_quantile(0.9, sum by (le) (rate(g_bucket[5m])))", "g_bucket"),
        ("max_over_time((gone > 0)[5m:1m])", "gone"),
        ("topk(3, gone)", "gone"),
        ("-gone", "gone"),
        ("vector(1)", ""),
        ('{__name__=~"gone.*"}', ""),
        ("x:a", ""),
        ("x:gone", "gone_total"),
        ("x:far", "gone_total"),
        ("x:either", ""),
    ],
)
def test_what_an_expression_lacks(expr: str, lacking: str) -> None:
    assert Exported(HERE, HERE, RECORDED).lacking(expr) == frozenset(lacking.split())


def test_rules_that_record_each_other_end() -> None:
    assert Exported(HERE, HERE, {"x:a": ("x:b",), "x:b": ("x:a",)}).lacking("x:a") == frozenset()


@pytest.mark.parametrize(
    ("series", "wanted"),
    [
        ("vllm:spec_decode_num_drafts_total", "vllm exports it (needs --speculative-config)"),
        ("vllm:admission_rejections_total", "vllm has it from 0.32.0 on"),
        ("vllm:inter_token_latency_seconds_bucket", "vllm has it from 0.1"),
        ("vllm:gpu_cache_usage_perc", "vllm had it until 0.11.2"),
        (
            "vllm:kv_block_lifetime_seconds_bucket",
            "vllm has it from 0.12.0 on (needs --kv-cache-metrics)",
        ),
        ("vllm:num_requests_running", "vllm exports it"),
        ("vllm:decode_tokens_total", "workload exports it"),
        ("nobody:knows_this", ""),
    ],
)
def test_where_a_series_is_to_be_had(series: str, wanted: str) -> None:
    found = whereabouts(series)
    assert found.startswith(wanted)
    assert bool(found) == bool(wanted)


def test_a_declared_family_without_series_is_told_apart() -> None:
    exported = Exported(HERE, HERE | {"seen_total", "wait"})
    assert "none of what it counts has happened" in exported.reason({"seen_total"})
    assert "none of what it counts has happened" in exported.reason({"wait_bucket"})
    assert exported.reason({"nobody:z", "nobody:y"}) == (
        "nobody:y is not exported by this server; nobody:z is not exported by this server"
    )


def test_selectors_that_match_nothing_are_named_once() -> None:
    expr = 'a{x="1"} + rate(c_total{y="2"}[5m]) + a{x="1"}'
    assert selectors_without_series(expr, lambda text: 0 if "x=" in text else 3) == ('a{x="1"}',)


@pytest.mark.parametrize(
    ("expr", "wanted"),
    [
        ("rate(a[$__rate_interval])", "rate(a[8s])"),
        ("rate(a[${__rate_interval}])", "rate(a[8s])"),
        ("rate(a[$__interval])", "rate(a[2s])"),
        ("increase(a[$__range])", "increase(a[1m])"),
        ("a * $__range_s + $__interval_ms", "a * 60 + 2000"),
        ('a{job=~"$job", i=~"${instance}", m=~"${model:regex}"}', 'a{job=~".+", i=~".+", m=~".+"}'),
        ("rate(a[$window])", "rate(a[10m])"),
        ("rate(a[${window}])", "rate(a[10m])"),
        ("a > 1", "a > 1"),
    ],
)
def test_variables_get_the_values_that_grafana_would_send(expr: str, wanted: str) -> None:
    assert Question("panel/u/t", expr, variables=(("window", "10m"),)).query(2.0) == wanted


RULES = """
groups:
  - name: g
    rules:
      - {record: "x:a", expr: sum(a), labels: {kind: 'q"u'}}
      - {record: "x:a", expr: sum(b)}
      - {alert: A, expr: a > 1}
  - {name: empty}
"""
BOARD = {
    "uid": "u",
    "templating": {
        "list": [
            {"name": "window", "type": "custom", "query": "5m, 10m", "current": {"value": ["10m"]}},
            {"name": "first", "type": "interval", "query": "1m,2m", "current": {"value": "$__all"}},
            {"name": "job", "type": "query", "current": {"value": "vllm"}},
        ]
    },
    "panels": [
        {"title": "one", "targets": [{"expr": "a", "refId": "Q"}, {"expr": "b", "instant": True}]},
        {
            "type": "row",
            "panels": [{"title": "in row", "targets": [{"expr": "c", "hide": True}, {"expr": "d"}]}],
        },
        {"title": "text"},
        {"title": "other", "targets": [{"rawSql": "select 1"}]},
    ],
}


def test_written_files_become_questions(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "dashboards").mkdir()
    (tmp_path / "rules" / "r.yaml").write_text(RULES)
    (tmp_path / "dashboards" / "d.json").write_text(json.dumps(BOARD))
    subject = subject_of_folder(tmp_path)
    assert list(subject.rule_files.values()) == [RULES]
    assert subject.recorded == {"x:a": ("sum(a)", "sum(b)")}
    asked = [(q.item, q.ref, q.expr, q.rule, q.instant) for q in subject.questions]
    assert asked == [
        ("record/x:a", "", 'x:a{kind="q\\"u"}', "sum(a)", False),
        ("record/x:a", "", "x:a", "sum(b)", False),
        ("panel/u/one", "Q", "a", "", False),
        ("panel/u/one", "B", "b", "", True),
        ("panel/u/in row", "B", "d", "", False),
    ]
    assert subject.questions[-1].variables == (("first", "1m"), ("window", "10m"))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a: [", "no rule file"),
        ("- 1", "no rule file"),
        ("groups: [{rules: [{record: a}]}]", "'expr' is missing"),
    ],
)
def test_what_is_no_rule_file_is_refused_by_name(text: str, wanted: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=wanted) as caught:
        subject_of_files([path])
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"panels": [1]}'])
def test_what_is_no_dashboard_is_refused_by_name(text: str, tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text(text)
    with pytest.raises(InputError, match="no dashboard") as caught:
        subject_of_files([], [path])
    assert str(path) in str(caught.value)


def test_a_folder_without_rules_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rule file"):
        subject_of_folder(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        subject_of_files([tmp_path / "none.yaml"])


class Canned(PrometheusClient):
    """Answers from a table: an expression to its series' points."""

    def __init__(self, answers: Mapping[str, list[list[float]]]) -> None:
        super().__init__("http://127.0.0.1:1")
        self.answers = answers

    def query(self, expr: str, time: float | None = None) -> tuple[Sample, ...]:
        if expr.startswith("count("):
            found = len(self.answers.get(expr[6:-1], []))
            return (Sample({}, 1.0, found),) if found else ()
        return tuple(Sample({"n": str(i)}, 1.0, v[-1]) for i, v in enumerate(self.answers.get(expr, [])))

    def query_range(self, expr: str, start: float, end: float, step: float) -> tuple[Series, ...]:
        if expr == "broken":
            raise PrometheusError("Prometheus refuses: broken")
        rows = enumerate(self.answers.get(expr, []))
        return tuple(
            Series({"n": str(-i)}, tuple((10.0 + j, v) for j, v in enumerate(row))) for i, row in rows
        )

    def names(self) -> frozenset[str]:
        return HERE

    def families(self) -> frozenset[str]:
        return HERE


@pytest.mark.parametrize(
    ("question", "status", "value", "series", "reason"),
    [
        (Question("i", "a"), "proven", 4.0, 2, ""),
        (Question("i", "a", instant=True), "proven", 2.0, 1, ""),
        (
            Question("i", "x:a", rule="sum(a)"),
            "failed",
            None,
            0,
            "every selector has series, the result has none",
        ),
        (Question("i", "c_total"), "failed", None, 0, "1 series, but every value is NaN or infinite"),
        (Question("i", "gone"), "unproven", None, 0, "gone is not exported by this server"),
        (Question("i", "x:g", rule="gone"), "unproven", None, 0, "gone is not exported by this server"),
        (Question("i", 'a{z="1"}'), "failed", None, 0, 'no series matches a{z="1"}'),
        (Question("i", "broken"), "failed", None, 0, "Prometheus refuses: broken"),
        (Question("i", "sum("), "failed", None, 0, "this '(' is never closed"),
    ],
)
def test_answers_are_judged(
    question: Question, status: str, value: float | None, series: int, reason: str
) -> None:
    client = Canned({"a": [[1.0, 2.0], [3.0, math.inf, 4.0, math.nan]], "c_total": [[math.nan]]})
    (result,) = ask(client, Subject({}, (question,), {}), since=0.0, interval=2.0)
    assert (result.status, result.series) == (status, series)
    assert (result.value if result.ok else None) == value
    assert result.reason.startswith(reason)
    assert bool(result.reason) == (status != "proven")


def test_the_report_fails_by_failures_and_broken_rules_only() -> None:
    proven = LiveResult("record/a", "", "proven", "a", 1, 2.5, 3.0)
    unproven = LiveResult("panel/u/t", "A", "unproven", "b", reason="b is not exported")
    source = Source("vllm", "127.0.0.1:1")
    report = LiveReport((proven, unproven), (source,), "3.5", 4.0)
    assert report.ok
    assert [line.split() for line in report.table().splitlines()[1:4]] == [
        ["proven", "2.5", "1", "record/a"],
        ["unproven", "-", "0", "panel/u/t", "A"],
        ["b", "is", "not", "exported"],
    ]
    assert "1 proven, 1 unproven, 0 failed; Prometheus 3.5, 4 s of vllm at 127.0.0.1:1" in report.table()
    assert not LiveReport((proven,), (source,), "3.5", 4.0, errors=("a: many-to-many",)).ok
    assert not LiveReport((LiveResult("i", "", "failed", "q"),), (source,), "3.5", 4.0).ok
