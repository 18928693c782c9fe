"""The bundle: everything that a profile yields, as plain immutable data, before any file is written.

Readers of foreign files produce the same data, so checks, proofs and diffs know one shape only.
Durations are seconds. Labels and annotations are sorted tuples of pairs, so that equal items are equal
and everything hashes. Nothing here has behaviour beyond looking things up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Pairs: TypeAlias = tuple[tuple[str, str], ...]


def pairs(mapping: Mapping[str, str]) -> Pairs:
    """A mapping as sorted pairs."""
    return tuple(sorted(mapping.items()))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an item comes from: a file (as the user named it), a 1-based line and column, a key path."""

    file: str = ""
    line: int = 0
    column: int = 0
    path: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return place or self.path


@dataclass(frozen=True, slots=True)
class RecordingRule:
    """A recording rule. `unit` is the unit of the recorded value (see `monitorgen.catalog.units`)."""

    record: str
    expr: str
    labels: Pairs = ()
    signal: str = ""
    part: str = ""
    unit: str = ""
    help: str = ""
    since: str = ""  # the first engine version that exports what it reads
    needs: str = ""  # the flag or condition without which the engine does not export it
    origin: Origin = field(default_factory=Origin, compare=False)

    @property
    def id(self) -> str:
        """Stable name of the item in ledgers and findings."""
        return f"record/{self.record}"


@dataclass(frozen=True, slots=True)
class AlertRule:
    """An alerting rule. `hold` is the rule's `for`, in seconds; severity lives in `labels`.

    `silences` names less urgent alerts that say nothing more while this one fires with the same kept labels.
    """

    alert: str
    expr: str
    hold: float = 0.0
    labels: Pairs = ()
    annotations: Pairs = ()
    keep_firing_for: float = 0.0
    signals: tuple[str, ...] = ()
    since: str = ""
    needs: str = ""
    silences: tuple[str, ...] = ()
    origin: Origin = field(default_factory=Origin, compare=False)

    @property
    def id(self) -> str:
        """Stable name of the item in ledgers and findings."""
        severity = dict(self.labels).get("severity", "")
        return f"alert/{self.alert}" + (f"/{severity}" if severity else "")


Rule: TypeAlias = RecordingRule | AlertRule


@dataclass(frozen=True, slots=True)
class RuleGroup:
    """A rule group; `interval` is 0 where the server's default applies."""

    name: str
    rules: tuple[Rule, ...]
    interval: float = 0.0
    file: str = ""
    origin: Origin = field(default_factory=Origin, compare=False)


@dataclass(frozen=True, slots=True)
class Query:
    """One target of a panel. `expr` may use Grafana's variables; `legend` is a Grafana legend template."""

    expr: str
    legend: str = ""
    ref_id: str = "A"
    instant: bool = False
    format: Literal["time_series", "table", "heatmap"] = "time_series"
    datasource: str = "${datasource}"
    hidden: bool = False
    shows: str = field(default="", compare=False)  # signal.part; no file carries it


@dataclass(frozen=True, slots=True)
class ThresholdStep:
    """A coloured step of a panel: from `value` upwards (None: from minus infinity)."""

    value: float | None
    color: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A dashboard panel. `kind` and `unit` are Grafana's ids (`timeseries`, `s`); sizes are grid units."""

    title: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    description: str = ""
    unit: str = ""
    steps: tuple[ThresholdStep, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    width: int = 8
    height: int = 8
    stacked: bool = False
    datasource: str = "${datasource}"
    signal: str = ""
    panel_id: int = 0
    content: str = ""  # Markdown of a text panel
    decimals: int | None = None
    calc: str = "lastNotNull"  # how stat, gauge and bargauge reduce a series to one value
    texts: Pairs = ()  # value -> the text shown for it (states such as 0 -> "off")
    raw: Mapping[str, object] | None = field(default=None, compare=False, hash=False)
    origin: Origin = field(default_factory=Origin, compare=False)


@dataclass(frozen=True, slots=True)
class Row:
    """A titled row of panels."""

    title: str
    panels: tuple[Panel, ...]
    collapsed: bool = False


@dataclass(frozen=True, slots=True)
class Variable:
    """A dashboard template variable, as Grafana's model has it."""

    name: str
    kind: Literal["datasource", "query", "custom", "interval", "textbox", "constant", "adhoc"] = "query"
    label: str = ""
    query: str = ""
    multi: bool = False
    include_all: bool = False
    all_value: str = ""
    refresh: int = 2
    datasource: str = "${datasource}"
    regex: str = ""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A dashboard. `raw` is the JSON, where it was read from a file, for checks against Grafana's schema."""

    uid: str
    title: str
    rows: tuple[Row, ...]
    description: str = ""
    tags: tuple[str, ...] = ()
    variables: tuple[Variable, ...] = ()
    refresh: str = "30s"
    time_from: str = "now-1h"
    editable: bool = False
    file: str = ""
    raw: Mapping[str, object] | None = field(default=None, compare=False, hash=False)
    origin: Origin = field(default_factory=Origin, compare=False)

    @property
    def panels(self) -> Iterator[Panel]:
        """All panels, row by row."""
        for row in self.rows:
            yield from row.panels

    def panel_item(self, panel: Panel) -> str:
        """Stable name of a panel's item in ledgers and findings."""
        return f"panel/{self.uid}/{panel.title}"


@dataclass(frozen=True, slots=True)
class ScrapeJob:
    """A scrape job: targets are `host:port`, `labels` are put on every target."""

    job: str
    targets: tuple[str, ...]
    engine: str = ""
    interval: float = 15.0
    timeout: float = 10.0
    metrics_path: str = "/metrics"
    labels: Pairs = ()
    origin: Origin = field(default_factory=Origin, compare=False)

    @property
    def id(self) -> str:
        """Stable name of the item in ledgers and findings."""
        return f"scrape/{self.job}"


@dataclass(frozen=True, slots=True)
class Runbook:
    """The page of one alert, as Markdown."""

    alert: str
    markdown: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """Everything that a profile yields, or that was read from somebody's files."""

    name: str
    title: str = ""
    groups: tuple[RuleGroup, ...] = ()
    dashboards: tuple[Dashboard, ...] = ()
    scrape_jobs: tuple[ScrapeJob, ...] = ()
    runbooks: tuple[Runbook, ...] = ()
    engines: Pairs = ()  # engine name -> version range that the bundle must hold for
    keep: tuple[str, ...] = ()  # labels that every rule keeps
    dormant: Pairs = ()  # item or signal -> why it was not built

    @property
    def recording_rules(self) -> Iterator[RecordingRule]:
        """All recording rules, in evaluation order."""
        return (r for g in self.groups for r in g.rules if isinstance(r, RecordingRule))

    @property
    def alerts(self) -> Iterator[AlertRule]:
        """All alerts, in evaluation order."""
        return (r for g in self.groups for r in g.rules if isinstance(r, AlertRule))

    @property
    def items(self) -> Iterator[str]:
        """The ids of all items: rules, panels and scrape jobs."""
        for group in self.groups:
            yield from (rule.id for rule in group.rules)
        for dashboard in self.dashboards:
            yield from (dashboard.panel_item(panel) for panel in dashboard.panels)
        yield from (job.id for job in self.scrape_jobs)
