"""The values of every recording rule and panel query, beside values computed from the meaning.

One scenario for the newest names, one for each older side of a rename, one with all names at once, and one
where nothing is exported. Series differ from one another and change all the time, so that another label,
matcher, window or quantile gives another number.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from monitorgen.build import Built, Plan
from monitorgen.build.plan import Part
from monitorgen.bundle import Dashboard, Panel, Query
from monitorgen.catalog import Family
from monitorgen.promql import selectors
from monitorgen.prove.alert_tests import STRANGER
from monitorgen.prove.course import SAMPLE_INTERVAL, Course
from monitorgen.prove.meaning import Samples, Vector, edge_clear, rate
from monitorgen.prove.solve import family_names
from monitorgen.prove.unittests import Ask, UnitTest, ask_value, substituted
from monitorgen.prove.world import (
    Labels,
    Recorder,
    Target,
    Where,
    label_sets,
    matches,
    sources_of,
    targets,
)

STEP = 300.0  # the rules are evaluated no more often than asked for: that is what promtool's time goes into
PHASE_SAMPLES = 7  # 91 s: every window of minutes sees several phases
TRICKLE = 2.0**-9  # rates, and sums of a few gauges, stay well under a half
# Grafana gives $__rate_interval at least four scrape intervals; here it is one fixed minute.
RATE_INTERVAL = 60.0


def value_tests(built: Built) -> list[UnitTest]:
    """Unit tests of all recorded values and panel queries."""
    tests = [_scenario(built, "values", built.plans, 0)]
    renamed = {name: plan for name, plan in built.plans.items() if _sides(plan, built.plans) > 1}
    if renamed:
        for side in range(1, max(_sides(plan, built.plans) for plan in renamed.values())):
            tests.append(_scenario(built, f"values, older names ({side})", renamed, side))
        tests.append(_scenario(built, "values, old and new names at once", renamed, None))
    tests.append(_nothing(built))
    return tests


def _sides(plan: Plan, plans: Mapping[str, Plan]) -> int:
    return max((len(source.families) for source in sources_of(plan, plans)), default=1)


def _scenario(built: Built, name: str, plans: Mapping[str, Plan], side: int | None) -> UnitTest:
    """Values while of renamed families only the names of one side exist, or all of them (None)."""
    with_uses = {
        n: p for n, p in built.plans.items() if n in plans or any(n in q.uses for q in plans.values())
    }
    windows = [*_windows(with_uses), RATE_INTERVAL]
    moments = _moments(windows)
    recorder = _recorded(built, with_uses, side, int(moments[-1] / SAMPLE_INTERVAL) + 2)
    samples = Samples(recorder.courses, built.plans)
    test = UnitTest(name, STEP, recorder.courses)
    for time in moments:
        test.asks += _record_asks(plans, samples, time, f"its value ({name})")
    _ask_panels(test, built, plans, samples, moments[-1], name)
    return test


def _recorded(built: Built, plans: Mapping[str, Plan], side: int | None, count: int) -> Recorder:
    """So many samples of everything that the plans read, on all targets."""
    recorder = Recorder()
    families = _families(built, plans, side)
    also = _selected(plans)
    for engine in sorted({engine for engine, _ in families.values()}):
        both = targets(built, engine)
        subject = replace(both[0], engines=("0", "1"))
        own = [family for e, family in families.values() if e == engine]
        for family in own:
            for target in (subject, both[1]):
                _write(recorder, family, target, also.get(family.name, []), count)
        _write_quiet(recorder, both[1], own, plans, count)
    _add_ups(recorder, built, count)
    return recorder


def _record_asks(plans: Mapping[str, Plan], samples: Samples, time: float, claim: str) -> list[Ask]:
    return [
        ask_value(f"record/{part.record}", claim, time, part.record, samples.value(plan, part, time))
        for plan in plans.values()
        if plan.recorded
        for part in plan.parts
    ]


def _families(built: Built, plans: Mapping[str, Plan], side: int | None) -> dict[str, tuple[str, Family]]:
    """The families that exist in a scenario: name -> (engine of the job that exports it, family)."""
    found: dict[str, tuple[str, Family]] = {}
    hidden: set[str] = set()
    for plan in plans.values():
        for source in plan.sources:
            last = len(source.families) - 1
            for index, family in enumerate(source.families):
                if side is None or index == min(side, last):
                    found[family.name] = (plan.engine, family)
                else:
                    hidden.add(family.name)
        for family in family_names(plan, built.plans, built.catalogs):
            if family.name not in hidden and family.name != "up":
                found.setdefault(family.name, (plan.engine, family))
    return {name: hit for name, hit in sorted(found.items()) if name not in hidden}


def _selected(plans: Mapping[str, Plan]) -> dict[str, list[Where]]:
    also: dict[str, list[Where]] = {}
    for plan in plans.values():
        for source in plan.sources:
            for family in source.families:
                if source.where and source.where not in also.setdefault(family.name, []):
                    also[family.name].append(source.where)
    return also


def _windows(plans: Mapping[str, Plan]) -> list[float]:
    found = {plan.window for plan in plans.values()}
    for plan in plans.values():
        if plan.kind == "expr":
            found |= {sel.range for sel in selectors(plan.expr) if sel.range}
    return sorted(found)


def _moments(windows: Iterable[float]) -> list[float]:
    """The first two moments on the evaluation grid with full windows where Prometheus 2 and 3 agree."""
    windows = list(windows)
    first = int(max(windows) / STEP) + 1
    grid = [number * STEP for number in range(first, first + 2 * int(SAMPLE_INTERVAL))]
    clear = [t for t in grid if edge_clear(t, windows) and t % SAMPLE_INTERVAL > 0.5]
    return (clear if len(clear) > 1 else grid)[:2]


def _write_quiet(
    recorder: Recorder, like: Target, families: Iterable[Family], plans: Mapping[str, Plan], count: int
) -> None:
    """Targets with next to no traffic, and with none: totals are small or 0, what is counted is missing."""
    read: set[str] = set()
    unseen: dict[str, list[Where]] = {}
    for plan in plans.values():
        mean = plan.kind == "histogram" and any(part.quantile is None for part in plan.parts)
        if plan.of is not None or plan.uses or mean:
            read |= {family.name for source in sources_of(plan, plans) for family in source.families}
        totals = {family.name for source in plan.to for family in source.families}
        for family in plan.of.families if plan.of is not None else ():
            # A total that holds what is counted, all of it, would be missing with it.
            if plan.of is not None and (plan.of.where or family.name not in totals):
                unseen.setdefault(family.name, []).append(plan.of.where)
    for instance, model, traffic in (("10.0.0.4:8000", "mistral", TRICKLE), ("10.0.0.5:8000", "phi", 0.0)):
        target = Target(tuple({**dict(like.labels), "instance": instance}.items()), model)
        for family in families:
            if family.name in read:
                _write(recorder, family, target, [], count, unseen.get(family.name, ()), traffic)


def _write(
    recorder: Recorder,
    family: Family,
    target: Target,
    also: list[Where],
    count: int,
    unseen: Iterable[Where] = (),
    traffic: float = 1.0,
) -> None:
    """Samples of a family on a target: growth or value changes every PHASE_SAMPLES; one counter resets.

    Series that meet one of `unseen` do not exist. `traffic` scales all that happens.
    """
    rng = random.Random(f"{family.name}|{target.model}")
    recorder.length = 0
    sets = [
        labels
        for labels in label_sets(family, target, also)
        if not any(matches(labels, where) for where in unseen)
    ]
    for number, labels in enumerate(sets):
        rates = [_drawn(rng, 1, 40) / 8 * traffic for _ in range(count // PHASE_SAMPLES + 1)]
        if family.type == "histogram":
            # Only one target has observations over the last edge, where all high quantiles read that edge.
            over = len(target.engines) == 1 and traffic == 1.0
            _write_histogram(recorder, family, labels, rng, count, traffic, over)
            continue
        course = recorder.course(family.name, labels)
        for phase, speed in enumerate(rates):
            samples = min(PHASE_SAMPLES, count - phase * PHASE_SAMPLES)
            if family.type == "counter":
                if number == 0 and phase == len(rates) - 3:  # within the last minutes, which most windows see
                    course.restart()
                course.grow(speed * SAMPLE_INTERVAL, samples)
            else:
                value = _drawn(rng, 0, 1) if family.unit in ("bool", "ratio") else _drawn(rng, 0, 99)
                scale = _drawn(rng, 1, 64) / 64 if family.unit == "ratio" else 1.0
                course.hold(value * scale * traffic, samples)


def _write_histogram(
    recorder: Recorder,
    family: Family,
    labels: dict[str, str],
    rng: random.Random,
    count: int,
    traffic: float,
    over: bool,
) -> None:
    """Observations in all buckets; in the last one, beyond all edges, only if `over`."""
    if not traffic:
        # Quantiles of nothing are NaN, which no unit test can expect: there are no buckets yet.
        for suffix in ("_count", "_sum"):
            recorder.course(family.name + suffix, labels).hold(0.0, count)
        return
    courses = recorder.histogram(family, labels)
    upper = [*family.edges, family.edges[-1]]
    for phase in range(count // PHASE_SAMPLES + 1):
        samples = min(PHASE_SAMPLES, count - phase * PHASE_SAMPLES)
        inside = [_drawn(rng, 0, 6) * traffic for _ in upper]
        inside[-1] *= over
        total = sum((n * edge for n, edge in zip(inside, upper, strict=True)), 0.0)
        courses.grow(inside, None, total, samples)


def _drawn(rng: random.Random, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included; the same in all versions of Python."""
    span = high - low + 1
    while (number := rng.getrandbits(span.bit_length())) >= span:
        pass
    return low + number


