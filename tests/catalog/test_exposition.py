import math
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Summary
from prometheus_client.exposition import generate_latest as as_text
from prometheus_client.openmetrics.exposition import generate_latest as as_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from monitorgen.catalog.exposition import Exposed, parse
from monitorgen.catalog.transport import Page, open_file, parse_page
from monitorgen.errors import InputError

SCRAPES = sorted((Path(__file__).parents[1] / "fixtures" / "scrapes").iterdir())


def read(path: Path) -> dict[str, Exposed]:
    return {family.name: family for family in parse_page(open_file(str(path)))}


def one(text: str, openmetrics: bool | None = None) -> Exposed:
    (family,) = parse(text, openmetrics=openmetrics)
    return family


@pytest.mark.parametrize("path", SCRAPES, ids=lambda path: path.name)
def test_every_recording_reads_the_same_as_by_another_parser(path: Path) -> None:
    import gzip

    text = gzip.decompress(path.read_bytes()).decode()
    theirs = {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
        if not s.name.endswith("_created")
    }
    ours = {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in read(path).values()
        for s in family.samples
    }
    assert ours == theirs


def test_a_recorded_page() -> None:
    families = read(next(path for path in SCRAPES if path.name == "vllm-0.32.0.t2.prom.gz"))
    histogram = families["vllm:iteration_tokens_total"]
    assert (histogram.type, histogram.created) == ("histogram", True)
    assert {sample.name for sample in histogram.samples} == {
        f"vllm:iteration_tokens_total_{part}" for part in ("bucket", "sum", "count")
    }
    assert families["vllm:request_success_total"].type == "counter"
    assert families["vllm:request_success_total"].created
    assert families["vllm:kv_cache_usage_perc"].type == "gauge"
    assert not any(name.endswith("_created") for name in families)
    assert families["vllm:num_requests_running"].help == "Number of requests in model execution batches."


@pytest.mark.parametrize(
    ("text", "name", "type_", "series"),
    [
        ("# TYPE a_total counter\na_total 1\n", "a_total", "counter", ["a_total"]),
        ("# TYPE a counter\na 1\n", "a", "counter", ["a"]),
        ("# TYPE a_total gauge\na_total 1\n", "a_total", "gauge", ["a_total"]),
        ("# TYPE a untyped\na 1\n", "a", "unknown", ["a"]),
        ("a 1\n", "a", "unknown", ["a"]),
        (
            '# TYPE a summary\na{quantile="0.5"} 1\na_sum 1\na_count 1\n',
            "a",
            "summary",
            ["a", "a_sum", "a_count"],
        ),
        ("# TYPE a counter\na_total 1\na_created 5\n# EOF\n", "a_total", "counter", ["a_total"]),
        ("# TYPE a_total counter\na_total 1\n# EOF\n", "a_total", "counter", ["a_total"]),
        ('# TYPE a info\na_info{v="1"} 1\n# EOF\n', "a_info", "info", ["a_info"]),
        ('# TYPE a stateset\na{a="x"} 1\n# EOF\n', "a", "gauge", ["a"]),
        ("# TYPE a unknown\na 1\n# EOF", "a", "unknown", ["a"]),
        ("# TYPE a counter\n# EOF\n", "a_total", "counter", []),
        (
            '# TYPE a_total histogram\na_total_bucket{le="+Inf"} 1\na_total_created 1\n# EOF\n',
            "a_total",
            "histogram",
            ["a_total_bucket"],
        ),
        ('# TYPE "a.b" gauge\n{"a.b"} 1\n', "a.b", "gauge", ["a.b"]),
    ],
)
def test_families_are_named_as_promql_selects_them(
    text: str, name: str, type_: str, series: list[str]
) -> None:
    family = one(text)
    assert (family.name, family.type, [sample.name for sample in family.samples]) == (name, type_, series)


def test_created_belongs_to_its_family_and_a_gauge_of_that_name_alone_stays() -> None:
    text = "# TYPE a_total counter\na_total 1\n# TYPE a_created gauge\na_created 1\n"
    text += "# TYPE b_created gauge\nb_created 1\n"
    assert [(f.name, f.created) for f in parse(text)] == [("a_total", True), ("b_created", False)]
    several_processes = "# TYPE a_total counter\na_total 1\n"
    assert not one(several_processes).created


def test_a_gauge_histogram_is_gauges_to_promql() -> None:
    text = '# TYPE a gaugehistogram\na_bucket{le="+Inf"} 2\na_gcount 2\na_gsum 3\n# EOF\n'
    found = {family.name: (family.type, len(family.samples)) for family in parse(text)}
    assert found == {"a_bucket": ("gauge", 1), "a_gsum": ("gauge", 1), "a_gcount": ("gauge", 1)}


