"""Grafana's variables become values that parse, in every place where they may stand."""

from __future__ import annotations

import pytest

from monitorgen.promql import grafana_substitute, parse

SUBSTITUTED = [
    ("rate(foo[$__rate_interval])", "rate(foo[1m])"),
    ("rate(foo[${__rate_interval}])", "rate(foo[1m])"),
    ("avg_over_time(foo[$__range:$__interval])", "avg_over_time(foo[1h:15s])"),
    ("rate(foo[$window])", "rate(foo[1m])"),
    ("foo offset $back", "foo offset 1m"),
    ('foo{job=~"$job"}', 'foo{job=~".+"}'),
    ('foo{job=~"${job:regex}",i="[[instance]]"}', 'foo{job=~".+",i=".+"}'),
    ("foo{job='pre-$job'}", "foo{job='pre-.+'}"),
    ("topk($k, foo)", "topk(1, foo)"),
    ("foo > $limit", "foo > 1"),
    ("${metric}_total", "metric_total"),
    ('$metric{a="b"}', 'metric{a="b"}'),
    ("sum by ($group) (foo)", "sum by (group) (foo)"),
    ('foo{$label="x"}', 'foo{label="x"}'),
    ("foo * $__range_s", "foo * 3600"),
    ('label_replace(foo, "a", "$1-${name}", "b", "(?P<name>.*)")',) * 2,
    ('foo{a=~"x$"}',) * 2,
    ("foo",) * 2,
]


@pytest.mark.parametrize(("written", "substituted"), SUBSTITUTED)
def test_substitutes(written: str, substituted: str) -> None:
    assert grafana_substitute(written) == substituted
    assert parse(written).prettify() == parse(substituted).prettify()
