"""What every check may ask: the bundle, the catalogs in range, and what its expressions read and yield.

All answers are cached, so that seventy checks over the same bundle parse each expression once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, reduce

from promql_parser import Expr

from monitorgen import catalog, promql
from monitorgen.bundle import (
    AlertRule,
    Bundle,
    Dashboard,
    Origin,
    Panel,
    Query,
    RecordingRule,
    Rule,
    RuleGroup,
)
from monitorgen.catalog import Catalog, Family
from monitorgen.checks.finding import Finding, Severity
from monitorgen.checks.tree import Visit, placed
from monitorgen.promql import Flow, Labels, Selector, UnitFlow

#: What a scrape puts on every series.
SCRAPE_LABELS = ("job", "instance")
#: Series that carry the labels of other rules, so whatever labels they like.
_OPEN = frozenset({"ALERTS", "ALERTS_FOR_STATE"})
#: Target labels that are usual where the bundle does not scrape itself.
_USUAL_LABELS = frozenset(
    {"cluster", "namespace", "pod", "container", "service", "endpoint", "node", "environment", "env"}
    | {"region", "zone", "app", "release", "deployment", "replica", "prometheus", "tenant", "team"}
)
#: Where a scrape job does not say.
_SCRAPE_INTERVAL = 15.0


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that a finding can be about: an item, its expression if any, and where both were written."""

    item: str
    origin: Origin = field(default_factory=Origin)
    expr: str = ""

    def finding(
        self,
        message: str,
        hint: str = "",
        *,
        severity: Severity = "error",
        span: tuple[int, int] = (-1, -1),
    ) -> Finding:
        """A finding about this subject; the registry adds the check's id."""
        start, end = span
        return Finding("", severity, self.item, message, hint, self.origin, self.expr, start, end)


@dataclass(frozen=True, slots=True)
class RuleSubject(Subject):
    """A rule and the group that it stands in."""

    rule: Rule = field(kw_only=True)
    group: RuleGroup = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class AlertSubject(RuleSubject):
    """An alert."""

    rule: AlertRule = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class RecordSubject(RuleSubject):
    """A recording rule."""

    rule: RecordingRule = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class PanelSubject(Subject):
    """A panel and the dashboard that it stands on."""

    panel: Panel = field(kw_only=True)
    dashboard: Dashboard = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class QuerySubject(PanelSubject):
    """One query of a panel."""

    query: Query = field(kw_only=True)


def dashboard_subject(dashboard: Dashboard) -> Subject:
    """A dashboard as the subject of findings."""
    return Subject(f"dashboard/{dashboard.uid or dashboard.title}", dashboard.origin)