@pytest.mark.parametrize(
    ("line", "labels", "value"),
    [
        ("a 1", {}, 1.0),
        ("a\t1.5e3 1700000000000", {}, 1500.0),
        ('  a  {  b = "c" , } 1', {"b": "c"}, 1.0),
        ("a{} -Inf", {}, -math.inf),
        ('a{b="}",c="a,b"} +Inf', {"b": "}", "c": "a,b"}, math.inf),
        (r'a{b="x\\y\"z\nq"} 0', {"b": 'x\\y"z\nq'}, 0.0),
        (r'a{b="\d"} 0', {"b": r"\d"}, 0.0),
        ('a{b="\u2028\x0b\x85"} 0', {"b": "\u2028\x0b\x85"}, 0.0),
        ("a 1\r", {}, 1.0),
    ],
)
def test_samples(line: str, labels: dict[str, str], value: float) -> None:
    (sample,) = one(f"{line}\n").samples
    assert (sample.labels, sample.value) == (labels, value)


def test_exemplars_and_timestamps_of_openmetrics() -> None:
    text = '# TYPE a counter\na_total{x="y"} 5 1.5 # {trace="q # }"} 0.3 1.2\n# EOF\n'
    (sample,) = one(text).samples
    assert (sample.labels, sample.value) == ({"x": "y"}, 5.0)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a 1\nb\n", 2, "is no sample"),
        ("a 1\n\n\na{b=c} 1\n", 4, "the labels are broken"),
        ('a{b="c" 1\n', 1, "the labels are broken"),
        ('a{b="c"\n', 1, "the labels are broken"),
        ('a{b="c"d="e"} 1\n', 1, "the labels are broken"),
        ('a{b="c",b="d"} 1\n', 1, "label b is given twice"),
        ('a{b="c"} one\n', 1, "expected a value"),
        ("a 1_000\n", 1, "expected a value"),
        ("a 1 2 3\n", 1, "expected a value"),
        ('a 1 # {x="y"} 1\n', 1, "expected a value"),
        ('a{b="c"}\n', 1, "expected a value"),
        ("1a 1\n", 1, "is no sample"),
        ("a.b 1\n", 1, "is no sample"),
        ('{b="c"} 1\n', 1, "has no name"),
        ('a{"b"} 1\n', 1, "quoted name"),
        ("# TYPE a thing\n", 1, "is no metric type"),
        ("# TYPE a\n", 1, "is no metric type"),
        ("# TYPE a stateset\n", 1, "is no metric type"),
        ("# TYPE 1 gauge\n", 1, "names no metric"),
        ("# TYPE a gauge\n# TYPE a counter\n", 2, "declared as gauge and again as counter"),
        ("# TYPE a histogram\na_bucket 1\n", 2, "le must be a number"),
        ('# TYPE a histogram\na_bucket{le="x"} 1\n', 2, "le must be a number"),
        ("a 1\n# EOF\nb 1\n# EOF\n", 3, "after # EOF"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        parse(text, source="page")
    assert caught.value.origin is not None
    assert (caught.value.origin.file, caught.value.origin.line) == ("page", line)


def test_openmetrics_that_is_cut_short_is_refused() -> None:
    with pytest.raises(InputError, match="cut short"):
        parse("# TYPE a gauge\na 1\n", openmetrics=True)


@pytest.mark.parametrize(
    "line",
    [
        "a{" + 'b="c",' * 50_000,
        'a{b="' + "\\" * 200_001,
        "a" * 500_000,
        "a{" * 100_000,
        "a 1 " + " " * 300_000 + "x",
    ],
    ids=["labels", "escapes", "name", "braces", "blanks"],
)
def test_hostile_lines_are_refused_in_no_time(line: str) -> None:
    with pytest.raises(InputError):
        parse(line)


NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}[a-z0-9]", fullmatch=True).filter(
    lambda name: not name.endswith(("_total", "_created", "_sum", "_count", "_bucket", "_info", "_gsum"))
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
LABELS = st.dictionaries(st.sampled_from(["a", "b", "model_name"]), TEXTS, min_size=1, max_size=3)
VALUES = st.floats(allow_nan=False) | st.integers(0, 2**60).map(float)


