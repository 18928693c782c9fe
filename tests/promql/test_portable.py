"""What we accept, Prometheus 2.42 and 3.5 accept too."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from monitorgen.promql import PromQLError, portable

# The expression with the refused place between « and ».
REFUSED = [
    "«info»(foo)",
    "sum(«limitk»(5, foo))",
    "«limit_ratio»(0.5, foo)",
    "«mad_over_time»(foo[5m])",
    "«double_exponential_smoothing»(foo[5m], 0.5, 0.5)",
    "«holt_winters»(foo[5m], 0.5, 0.5)",
    '«sort_by_label»(foo, "a")',
    "«histogram_avg»(foo)",
    "«first_over_time»(foo[5m])",
    '{«"foo.bar"»}',
    'foo{«"a.b"»="c"}',
    'sum by («"a.b"») (foo)',
    'foo * on(«"a"») bar',
    'foo{a="b" «or» c="d"}',
    "foo[«300»]",
    "foo offset «5»",
    "foo offset «+»5m",
    "«1h»",
    "foo > 1 + «1h»",
    "foo @ «1e20»",
    "foo + on(a) «fill»(0) bar",
    "foo[«300y»]",
    'foo{a=~«"x**"»}',
    'foo{a=~«"(?<n>x)"»}',
    'foo{a=~«"x{1001}"»}',
    "foo{a=~«'(?x) a'»}",
    "foo{a=~«'\\\\u0041'»}",
    "rate(foo[«$__rate_interval»])",
    'foo{job=~"«$job»"}',
]
ACCEPTED = [
    "foo",
    "rate(foo[5m] offset -1h) > bool 0.5",
    "foo offset -5m",
    "foo[1h:] @ end()",
    'count_values("x", foo)',
    "foo{a=~`\\d+`}",
    'foo{a=~"(?i)x|[a-z]{2,3}"}',
    "sum(foo) by (a) / on(a) group_left(b) bar",
    'on_x + by{on="x",or="y"}',
    "fill + 1",
    "foo - 5 + -3e2 + 0x1F + Inf",
    'label_replace(foo, "a", "$1${name}", "b", "(?P<name>.*)")',
    "absent(foo) or vector(1) and on() time() > foo",
    "histogram_quantile(0.9, sum by (le) (rate(foo_bucket[5m])))",
    "quantile_over_time(0.5, foo[1d12h]) atan2 foo ^ 2",
    "predict_linear(foo[1h], 4 * 3600) < 0",
    "foo @ 1700000000.5 offset 1w",
]


@pytest.mark.parametrize("marked", REFUSED)
def test_says_what_is_not_portable_and_where(marked: str) -> None:
    start, end = marked.index("«"), marked.index("»") - 1
    problems = portable(marked.replace("«", "").replace("»", ""))
    assert [(p.start, p.end) for p in problems] == [(start, end)]


@pytest.mark.parametrize("expr", ACCEPTED)
def test_has_nothing_to_say_about_the_common_subset(expr: str) -> None:
    assert portable(expr) == ()


def test_dashboards_may_use_variables() -> None:
    assert portable('rate(foo{job=~"$job"}[$__rate_interval])', grafana=True) == ()


# Prometheus checks types; so must we, for a rule that it refuses never loads.
UNTYPED = """
rate(foo)
rate(sum(foo))
sum(1)
sum(foo[5m])
foo and 1
1 or 2
1 == 2
foo + bool 2
foo or on(a) group_left bar
foo * on(a) group_left(a) bar
foo * group_left bar
topk(foo, bar)
count_values(x, foo)
"a" + 1
-"a"
1[5m:]
foo[0s]
(foo) offset 5m
vector(foo)
scalar(1)
time(1)
absent(foo[5m])
histogram_quantile(foo, bar)
clamp(foo, 1)
round(foo, 5, 6)
label_join(foo, "a", ",", 5)
quantile_over_time(foo[5m], 0.5)
foo == on(a) 2
{}
{a=""}
{a=~".*"}
foo{__name__="bar"}
foo{a:b="c"}
foo{a=~"("}
foo[5m1h]
foo[1.5h]
foo offset 5m offset 6m
foo unless foo[5m]
sum by (a) by (b) (foo)
on
sum(foo,)
""".strip().splitlines()


def accepted(expr: str) -> bool:
    try:
        return not portable(expr)
    except PromQLError:
        return False


@pytest.mark.parametrize("expr", UNTYPED)
def test_refuses_what_prometheus_refuses(expr: str) -> None:
    assert not accepted(expr)


def binaries() -> list[str]:
    named = [path for path in os.environ.get("MONITORGEN_PROMTOOL", "").split(os.pathsep) if path]
    found = shutil.which("promtool")
    return named or ([found] if found else [])


@pytest.mark.parametrize(
    "binary", binaries() or [pytest.param("", marks=pytest.mark.skip("no promtool found"))]
)
def test_what_we_accept_prometheus_accepts(binary: str, tmp_path: Path) -> None:
    """And what its parser takes from this table, we take: nothing sound is called an error."""
    plain = [text.replace("«", "").replace("»", "") for text in REFUSED]
    expressions = [*UNTYPED, *ACCEPTED, *plain]
    groups = [{"name": f"g{i}", "rules": [{"record": f"r{i}", "expr": e}]} for i, e in enumerate(expressions)]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": groups}))
    out = subprocess.run(
        [binary, "check", "rules", "--lint=none", str(path)], capture_output=True, text=True, timeout=60
    )
    bad = {int(number) for number in re.findall(r'group "g(\d+)"', out.stdout + out.stderr)}
    assert bad, "promtool refused nothing"
    assert [e for i, e in enumerate(expressions) if accepted(e) and i in bad] == []
    assert [e for i, e in enumerate(expressions) if e in UNTYPED and i not in bad] == []
