"""What changes between versions, and what rules lose by it."""

from pathlib import Path

import pytest

from monitorgen import catalog
from monitorgen.bundle import Origin
from monitorgen.catalog import Catalog, Family
from monitorgen.catalog.drift import Change, compare, fates, losses
from monitorgen.catalog.expressions import Expression, read
from monitorgen.errors import InputError


def made(*families: Family, version: str = "1") -> Catalog:
    return Catalog("test", version, {family.name: family for family in families})


def test_nothing_changes_within_a_version() -> None:
    for version in ("0.9", "0.32"):
        assert compare(catalog.load("vllm", version), catalog.load("vllm", version)) == ()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([Family("a")], [], Change("gone", "a")),
        ([], [Family("a", needs="--x")], Change("added", "a", note="--x")),
        ([Family("a", "gauge")], [Family("a", "counter")], Change("retyped", "a", ("gauge",), ("counter",))),
        (
            [Family("a", labels=("x", "y"))],
            [Family("a", labels=("y", "z"))],
            Change("relabelled", "a", ("x",), ("z",)),
        ),
        ([Family("a")], [Family("a", needs="--x")], Change("conditional", "a", note="now needs --x")),
        (
            [Family("a", "histogram", buckets=(0.1, 0.5))],
            [Family("a", "histogram", buckets=(0.1, 1.0))],
            Change("buckets", "a", ("0.5",), ("1",)),
        ),
        (
            [Family("a", labels=("k",), values={"k": ("x", "y")})],
            [Family("a", labels=("k",), values={"k": ("y", "z")})],
            Change("values", "a", ("x",), ("z",), "k"),
        ),
    ],
)
def test_changes(old: list[Family], new: list[Family], expected: Change) -> None:
    assert compare(made(*old), made(*new)) == (expected,)


@pytest.mark.parametrize(
    "pair",
    [
        (Family("a", needs="--x"), Family("a")),
        (Family("a", "histogram"), Family("a", "histogram", buckets=(1.0,))),
        (Family("a", help="x"), Family("a", help="y", origin="source")),
        (Family("a", labels=("k",), values={"k": ("x",)}), Family("a", labels=("k",))),
    ],
)
def test_what_is_no_change(pair: tuple[Family, Family]) -> None:
    assert compare(made(pair[0]), made(pair[1])) == ()


def test_the_breaking_changes_of_vllm() -> None:
    changes = compare(catalog.load("vllm", "0.9"), catalog.load("vllm", "0.32"))
    renamed = {change.family: change.new for change in changes if change.kind == "renamed"}
    assert renamed == {
        "vllm:gpu_cache_usage_perc": ("vllm:kv_cache_usage_perc",),
        "vllm:gpu_prefix_cache_hits_total": ("vllm:prefix_cache_hits_total",),
        "vllm:gpu_prefix_cache_queries_total": ("vllm:prefix_cache_queries_total",),
        "vllm:time_per_output_token_seconds": ("vllm:inter_token_latency_seconds",),
    }
    assert not [change for change in changes if change.kind in ("gone", "retyped", "buckets")]
    assert (
        Change("values", "vllm:request_success_total", (), ("error", "repetition"), "finished_reason")
        in changes
    )
    assert [change.kind for change in changes[:4]] == ["renamed"] * 4


def test_a_rename_is_known_backwards() -> None:
    changes = compare(catalog.load("vllm", "0.32"), catalog.load("vllm", "0.9"))
    assert ("vllm:inter_token_latency_seconds", ("vllm:time_per_output_token_seconds",)) in [
        (change.family, change.new) for change in changes if change.kind == "renamed"
    ]


def test_what_is_only_hidden_is_conditional() -> None:
    changes = compare(catalog.load("vllm", "0.10"), catalog.load("vllm", "0.11"))
    hidden = [change for change in changes if change.kind == "conditional"]
    assert "vllm:gpu_cache_usage_perc" in [change.family for change in hidden]
    assert all("--show-hidden-metrics-for-version=0.10" in change.note for change in hidden)


def test_the_table_of_renames_holds_in_the_catalogs() -> None:
    """A rename joins two families of one type that some version has, and the old one is gone today."""
    for old, fate in fates("vllm").items():
        assert fate.evidence
        assert old not in catalog.load("vllm", "0.32").families
        if fate.new:
            had = [one for one in catalog.in_range("vllm", "") if old in one.families]
            assert had
            assert had[0].families[old].type == catalog.load("vllm", "0.32").families[fate.new].type


def lost(expr: str, old: str = "0.9", new: str = "0.32") -> list[tuple[str, str]]:
    expressions = [Expression(expr, "alert/X", Origin("rules.yaml", 3, 5))]
    found, broken = losses(expressions, catalog.load("vllm", old), catalog.load("vllm", new))
    assert not broken
    return [(loss.reason, loss.hint) for loss in found]


