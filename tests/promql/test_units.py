"""Units: what an expression measures, and which units cannot stand side by side."""

from __future__ import annotations

import pytest

from monitorgen.catalog.units import UNITS as TABLE
from monitorgen.promql import Selector, unit_flow

UNITS = {
    "ttft_sum": "seconds",
    "ttft_count": "events",
    "iteration_sum": "tokens",
    "iteration_count": "events",
    "requests_total": "requests",
    "errors_total": "requests",
    "tokens_total": "tokens",
    "cpu_seconds_total": "seconds",
    "sent_bytes_total": "bytes",
    "memory": "bytes",
    "running": "requests",
    "usage": "ratio",
    "old_usage": "percent",
    "lag": "milliseconds",
    "up": "bool",
    "started": "timestamp",
    "config": "info",
    "things": "number",
}


def of(selector: Selector) -> str:
    if selector.name.endswith("_bucket"):
        return "seconds" if "histogram_quantile" in selector.functions else "events"
    return UNITS.get(selector.name, "")


YIELDS = [
    ("usage", "ratio"),
    ("nothing_known", ""),
    ("5", "number"),
    ("rate(tokens_total[5m])", "tokens/s"),
    ("rate(sent_bytes_total[5m])", "bytes/s"),
    ("rate(cpu_seconds_total[5m])", "ratio"),
    ("rate(things[5m])", "1/s"),
    ("irate(requests_total[5m])", "requests/s"),
    ("increase(tokens_total[5m])", "tokens"),
    ("sum by (job) (rate(requests_total[5m]))", "requests/s"),
    ("avg_over_time(usage[5m])", "ratio"),
    ("quantile_over_time(0.9, usage[5m])", "ratio"),
    ("max(max_over_time(running[5m]))", "requests"),
    ("count(up == 0)", "number"),
    ("sum(up)", "number"),
    ("avg(up)", "ratio"),
    ("changes(up[5m])", "number"),
    ("histogram_quantile(0.9, sum by (le) (rate(ttft_bucket[5m])))", "seconds"),
    ("rate(ttft_sum[5m]) / rate(ttft_count[5m])", "seconds"),
    ("increase(ttft_sum[5m]) / increase(ttft_count[5m])", "seconds"),
    ("sum(rate(iteration_sum[5m])) / sum(rate(iteration_count[5m]))", "tokens"),
    ('sum(rate(ttft_bucket{le="0.5"}[5m])) / sum(rate(ttft_count[5m]))', "ratio"),
    ("rate(errors_total[5m]) / rate(requests_total[5m])", "ratio"),
    ("rate(cpu_seconds_total[5m]) / rate(requests_total[5m])", "seconds"),
    ("tokens_total / cpu_seconds_total", "tokens/s"),
    ("rate(tokens_total[5m]) / running", "tokens/s"),
    ("running / 5", ""),
    ("1 - usage", "ratio"),
    ("usage * 100", "percent"),
    ("100 * (1 - usage)", "percent"),
    ("old_usage / 100", "ratio"),
    ("memory / 1024 / 1024", "mebibytes"),
    ("memory / (1024 * 1024)", "mebibytes"),
    ("memory / 1024 ^ 2", "mebibytes"),
    ("memory / 1000000", ""),
    ("ttft_sum * 1000", "milliseconds"),
    ("lag / 1e3", "seconds"),
    ("rate(requests_total[5m]) * 60", ""),
    ("usage * 1", "ratio"),
    ("time() - started", "seconds"),
    ("time() - timestamp(up)", "seconds"),
    ("started + 5", "timestamp"),
    ("started - 5", "timestamp"),
    ("usage > 0.9", "ratio"),
    ("0.9 < usage", "ratio"),
    ("usage > bool 0.9", "bool"),
    ("usage or vector(0)", "ratio"),
    ("usage and running", "ratio"),
    ("usage unless running", "ratio"),
    ("usage * on(x) group_left(y) config", "ratio"),
    ("config * on(x) group_right(y) usage", "ratio"),
    ("memory * on(x) up", "bytes"),
    ("memory - memory offset 5m", "bytes"),
    ("-memory", "bytes"),
    ("1 / ttft_sum", "1/s"),
    ("sqrt(memory * memory)", "bytes"),
    ("memory ^ 2", ""),
    ("clamp_max(usage, 1)", "ratio"),
    ("absent(up)", "bool"),
    ("2 * 3", "number"),
    ("1 / 0 + 2 ^ 99999", "number"),
    ("nothing_known / memory", ""),
    ('label_replace(memory, "a", "b", "c", "d")', "bytes"),
    ("max_over_time(rate(tokens_total[5m])[1h:1m])", "tokens/s"),
]


@pytest.mark.parametrize(("expr", "unit"), YIELDS)
def test_yields(expr: str, unit: str) -> None:
    flow = unit_flow(expr, of)
    assert flow.problems == ()
    assert flow.unit == unit


# The expression with the operator at fault between « and ».
CLASHES = [
    "memory «+» ttft_sum",
    "memory «-» usage",
    "memory «>» ttft_sum",
    "memory «==» bool usage",
    "ttft_sum «>» lag",
    "running «or» tokens_total",
    "usage «or» old_usage",
    "usage «>» old_usage",
    "started «+» started",
    "ttft_sum «-» started",
    "started «>» ttft_sum",
    "time() «-» memory",
    "rate(tokens_total[5m]) «>» tokens_total",
    "ttft_sum * 1000 «>» ttft_sum",
    "1 - (memory «+ on(a)» usage)",
    "things «+» memory",
    "«histogram_quantile»(0.9, rate(ttft_bucket[5m]) or rate(tokens_total[5m]))",
]


@pytest.mark.parametrize("marked", CLASHES)
def test_units_that_clash_are_underlined(marked: str) -> None:
    start, end = marked.index("«"), marked.index("»") - 1
    expr = marked.replace("«", "").replace("»", "")
    problems = unit_flow(expr, of).problems
    assert [p.kind for p in problems] == ["unit-mismatch"]
    assert problems[0].start == start
    assert problems[0].end in (end, end + len(" bool"))


SOUND = [
    "memory > 5",
    "memory > nothing_known",
    "running > count(up)",
    "usage == old_usage / 100",
    "usage * 0.5 + usage * 0.5",
    "ttft_sum * 1000 > lag",
    "rate(cpu_seconds_total[5m]) > usage",
    "memory or memory * 0",
    "time() > started + 300",
    "up == 1 and on(x) memory > 5",
]


@pytest.mark.parametrize("expr", SOUND)
def test_is_silent_where_units_agree_or_are_unknown(expr: str) -> None:
    assert unit_flow(expr, of).problems == ()


def test_units_are_those_of_the_table() -> None:
    for unit in TABLE:
        assert unit_flow("x", lambda _, unit=unit: unit).unit == unit
