"""PromQL of a plan. Names come from catalogs, label values are quoted here and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from monitorgen.build.plan import TARGET_LABELS, Catalogs, Part, Plan, Resolver, Source, level
from monitorgen.bundle import Origin
from monitorgen.catalog.units import UNITS
from monitorgen.errors import InputError
from monitorgen.profile import Loaded
from monitorgen.promql import Labels, PromQLError, Selector, label_flow, parse, selectors
from monitorgen.promql.grafana import substitute


def quote(value: str) -> str:
    """A string as PromQL writes it, in double quotes."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def matcher(label: str, values: Iterable[str]) -> str:
    """`label="x"`, or `label=~"x|y"` for several values, which are taken literally."""
    values = tuple(values)
    if len(values) == 1:
        return f"{label}={quote(values[0])}"
    return f"{label}=~{quote('|'.join(re.escape(value) for value in values))}"


def selector(name: str, where: Iterable[tuple[str, tuple[str, ...]]] = ()) -> str:
    """A selector of the series `name` under label matchers."""
    inner = ", ".join(matcher(label, values) for label, values in where)
    return f"{name}{{{inner}}}" if inner else name


def by(operator: str, labels: Iterable[str], inner: str) -> str:
    """An aggregation that keeps `labels`."""
    return f"{operator} by ({', '.join(labels)}) ({inner})"


def _rates(source: Source, labels: Iterable[str], window: str, suffix: str = "") -> str:
    """The summed rate of a source: the newest name that exists speaks."""
    labels = tuple(labels)
    branches = [
        by("sum", labels, f"rate({selector(family.name + suffix, source.where)}[{window}])")
        for family in source.families
    ]
    return " or ".join(branches)


def part_expr(plan: Plan, part: Part) -> str:
    """The expression that records `part`."""
    window = plan.spec.window
    if plan.kind == "expr":
        return plan.expr
    if plan.kind == "histogram":
        assert plan.source is not None
        if part.quantile is not None:
            buckets = _rates(plan.source, ("le", *plan.labels), window, "_bucket")
            return f"histogram_quantile({part.quantile:g}, {buckets})"
        total, count = (_rates(plan.source, plan.labels, window, suffix) for suffix in ("_sum", "_count"))
        return f"({total}) / (({count}) > 0)" if " or " in total else f"{total} / ({count} > 0)"
    if plan.kind == "counter":
        assert plan.source is not None
        return _rates(plan.source, plan.labels, window)
    if plan.kind == "gauge":
        return _gauge(plan)
    return _ratio(plan)


def _gauge(plan: Plan) -> str:
    assert plan.source is not None
    over, window = plan.spec.over, plan.spec.window
    branches = []
    for family in plan.source.families:
        series = selector(family.name, plan.source.where)
        inner = f"{over}_over_time({series}[{window}])" if over else series
        branches.append(by(plan.reduce, plan.labels, inner))
    text = " or ".join(branches)
    if plan.divisor != 1:
        text = f"({text})" if len(branches) > 1 else text
        text += f" / {plan.divisor:.0f}" if plan.divisor > 1 else f" * {1 / plan.divisor:g}"
    return text


def _ratio(plan: Plan) -> str:
    """of / total: 0 where nothing was counted yet, nothing at all without traffic."""
    assert plan.of is not None
    window = plan.spec.window
    of = _rates(plan.of, plan.labels, window)
    totals = [_rates(source, plan.labels, window) for source in plan.to]
    totals = [f"({total})" if " or " in total and len(totals) > 1 else total for total in totals]
    total = " + ".join(totals)
    # One aggregation needs no parentheses of its own.
    inner = f"({total})" if len(totals) > 1 or " or " in total else total
    if plan.of in plan.to:  # without it there is no total either, so nothing could stand in for it
        return f"{_enclosed(of)} / ({inner} > 0)"
    return f"({of} or 0 * {inner}) / ({inner} > 0)"


def _enclosed(text: str) -> str:
    """An expression as one operand of a division."""
    return f"({text})" if " or " in text else text


class Reference:
    """A signal inside `[[ ]]`: it stands for its recorded series; `.p90` and the like name a part.

    `.family` is the name of the family that the signal reads, the newest if it has several.
    """

    def __init__(self, plan: Plan, texts: Mapping[str, str]) -> None:
        self._plan = plan
        self._texts = texts

    def __str__(self) -> str:
        part = self._plan.part("")
        if part is None:
            names = ", ".join(f"{self._plan.name}.{p.name}" for p in self._plan.parts)
            raise InputError(f"{self._plan.name} has several parts", hint=f"write one of {names}")
        return self._texts[part.record]

    def __getattr__(self, name: str) -> str:
        if name.startswith("_"):
            raise AttributeError(name)
        if name == "family" and self._plan.source is not None:
            return self._plan.source.families[0].name
        part = self._plan.part(name)
        if part is None:
            names = ", ".join(p.name for p in self._plan.parts)
            raise InputError(f"{self._plan.name} has no part {name!r}", hint=f"it has {names}")
        return self._texts[part.record]