@pytest.mark.parametrize(
    ("expr", "reason", "hint"),
    [
        (
            "vllm:gpu_cache_usage_perc > 0.9",
            "vllm:gpu_cache_usage_perc was renamed",
            "use vllm:kv_cache_usage_perc",
        ),
        (
            'sum by (le) (rate(vllm:time_per_output_token_seconds_bucket{job="x"}[5m]))',
            "vllm:time_per_output_token_seconds_bucket was renamed",
            "use vllm:inter_token_latency_seconds_bucket",
        ),
        ("vllm:num_requests_swapped", "vllm:num_requests_swapped is gone", "nothing replaces it"),
        (
            "vllm:time_in_queue_requests_sum",
            "vllm:time_in_queue_requests_sum is gone",
            "use vllm:request_queue_time_seconds",
        ),
        (
            'vllm:cache_config_info{swap_space="4"}',
            "vllm:cache_config_info has no label swap_space any more",
            "labels: ",
        ),
        ('{__name__=~"vllm:gpu_.*"}', "no name fits vllm:gpu_.* any more", "name the families"),
    ],
)
def test_what_rules_lose(expr: str, reason: str, hint: str) -> None:
    ((found, advice),) = lost(expr)
    assert found == reason
    assert advice.startswith(hint)


@pytest.mark.parametrize(
    "expr",
    [
        "sum(rate(vllm:request_success_total[$__rate_interval]))",
        'vllm:request_success_total{finished_reason=~"stop|length"}',
        'vllm:request_success_total{finished_reason!="abort", job=~"$job"}',
        'vllm:time_to_first_token_seconds_bucket{le="0.5"}',
        'vllm:time_to_first_token_seconds_bucket{le="+Inf"}',
        "up == 0",
        "node_cpu_seconds_total",
        'vllm:cache_config_info{swap_space=""}',
        '{__name__=~"vllm:.*"}',
        "vllm:kv_cache_usage_perc",
    ],
)
def test_what_rules_keep(expr: str) -> None:
    assert lost(expr) == []


def test_hidden_lost_values_edges_and_types() -> None:
    assert lost("vllm:gpu_cache_usage_perc", "0.10", "0.11") == [
        (
            "vllm:gpu_cache_usage_perc is not exported by default any more",
            "it needs --show-hidden-metrics-for-version=0.10",
        )
    ]
    assert lost('vllm:request_success_total{finished_reason="error"}', "0.32", "0.9") == [
        ("vllm:request_success_total has no finished_reason 'error' any more", "values: abort, length, stop")
    ]
    old = made(Family("a", "histogram", buckets=(0.1, 0.5)), Family("b", "gauge"))
    new = made(Family("a", "histogram", buckets=(0.1, 1.0)), Family("b", "counter"))
    for expr, reason in (
        ('a_bucket{le="0.5"}', "a has no bucket 0.5 any more"),
        ("b", "b was a gauge and is a counter"),
    ):
        found, _ = losses([Expression(expr, "x", Origin())], old, new)
        assert [loss.reason for loss in found] == [reason]


def test_what_is_no_promql_is_set_aside() -> None:
    expression = Expression("sum(", "alert/X", Origin())
    found, broken = losses([expression], catalog.load("vllm", "0.9"), catalog.load("vllm", "0.32"))
    assert (found, broken) == ((), (expression,))


RULES = """\
groups:
  - name: a
    rules:
      - alert: One
        expr: up == 0
        annotations: {expr: not one}
      - record: two
        expr: |
          vllm:gpu_cache_usage_perc
"""


@pytest.mark.parametrize(
    ("prefix", "indent", "shift"), [("", "", 0), ("kind: PrometheusRule\nspec:\n", "  ", 2), ("---\n", "", 1)]
)
def test_rule_files(tmp_path: Path, prefix: str, indent: str, shift: int) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(prefix + "".join(f"{indent}{line}\n" for line in RULES.splitlines()))
    found = read(path)
    assert [(one.item, one.text.strip(), one.origin.line) for one in found] == [
        ("alert/One", "up == 0", 5 + shift),
        ("record/two", "vllm:gpu_cache_usage_perc", 8 + shift),
    ]


def test_rule_files_with_aliases_in_a_circle_end(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("groups: &g\n  - rules: [{alert: A, expr: up}]\n  - *g\n")
    assert [one.item for one in read(path)] == ["alert/A"]


def test_dashboards(tmp_path: Path) -> None:
    path = tmp_path / "board.json"
    path.write_text("""\
{"title": "Board",
 "templating": {"list": [
   {"name": "model", "query": {"query": "label_values(vllm:gpu_cache_usage_perc{a=\\"b\\"}, model_name)"}},
   {"name": "other", "query": "1,2"}]},
 "panels": [
   {"title": "Row", "panels": [
     {"title": "One", "targets": [{"expr": "up{a=\\"b\\"}"}, {"expr": ""}]}]},
   {"title": "Two", "targets": [
     {"expr": "up{a=\\"b\\"}"}]}]}
""")
    assert [(one.item, one.text, one.origin.line) for one in read(path)] == [
        ("variable/model", 'vllm:gpu_cache_usage_perc{a="b"}', 3),
        ("panel/One", 'up{a="b"}', 7),
        ("panel/Two", 'up{a="b"}', 9),
    ]


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("a.yaml", b"groups: [", "not YAML"),
        ("a.yaml", b"a: \xff", "not UTF-8"),
        ("a.json", b'{"a": ', "not JSON"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.yaml", b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, body: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(body)
    with pytest.raises(InputError, match=message):
        read(tmp_path / name)