def _add_ups(recorder: Recorder, built: Built, count: int) -> None:
    """`up` of all targets, one of them down, and of one target that answers but exports nothing."""
    for job in built.bundle.scrape_jobs:
        both = targets(built, job.engine)
        ghost = {**dict(both[0].labels), "instance": "10.0.0.3:8000"}
        for labels, value in ((dict(both[0].labels), 1.0), (dict(both[1].labels), 0.0), (ghost, 1.0)):
            recorder.courses.append(Course("up", {**labels, "job": job.job}, [value] * count))


def _nothing(built: Built) -> UnitTest:
    """Nothing is exported but by somebody else: no rule invents a series, and `absent` sees it."""
    stranger = Course("up", {"job": STRANGER, "instance": "10.0.1.1:9100"}, [1.0] * 10)
    test = UnitTest("nothing is exported", STEP, [stranger])
    samples = Samples([stranger], built.plans)
    test.asks += _record_asks(built.plans, samples, STEP, "nothing from nothing")
    _ask_panels(test, built, built.plans, samples, STEP, test.name)
    return test


# Panels


def _ask_panels(
    test: UnitTest, built: Built, plans: Mapping[str, Plan], samples: Samples, time: float, scenario: str
) -> None:
    for dashboard in built.bundle.dashboards:
        for panel in dashboard.panels:
            for query, plan, part in panel_queries(panel, built.plans):
                if plan.name in plans:
                    test.asks += _panel_asks(
                        built, dashboard, panel, query, plan, part, samples, time, scenario
                    )


