"""Label flow: which labels come out, and what is certain to go wrong on the way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitorgen.promql import Labels, Selector, label_flow


def labels(always: str = "", maybe: str = "", *, open: bool = False) -> Labels:  # noqa: A002
    return Labels(frozenset(always.split()), frozenset(maybe.split()), open)


KNOWN = {
    "ttft_bucket": labels("job instance model le", "engine"),
    "running": labels("job instance model", "engine"),
    "done": labels("job instance model reason"),
    "info": labels("job instance version"),
    "up": labels("job instance"),
    "unknown": labels("job", open=True),
}


def of(selector: Selector) -> Labels:
    return KNOWN.get(selector.name, labels(open=True))


# Expression, labels that are always there, labels that may be (with "..." where others may be too).
YIELDS = [
    ("up", "__name__ job instance", ""),
    ("rate(up[5m])", "job instance", ""),
    ("last_over_time(up[5m])", "__name__ job instance", ""),
    ("-up", "job instance", ""),
    ('up{a="b"}', "__name__ job instance a", ""),
    ('up{a!=""}', "__name__ job instance a", ""),
    ('up{a=~".+"}', "__name__ job instance a", ""),
    ('up{a=~".*"}', "__name__ job instance", ""),
    ('up{a!="b"}', "__name__ job instance", ""),
    ('up{job=""}', "__name__ instance", ""),
    ("unknown", "__name__ job", "..."),
    ("sum(up)", "", ""),
    ("sum by (job) (up)", "job", ""),
    ("sum by (job, engine) (running)", "job", "engine"),
    ("sum by (job, x) (unknown)", "job", "x"),
    ("sum without (job) (up)", "instance", ""),
    ("sum without (le, job) (unknown)", "", "..."),
    ("topk(5, up)", "__name__ job instance", ""),
    ('count_values("v", up)', "v", ""),
    ('count_values by (job) ("v", up)', "v job", ""),
    ("histogram_quantile(0.9, rate(ttft_bucket[5m]))", "job instance model", "engine"),
    ("histogram_quantile(0.9, sum by (le, job) (rate(ttft_bucket[5m])))", "job", ""),
    ("up > 0", "__name__ job instance", ""),
    ("up > bool 0", "job instance", ""),
    ("1 - up", "job instance", ""),
    ("5 < up", "__name__ job instance", ""),
    ("1 + 2", "", ""),
    ("time() - up", "job instance", ""),
    ("vector(1)", "", ""),
    ("scalar(up) * 2", "", ""),
    ("running / on(job) sum by (job) (done)", "job", ""),
    ("running > on(job) sum by (job) (done)", "job", ""),
    ("running / ignoring(engine) running", "job instance model", ""),
    ("running * on(job, instance) group_left(version) info", "job instance model version", "engine"),
    ("info * on(job, instance) group_right(version) running", "job instance model version", "engine"),
    ("up * on(job) group_left(x) unknown", "job instance", "x"),
    ("running and on(job) up", "__name__ job instance model", "engine"),
    ("running unless on(job) up", "__name__ job instance model", "engine"),
    ("up or running", "__name__ job instance", "model engine"),
    ("sum by (job) (up) or vector(0)", "", "job"),
    ("up or unknown", "__name__ job", "instance ..."),
    ("absent(up)", "", ""),
    ('absent(up{job="a",instance=~"b"})', "job", ""),
    ('absent((up{job="a"}))', "job", ""),
    ('absent(up{job="a",job=~"a.*"})', "", ""),
    ('absent(up{job=~"a.*",job="a"})', "job", ""),
    ('absent(sum(up{job="a"}))', "", ""),
    ('absent_over_time(up{job="a"}[5m])', "job", ""),
    ('label_replace(up, "new", "x", "job", ".*")', "__name__ job instance new", ""),
    ('label_replace(up, "new", "$1", "job", "(.*)")', "__name__ job instance new", ""),
    ('label_replace(up, "new", "$1", "nope", "(.*)")', "__name__ job instance", ""),
    ('label_replace(up, "new", "$1", "job", "a(.*)")', "__name__ job instance", "new"),
    ('label_replace(up, "job", "", "job", ".*")', "__name__ instance", ""),
    ('label_replace(up, "job", "x-$1", "job", "a(.*)")', "__name__ job instance", ""),
    ('label_join(up, "new", "-", "job", "nope")', "__name__ job instance new", ""),
    ('label_join(up, "job", "", "nope")', "__name__ instance", ""),
    ("max_over_time(sum by (job) (up)[5m:1m])", "job", ""),
    ("sort_desc(up)", "__name__ job instance", ""),
    ("day_of_week()", "", ""),
]


@pytest.mark.parametrize(("expr", "always", "maybe"), YIELDS)
def test_yields(expr: str, always: str, maybe: str) -> None:
    flow = label_flow(expr, of)
    assert flow.problems == ()
    assert flow.labels.always == frozenset(always.split())
    assert flow.labels.maybe == frozenset(maybe.split()) - {"..."}
    assert flow.labels.open == ("..." in maybe)


# The expression with the place of its problem between « and », and the kind.
WRONG = [
    ("sum by («nope», job) (up)", "missing-label"),
    ("sum by («le») (sum by (job) (ttft_bucket))", "missing-label"),
    ("sum(up) by («nope»)", "missing-label"),
    ("«histogram_quantile»(0.9, sum by (job) (rate(ttft_bucket[5m])))", "missing-label"),
    ("running «/» up", "join-mismatch"),
    ("up «/» running", "join-mismatch"),
    ("up «and» running", "join-mismatch"),
    ("up «unless» running", "join-mismatch"),
    ("sum by (job) (up) «>» sum(up)", "join-mismatch"),
    ("running «/ ignoring(job)» up", "join-mismatch"),
    ("up / on(«nope») up", "join-mismatch"),
    ("running / on(«model») up", "join-mismatch"),
    ("running * on(job, instance) group_left(«nope») info", "group-missing"),
    ("info * on(job, instance) group_right(«nope») running", "group-missing"),
    ('up{job="a"} «and» up{job="b"}', "impossible-branch"),
    ('up{job="a"} * on(«job») group_left() info{job="b"}', "impossible-branch"),
    ('up{job=~"a|b"} «+» up{job=~"c|d"}', "impossible-branch"),
    ('up{job="a"} «unless» up{job="b"}', "impossible-branch"),
    ('«up{job="a",job="b"}»', "impossible-branch"),
    ('rate(«up{job="a",job!="a"}[5m]»)', "impossible-branch"),
    ('sum by (job) (up{job="a"}) «/» sum by (job) (up{job="b"})', "impossible-branch"),
    ("sum by («job», job) (up)", "duplicate-labels"),
    ("up / on(«job», job) up", "duplicate-labels"),
]


@pytest.mark.parametrize(("marked", "kind"), WRONG)
def test_says_what_is_certainly_wrong_and_where(marked: str, kind: str) -> None:
    start, end = marked.index("«"), marked.index("»") - 1
    flow = label_flow(marked.replace("«", "").replace("»", ""), of)
    assert [(p.kind, p.start, p.end) for p in flow.problems] == [(kind, start, end)]


SOUND = [
    "running / running",
    "running > unknown",
    "unknown / on(x) unknown",
    'up{job="a"} and up{job=~"a|b"}',
    'up{job="a"} and up{job=~"a.*"}',
    'up{job="a"} or up{job="b"}',
    "up or running",
    "running / ignoring(model, engine) up",
    "running / on(job, instance) group_left up",
    "sum by (job) (up) / on(job) sum by (job, x) (unknown)",
    'up{job="a"} and ignoring(job) up{job="b"}',
    'sum(up{job="a"}) / sum(up{job="b"})',
    "up and on() vector(1)",
    "sum by (engine) (running)",
    "sum without (nope) (up)",
]


@pytest.mark.parametrize("expr", SOUND)
def test_is_silent_where_nothing_is_certain(expr: str) -> None:
    assert label_flow(expr, of).problems == ()


def test_values_that_matchers_pin_down_are_told() -> None:
    flow = label_flow('sum by (job, reason) (done{reason=~"stop|length",job="a",model="m"})', of)
    assert flow.values == {"job": {"a"}, "reason": {"stop", "length"}}


NAMES = st.frozensets(st.sampled_from("abcd"))
LABELS = st.builds(
    lambda a, m, o, n: Labels(a, m - a, o, n - a - m if o else frozenset()),
    NAMES,
    NAMES,
    st.booleans(),
    NAMES,
)


@given(LABELS, LABELS, st.sampled_from("abcd"))
def test_a_union_can_have_what_either_can_and_must_have_what_both_must(
    x: Labels, y: Labels, label: str
) -> None:
    both = x.union(y)
    assert both.possible(label) == (x.possible(label) or y.possible(label))
    assert (label in both.always) == (label in x.always and label in y.always)


@given(LABELS, NAMES, st.sampled_from("abcd"))
def test_only_and_drop_are_complements(x: Labels, names: frozenset[str], label: str) -> None:
    assert x.only(names).possible(label) == (x.possible(label) and label in names)
    assert x.drop(names).possible(label) == (x.possible(label) and label not in names)