@st.composite
def registries(draw: st.DrawFn) -> tuple[CollectorRegistry, dict[str, tuple[str, dict[str, str], str]]]:
    """A registry of prometheus_client, and for each family (as PromQL names it) its type, labels and help."""
    registry = CollectorRegistry()
    expected: dict[str, tuple[str, dict[str, str], str]] = {}
    for name in draw(st.lists(NAMES, unique=True, max_size=4)):
        kind = draw(st.sampled_from(["counter", "gauge", "histogram", "summary", "info"]))
        labels, help_ = draw(LABELS), draw(TEXTS)
        amount = draw(st.floats(0, 1e12))
        keys, values = list(labels), list(labels.values())
        if kind == "counter":
            Counter(name, help_, keys, registry=registry).labels(*values).inc(amount)
            expected[f"{name}_total"] = (kind, labels, help_)
        elif kind == "gauge":
            Gauge(name, help_, keys, registry=registry).labels(*values).set(draw(VALUES))
            expected[name] = (kind, labels, help_)
        elif kind == "histogram":
            Histogram(name, help_, keys, registry=registry, buckets=(0.5, 1)).labels(*values).observe(amount)
            expected[name] = (kind, labels, help_)
        elif kind == "summary":
            Summary(name, help_, keys, registry=registry).labels(*values).observe(amount)
            expected[name] = (kind, labels, help_)
        else:
            Info(name, help_, registry=registry).info(labels)
            expected[f"{name}_info"] = (kind, labels, help_)
    return registry, expected


def checked(found: tuple[Exposed, ...], registry: CollectorRegistry, expected: dict, text_info: str) -> None:
    assert {family.name for family in found} == set(expected)
    for family in found:
        kind, labels, _ = expected[family.name]
        assert family.type == (text_info if kind == "info" else kind)
        assert family.created == (kind in ("counter", "histogram", "summary"))
        assert family.samples
        for sample in family.samples:
            bare = {key: value for key, value in sample.labels.items() if key != "le"}
            assert bare == labels
            theirs = registry.get_sample_value(sample.name, dict(sample.labels))
            assert theirs == pytest.approx(sample.value, rel=1e-12)


@settings(deadline=None)
@given(registries())
def test_text_of_any_registry_is_read_back(made: tuple) -> None:
    registry, expected = made
    page = Page("page", as_text(registry), "text/plain; version=0.0.4; charset=utf-8")
    checked(parse_page(page), registry, expected, text_info="gauge")


@settings(deadline=None)
@given(registries())
def test_openmetrics_of_any_registry_is_read_back(made: tuple) -> None:
    registry, expected = made
    page = Page(
        "page", as_openmetrics(registry), "application/openmetrics-text; version=1.0.0; charset=utf-8"
    )
    checked(parse_page(page), registry, expected, text_info="info")


CONTENT = st.sampled_from(
    [
        "",
        "text/plain",
        "text/plain; version=1.0.0",
        "application/openmetrics-text",
        "application/vnd.google.protobuf",
    ]
)


@settings(deadline=None)
@given(st.binary(max_size=200), CONTENT, st.sampled_from(["", "gzip", "br"]))
@example(b"\x1f\x8b", "", "")
@example(b"\xef\xbb\xbf", "", "")
@example(b"{", "", "")
@example(b"# TYPE", "", "")
@example(b'a{"', "", "")
def test_garbage_raises_nothing_but_input_errors(body: bytes, kind: str, encoding: str) -> None:
    try:
        parse_page(Page("page", body, kind, encoding))
    except InputError as error:
        told = str(error)
    else:
        told = "page"
    assert told.startswith("page")


WORDS = [
    "# TYPE ",
    "# HELP ",
    "# EOF",
    " counter",
    " histogram",
    " stateset",
    " gaugehistogram",
    "le",
    "NaN",
    "1",
]
NAME_PARTS = ["a", "_total", "_bucket", "_created"]
SIGNS = ["{", "}", '"', "=", ",", "\\", " ", "\n", "#", "\t", "\x00", "é"]
FRAGMENTS = st.lists(st.sampled_from([*WORDS, *NAME_PARTS, *SIGNS]), max_size=25)


@settings(deadline=None)
@given(FRAGMENTS.map("".join), st.sampled_from([None, True, False]))
def test_broken_pages_raise_nothing_but_input_errors(text: str, openmetrics: bool | None) -> None:
    try:
        families = parse(text, openmetrics=openmetrics, source="page")
    except InputError as error:
        families, line = (), error.origin.line if error.origin else 0
    else:
        line = 1
    assert 1 <= line <= text.count("\n") + 1
    assert len({family.name for family in families}) == len(families)