def render_expressions(
    plans: dict[str, Plan], loaded: Loaded, catalogs: Catalogs, dormant: dict[str, str]
) -> dict[str, Plan]:
    """Render the `expr` signals in the order of their uses, and find the labels that they yield."""
    from monitorgen.build.jinja import PROVIDED, used_names

    done: dict[str, Plan] = {name: plan for name, plan in plans.items() if plan.kind != "expr"}
    pending = {name: plan for name, plan in plans.items() if plan.kind == "expr"}
    wants = {}
    for name, plan in pending.items():
        at = loaded.origin("signals", name, "expr")
        wants[name] = used_names(plan.spec.expr, at) - PROVIDED
        for other in sorted(wants[name]):
            if other not in plans and other not in dormant:
                raise InputError(f"unknown signal {other!r}", origin=at, hint=_near(other, plans))
    while pending:
        gone = [name for name in pending if wants[name] & dormant.keys()]
        for name in gone:
            dormant[name] = f"it uses {', '.join(sorted(wants[name] & dormant.keys()))}, which is dormant"
            del pending[name]
        ready = [name for name in pending if wants[name] <= done.keys()]
        if not ready and not gone:
            circle = ", ".join(sorted(pending))
            at = loaded.origin("signals", min(pending), "expr")
            raise InputError(f"the expressions of {circle} use each other in a circle", origin=at)
        for name in ready:
            done[name] = _rendered(pending.pop(name), done, wants[name], loaded, catalogs)
    return {name: done[name] for name in plans if name in done}


def _near(word: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, list(known), 1, 0.5)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"


def reference_text(plan: Plan, part: Part) -> str:
    """What stands for a part in other expressions: its recorded name, or the expression itself."""
    if plan.recorded:
        return part.record
    text = part_expr(plan, part)
    return f"({text})" if type(parse(text)).__name__ == "BinaryExpr" else text


def _rendered(
    plan: Plan, done: Mapping[str, Plan], uses: set[str], loaded: Loaded, catalogs: Catalogs
) -> Plan:
    from monitorgen.build.jinja import job_names, render

    at = loaded.origin("signals", plan.name, "expr")
    texts = {use: {p.record: reference_text(done[use], p) for p in done[use].parts} for use in uses}
    names: dict[str, object] = {use: Reference(done[use], texts[use]) for use in uses}
    jobs = job_names(loaded)
    keep = loaded.profile.labels.keep
    target = {*TARGET_LABELS, *loaded.profile.labels.target}
    names["keep"] = ", ".join(keep)
    names["keep_target"] = ", ".join(label for label in keep if label in target)
    names["job_matcher"] = lambda engine: matcher("job", jobs.get(engine) or _no_job(engine, at))
    names["absent_jobs"] = lambda engine: " or ".join(
        f"absent({selector('up', [('job', (job,))])})" for job in jobs.get(engine) or _no_job(engine, at)
    )
    # Lines are folded; spaces within a line stay, for they may stand in a label's value.
    text = " ".join(filter(None, (line.strip() for line in render(plan.spec.expr, names, at).split("\n"))))
    check_parses(text, at)
    if variables := substitute(text).variables:
        raise InputError(f"${variables[0]} in an expression is a variable of Grafana, not a value", origin=at)
    records = {part.record: other for other in done.values() for part in other.parts}
    labels = expression_labels(text, records, catalogs, loaded, at)
    kept = [label for label in (*loaded.profile.labels.keep, *sorted(labels)) if label in labels]
    labels_kept = tuple(dict.fromkeys(kept))
    name, suffix = plan.name, UNITS[plan.unit].suffix
    stem = f"{level(labels_kept)}:{plan.engine}_{name}"
    record = plan.spec.record or f"{stem}{f'_{suffix}' if suffix and not name.endswith(suffix) else ''}:value"
    return replace(
        plan,
        expr=text,
        labels=labels_kept,
        parts=(Part("value", record, plan.unit),),
        # Who only names a signal's `.family` does not read what it records.
        uses=tuple(sorted(use for use in uses if any(part in text for part in texts[use].values()))),
    )


def _no_job(engine: str, at: Origin) -> tuple[str, ...]:
    raise InputError(
        f"no scrape job runs the engine {engine!r}", origin=at, hint=f"add one with engine: {engine}"
    )


def check_parses(text: str, at: Origin) -> None:
    """Raise InputError, with the place underlined, unless `text` is PromQL."""
    try:
        parse(text)
    except PromQLError as error:
        raise InputError(f"not valid PromQL:\n{error.underlined()}", origin=at) from error


def expression_labels(
    text: str, records: Mapping[str, Plan], catalogs: Catalogs, loaded: Loaded, at: Origin
) -> frozenset[str]:
    """The labels that an expression may yield. Raises InputError for a metric that nothing knows."""
    resolver = Resolver(catalogs)
    known: dict[str, frozenset[str]] = {}
    target = frozenset((*TARGET_LABELS, *loaded.profile.labels.target))
    for sel in selectors(text):
        if sel.name in records:
            known[sel.name] = frozenset(records[sel.name].labels)
            continue
        hit = next(
            (f for cs in catalogs.values() for c in reversed(cs) if (f := c.family_of(sel.name)) is not None),
            None,
        )
        if hit is None:
            raise resolver.unknown(sel.name, at)
        le = {"le"} if sel.name.endswith("_bucket") else set()
        known[sel.name] = frozenset(hit.labels) | target | le

    def labels_of(sel: Selector) -> Labels:
        return Labels(always=known.get(sel.name, frozenset()), maybe=frozenset(), open=False)

    labels = label_flow(text, labels_of).labels
    return (labels.always | labels.maybe) - {"__name__"}