class Context:
    """A bundle seen through the catalogs that it must hold for.

    `catalogs` are by engine, oldest version first; left out, they are those of the bundle's own engines and
    ranges. The series that Prometheus makes itself are always known. `keep` are the labels that rules must
    keep; left out, they are job, instance and the bundle's own, and none for a bundle that names no engine (a
    foreign one).
    """

    def __init__(
        self,
        bundle: Bundle,
        catalogs: Mapping[str, tuple[Catalog, ...]] | None = None,
        *,
        target_labels: Iterable[str] = SCRAPE_LABELS,
        keep: Iterable[str] | None = None,
    ) -> None:
        self.bundle = bundle
        self.target_labels = frozenset(target_labels)
        ours = (*SCRAPE_LABELS, *bundle.keep) if bundle.engines or bundle.keep else ()
        self.keep = tuple(dict.fromkeys(ours if keep is None else keep))
        self._given = catalogs
        self._trees: dict[str, promql.Tree | promql.PromQLError] = {}
        self._visits: dict[str, tuple[Visit, ...]] = {}
        self._flows: dict[str, Flow] = {}
        self._units: dict[str, UnitFlow] = {}
        self._labels: dict[str, Labels] = {}
        self._families: dict[str, tuple[tuple[Catalog, Family], ...]] = {}
        self._recorded_units: dict[str, str] = {}

    # --- what there is

    @cached_property
    def catalogs(self) -> Mapping[str, tuple[Catalog, ...]]:
        """The catalogs by engine, oldest version first, Prometheus' own series included."""
        if self._given is not None:
            found = dict(self._given)
        else:
            found = {engine: catalog.in_range(engine, spec) for engine, spec in self.bundle.engines}
        if "prometheus" not in found and "prometheus" in catalog.engines():
            found["prometheus"] = catalog.in_range("prometheus", "")
        return found

    @cached_property
    def informed(self) -> bool:
        """Whether any engine's catalog is there: without one, an unknown metric says nothing."""
        return any(found for engine, found in self.catalogs.items() if engine != "prometheus")

    @cached_property
    def alerts(self) -> tuple[AlertSubject, ...]:
        """All alerts."""
        return tuple(
            AlertSubject(rule.id, rule.origin, rule.expr, rule=rule, group=group)
            for group in self.bundle.groups
            for rule in group.rules
            if isinstance(rule, AlertRule)
        )

    @cached_property
    def records(self) -> tuple[RecordSubject, ...]:
        """All recording rules."""
        return tuple(
            RecordSubject(rule.id, rule.origin, rule.expr, rule=rule, group=group)
            for group in self.bundle.groups
            for rule in group.rules
            if isinstance(rule, RecordingRule)
        )

    @cached_property
    def rules(self) -> tuple[RuleSubject, ...]:
        """All rules, recording rules first."""
        return (*self.records, *self.alerts)

    @cached_property
    def panels(self) -> tuple[PanelSubject, ...]:
        """All panels of all dashboards."""
        return tuple(
            PanelSubject(dashboard.panel_item(panel), panel.origin, panel=panel, dashboard=dashboard)
            for dashboard in self.bundle.dashboards
            for panel in dashboard.panels
        )

    @cached_property
    def queries(self) -> tuple[QuerySubject, ...]:
        """All queries of all panels."""
        return tuple(
            QuerySubject(
                panel.item,
                panel.origin,
                query.expr,
                panel=panel.panel,
                dashboard=panel.dashboard,
                query=query,
            )
            for panel in self.panels
            for query in panel.panel.queries
        )

    @cached_property
    def expressions(self) -> tuple[RuleSubject | QuerySubject, ...]:
        """Everything with an expression that parses."""
        everything: tuple[RuleSubject | QuerySubject, ...] = (*self.rules, *self.queries)
        return tuple(one for one in everything if self.tree(one.expr) is not None)

    @cached_property
    def recorded(self) -> Mapping[str, tuple[RecordingRule, ...]]:
        """The recording rules by the name that they record."""
        found: dict[str, list[RecordingRule]] = {}
        for rule in self.bundle.recording_rules:
            found.setdefault(rule.record, []).append(rule)
        return {name: tuple(rules) for name, rules in found.items()}

    def scrape_interval(self, name: str) -> float:
        """How often, in seconds, the series `name` gets a new sample: the slowest job of its engine."""
        engines = {found.engine for found, _ in self.families(name)}
        jobs = [job.interval for job in self.bundle.scrape_jobs if not engines or job.engine in engines]
        return max(jobs, default=_SCRAPE_INTERVAL)

    # --- expressions

    def parsed(self, expr: str) -> promql.Tree | promql.PromQLError:
        """The tree of an expression, Grafana's variables substituted, or the error."""
        if expr not in self._trees:
            try:
                self._trees[expr] = promql.tree(expr)
            except promql.PromQLError as error:
                self._trees[expr] = error
        return self._trees[expr]

    def tree(self, expr: str) -> Expr | None:
        """The tree of an expression, None where it does not parse (which is one check's affair)."""
        found = self.parsed(expr)
        return None if isinstance(found, promql.PromQLError) else found.root.expr

    def visits(self, expr: str) -> tuple[Visit, ...]:
        """Every node of an expression, outermost first; none where it does not parse."""
        if expr not in self._visits:
            found = self.parsed(expr)
            self._visits[expr] = tuple(placed(found.root)) if isinstance(found, promql.Tree) else ()
        return self._visits[expr]

    def selectors(self, expr: str) -> tuple[Selector, ...]:
        """What an expression reads; nothing where it does not parse."""
        return () if self.tree(expr) is None else promql.selectors(expr)

    def flow(self, expr: str) -> Flow:
        """The labels that an expression yields, and what is wrong on the way; it must parse."""
        if expr not in self._flows:
            self._flows[expr] = promql.label_flow(expr, self.labels_of)
        return self._flows[expr]

    def yields(self, expr: str) -> Labels:
        """The labels that an expression yields, without the metric's name; it must parse."""
        return self.flow(expr).labels.drop(["__name__"])

    def units(self, expr: str) -> UnitFlow:
        """The unit that an expression yields, and what clashes on the way; it must parse."""
        if expr not in self._units:
            self._units[expr] = promql.unit_flow(expr, self.unit_of)
        return self._units[expr]

    def unit(self, expr: str) -> str:
        """The unit that an expression yields, "" where nothing is known; it must parse."""
        return self.units(expr).unit

    # --- metrics

    def families(self, name: str) -> tuple[tuple[Catalog, Family], ...]:
        """The catalogs that have the series `name`, oldest first for each engine, and its family there."""
        if name not in self._families:
            self._families[name] = tuple(
                (one, family)
                for catalogs in self.catalogs.values()
                for one in catalogs
                if (family := one.family_of(name)) is not None
            )
        return self._families[name]

    def family(self, name: str) -> Family | None:
        """The family of the series `name` in the newest version that has it."""
        found = self.families(name)
        return found[-1][1] if found and name not in self.recorded else None

    def counts(self, name: str) -> bool | None:
        """Whether the series `name` only ever grows (a counter, a histogram's part); None if nobody knows."""
        family = self.family(name)
        if family is None or family.type == "unknown":
            return None
        if family.type in ("histogram", "summary"):
            return name != family.name
        return family.type == "counter"

    def labels_of(self, selector: Selector) -> Labels:
        """The labels that the series of a selector carry."""
        return self.labels(selector.name)

    def labels(self, name: str) -> Labels:
        """The labels that the series `name` carries."""
        if name not in self._labels:
            self._labels[name] = _OPEN_LABELS  # a rule that reads itself ends here
            self._labels[name] = self._labels_of(name)
        return self._labels[name]

    def _labels_of(self, name: str) -> Labels:
        if name in self.recorded:
            return reduce(Labels.union, map(self._labels_of_rule, self.recorded[name]))
        found = self.families(name)
        if not found or name in _OPEN:
            return _OPEN_LABELS
        always = frozenset.intersection(*(_series_labels(family, name) for _, family in found))
        some = frozenset().union(*(_series_labels(family, name) for _, family in found))
        target_always, target_some = self._target_labels({one.engine for one, _ in found})
        always |= target_always
        return Labels(always, (some | target_some) - always, False)

    def _labels_of_rule(self, rule: RecordingRule) -> Labels:
        if self.tree(rule.expr) is None:
            return _OPEN_LABELS
        return self.yields(rule.expr).with_always(*dict(rule.labels))

    def labels_added(self, engine: str) -> frozenset[str]:
        """The labels that series of an engine may get from their scrape."""
        return frozenset().union(*self._target_labels({engine}))

    def _target_labels(self, engines: set[str]) -> tuple[frozenset[str], frozenset[str]]:
        """The labels that scraping adds to the series of these engines: (always, maybe)."""
        if not self.bundle.scrape_jobs:  # somebody else scrapes, and labels the targets
            return self.target_labels, (_USUAL_LABELS | set(self.bundle.keep)) - self._exported_labels
        jobs = [job for job in self.bundle.scrape_jobs if job.engine in engines or "prometheus" in engines]
        own = [frozenset(dict(job.labels)) for job in jobs]
        always = self.target_labels | (frozenset.intersection(*own) if own else frozenset())
        return always, frozenset().union(*own) - always

    @cached_property
    def _exported_labels(self) -> frozenset[str]:
        """All labels that families of the catalogs have."""
        families = (f for found in self.catalogs.values() for one in found for f in one.families.values())
        return frozenset(label for family in families for label in family.labels)

    def unit_of(self, selector: Selector) -> str:
        """The unit of a selector's values, "" where nothing is known; buckets count events."""
        name = selector.name
        if name in self.recorded:
            return self._unit_of_record(name)
        family = self.family(name)
        if family is None:
            return ""
        quantile = name == f"{family.name}_bucket" and "histogram_quantile" in selector.functions
        if family.type in ("histogram", "summary") and name.endswith(("_bucket", "_count")) and not quantile:
            return "events"
        return family.unit

    def _unit_of_record(self, name: str) -> str:
        if name not in self._recorded_units:
            self._recorded_units[name] = ""  # a rule that reads itself ends here
            rule = self.recorded[name][0]
            yields = self.unit(rule.expr) if self.tree(rule.expr) is not None else ""
            self._recorded_units[name] = yields or rule.unit
        return self._recorded_units[name]

    def source_exprs(self, expr: str) -> Iterator[str]:
        """The expression, and those of the recorded metrics that it reads, all the way down, each once."""
        seen = {expr}
        todo = [expr]
        while todo:
            here = todo.pop()
            yield here
            for selector in self.selectors(here):
                below = {rule.expr for rule in self.recorded.get(selector.name, ())} - seen
                seen |= below
                todo += sorted(below)


_OPEN_LABELS = Labels(frozenset(), frozenset(), True)


def _series_labels(family: Family, name: str) -> frozenset[str]:
    """The engine's own labels of one series of a family."""
    labels = frozenset(family.labels)
    if family.type == "histogram" and name.endswith("_bucket"):
        return labels | {"le"}
    if family.type == "summary" and name == family.name:
        return labels | {"quantile"}
    return labels