def panel_queries(panel: Panel, plans: Mapping[str, Plan]) -> list[tuple[Query, Plan, Part | None]]:
    """The queries of a panel with the signal and part that each one shows; None for a heatmap's buckets."""
    found: list[tuple[Query, Plan, Part | None]] = []
    for query in panel.queries:
        if panel.kind == "heatmap":
            found.append((query, plans[panel.signal], None))
            continue
        shown = query.shows.split(".")
        plan = plans[shown[0]]
        found.append((query, plan, plan.part(shown[1])))
    return found


def _panel_asks(
    built: Built,
    dashboard: Dashboard,
    panel: Panel,
    query: Query,
    plan: Plan,
    part: Part | None,
    samples: Samples,
    time: float,
    scenario: str,
) -> list[Ask]:
    """The query with every variable on All, and with each one chosen by which targets differ."""
    asks = []
    for variables in _choices(built, plan, query):
        vector = _panel_vector(query, plan, part, samples, time, variables)
        words = " and ".join(f"one {label}" for label, value in variables.items() if value != ".+") or "all"
        ask = ask_value(dashboard.panel_item(panel), f"{words} ({scenario})", time, query.expr, vector)
        asks.append(replace(ask, query=query.ref_id, variables=tuple(sorted(variables.items()))))
    return asks


def _choices(built: Built, plan: Plan, query: Query) -> Iterator[dict[str, str]]:
    """What may be chosen for the variables: all, then one target, by each label that tells targets apart."""
    everything = dict.fromkeys(built.bundle.keep, ".+")
    yield everything
    subject, other = (
        {**dict(target.labels), "model_name": target.model} for target in targets(built, plan.engine)
    )
    shared = {
        label: subject[label] for label in everything if label in subject and subject[label] == other[label]
    }
    for label in everything:
        if f"${label}" in query.expr and subject.get(label) != other.get(label):
            yield {**everything, **shared, label: subject[label]}


def _panel_vector(
    query: Query, plan: Plan, part: Part | None, samples: Samples, time: float, variables: Mapping[str, str]
) -> Vector:
    wanted: Where = tuple((label, (value,)) for label, value in variables.items() if value != ".+")
    if part is None:
        return _heatmap_vector(plan, samples, time, wanted)
    if plan.recorded:
        vector = samples.value(plan, part, time)
        shown = [pair for pair in wanted if pair[0] in (*plan.labels, "job", "instance")]
        return {key: value for key, value in vector.items() if matches(dict(key), tuple(shown))}
    # A free expression has no meaning beside itself: the reference evaluator reads it as Grafana sends it.
    return samples.evaluate(substituted(query.expr, variables), plan.uses, time)


def _heatmap_vector(plan: Plan, samples: Samples, time: float, wanted: Where) -> Vector:
    """Observations by bucket edge in the last minute; the newest name that has an edge speaks for it."""
    assert plan.source is not None
    result: dict[Labels, float] = {}
    for family in plan.source.families:
        sums: dict[Labels, float] = {}
        for course in samples.by_name.get(f"{family.name}_bucket", ()):
            if matches(course.labels, (*wanted, *plan.source.where)):
                value = rate(course, time, RATE_INTERVAL)
                if value is not None:
                    key: Labels = (("le", course.labels["le"]),)
                    sums[key] = sums.get(key, 0.0) + value * RATE_INTERVAL
        for key, value in sums.items():
            result.setdefault(key, value)
    return result
