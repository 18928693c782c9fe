"""The typed profile: what a person writes. Every key is documented here; the JSON Schema is made from it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from monitorgen.profile.quantity import parse_quantity, parse_seconds

LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
# What a file, a rule group and a dashboard's uid can all be called; a uid has 40 characters at most.
PROFILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,28}")
SIGNAL_NAME = re.compile(r"[a-z][a-z0-9_]*")
ALERT_NAME = re.compile(r"[A-Z][A-Za-z0-9_]*")


def _named(pattern: re.Pattern[str], what: str) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(f"{value!r} is not a valid {what}; it must match {pattern.pattern}")
        return value

    return AfterValidator(check)


_LONGEST = 366 * 86400.0


def _duration(value: Any) -> Any:
    if value is None:
        return value
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a duration; write for example 30s, 5m or 1h30m")
    if not 0 < parse_seconds(value) <= _LONGEST:
        raise ValueError(f"the duration {value} must be longer than 0 and at most a year")
    return value


def _quantity(value: Any) -> Any:
    if value is None:
        return value
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a number with a unit; write for example 600ms, 90%, 5m or 50")
    parse_quantity(value)
    return value


def _no_variable(value: str) -> str:
    """A dashboard would put the variable's value into the query, and Grafana knows no way to escape it."""
    if re.search(r"\$\{?[A-Za-z_]|\[\[[A-Za-z_]", value):
        raise ValueError(f"{value!r} holds what Grafana takes for a variable; no query can ask for it")
    return value


def _text_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


LabelName = Annotated[str, _named(LABEL_NAME, "label name")]
MetricName = Annotated[str, _named(METRIC_NAME, "metric name")]
ProfileName = Annotated[str, _named(PROFILE_NAME, "profile name")]
SignalName = Annotated[str, _named(SIGNAL_NAME, "signal or threshold name")]
AlertName = Annotated[str, _named(ALERT_NAME, "alert name")]
Duration = Annotated[str, BeforeValidator(_duration)]
Threshold = Annotated[str | float, BeforeValidator(_quantity)]
Metrics = Annotated[list[MetricName], BeforeValidator(_text_list)]
Texts = Annotated[
    list[Annotated[str, AfterValidator(_no_variable)]], BeforeValidator(_text_list), Field(min_length=1)
]
Severity = Literal["critical", "warning", "info"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _no_repeats(values: list[Any]) -> list[Any]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{value} stands there twice")
    return values


def _not_reserved(name: str) -> str:
    if name.startswith("__") or name in _RESERVED:
        raise ValueError(f"the label {name} is set by Prometheus")
    return name


def _target_label(name: str) -> str:
    if name in ("job", "instance"):
        raise ValueError(f"the label {name} is set by the scrape; choose another name")
    return name


def _target(value: str) -> str:
    if not _TARGET.fullmatch(value):
        raise ValueError(f"{value!r} is not a target; write HOST:PORT, without http:// and path")
    return value


def _path(value: str) -> str:
    if not re.fullmatch(r"/[!-~]*", value):
        raise ValueError(f"{value!r} is not a path; write for example /metrics")
    return value


def _job_name(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise ValueError(f"{value!r} is not a job name; it must have visible characters")
    return value


_RESERVED = frozenset({"le", "quantile", "alertname", "alertstate"})
_TARGET = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
SeriesLabel = Annotated[LabelName, AfterValidator(_not_reserved)]
Target = Annotated[str, AfterValidator(_target)]
JobName = Annotated[str, AfterValidator(_job_name)]
Quantile = Annotated[float, Field(gt=0, lt=1)]


class Labels(_Model):
    """The labels that every rule keeps, as far as its families have them."""

    keep: Annotated[list[SeriesLabel], AfterValidator(_no_repeats)] = Field(
        default=["job", "instance", "model_name"],
        description="Labels that every rule keeps: job and instance of the target, others of the families.",
    )
    target: dict[Annotated[SeriesLabel, AfterValidator(_target_label)], str] = Field(
        default={}, description="Labels that the scrape config puts on every target, for example cluster."
    )


class Scrape(_Model):
    """A scrape job."""

    targets: list[Target] = Field(min_length=1, description="host:port of every target.")
    engine: str = Field(description="The engine that runs there; it must be one of `engines`.")
    path: Annotated[str, AfterValidator(_path)] = Field(default="/metrics", description="The metrics path.")


class Count(_Model):
    """Something counted: one or more counter families, newest first, and label matchers."""

    family: Metrics = Field(
        min_length=1, description="A counter, or its names over the versions, newest first."
    )
    where: dict[LabelName, Texts] = Field(
        default={}, description="Only series whose label has one of these values."
    )


class Ratio(_Model):
    """A share of two counts over the signal's window; 0 without events, nothing without traffic."""

    of: Count = Field(description="What is counted.")
    to: Annotated[list[Count], Field(min_length=1)] | Count = Field(
        description="Of which total; several counts are added up."
    )


class Signal(_Model):
    """One thing worth knowing. The family's type in the catalogs decides what is recorded."""

    help: str = Field(min_length=8, description="One sentence: what this tells.")
    title: str = Field(default="", description="The panel's title; the signal's name is the default.")
    family: Metrics = Field(
        default=[],
        description="A family, or its names over the versions, newest first. Empty: dormant until named.",
    )
    where: dict[LabelName, Texts] = Field(
        default={}, description="Only series whose label has one of these values."
    )
    by: Annotated[list[SeriesLabel], AfterValidator(_no_repeats)] = Field(
        default=[], description="Labels kept besides labels.keep, for example reason."
    )
    quantiles: Annotated[list[Quantile], AfterValidator(_no_repeats)] = Field(
        default=[], description="For a histogram: which quantiles to record."
    )
    mean: bool = Field(default=False, description="For a histogram: record the mean as well.")
    reduce: Literal["sum", "max", "min", "avg"] | None = Field(
        default=None, description="For a gauge: how the series of one instance and model become one."
    )
    over: Literal["max", "min", "avg", "last"] | None = Field(
        default=None,
        description="For a gauge: reduce over the window first, since one sample can miss what happened.",
    )
    ratio: Ratio | None = Field(default=None, description="A share of two counts.")
    expr: str = Field(
        default="",
        description="A PromQL expression; [[ signal ]] and [[ signal.part ]] stand for other signals, "
        "[[ keep ]] for labels.keep, [[ keep_target ]] for those of them that every target has.",
    )
    unit: str = Field(default="", description="The unit; derived from the family unless expr is given.")
    window: Duration = Field(
        default="5m", description="The range that rates, quantiles and `over` look back."
    )
    record: MetricName | None = Field(
        default=None, description="The recorded name, where it must be a given one; derived by default."
    )
    recorded: bool = Field(default=True, description="false: alerts and panels use the expression as it is.")
    since: str = Field(
        default="", description="The first engine version that exports it, if later than the range's."
    )
    needs: str = Field(
        default="", description="The flag or condition without which the engine does not export it."
    )
    engine: str = Field(default="", description="The engine, where the family is known to several.")

    @model_validator(mode="after")
    def _one_kind(self) -> Signal:
        kinds = [name for name in ("ratio", "expr") if getattr(self, name)]
        if self.family:
            kinds.insert(0, "family")
        if len(kinds) > 1:
            raise ValueError(
                f"a signal has one of family, ratio and expr; this one has {' and '.join(kinds)}"
            )
        return self


class Alert(_Model):
    """A condition on signals that pages or warns."""

    when: str = Field(
        min_length=3, description="For example: ttft.p90 > ttft_p90_warn. Several are joined by `and`."
    )
    hold: Duration = Field(
        alias="for", description="How long the condition must hold before the alert fires."
    )
    severity: Severity = Field(description="critical pages, warning is looked at today, info is a hint.")
    traffic: str = Field(
        default="", description="A condition of traffic without which the alert stays silent."
    )
    summary: str = Field(
        min_length=8, description="One line; it names the affected object with {{ $labels.x }}."
    )
    description: str = Field(
        default="", description="What is seen; made from the signal and threshold by default."
    )
    action: str = Field(min_length=8, description="What the person on call does first.")
    labels: dict[SeriesLabel, str] = Field(
        default={}, description="Labels put on the alert besides severity."
    )


class PanelSpec(_Model):
    """A panel, where the signal's name alone is not enough."""

    signal: str | None = Field(default=None, description="The signal to show, or a part of it (ttft.p90).")
    signals: list[str] = Field(
        default=[], description="Several signals, or parts of them (ttft.p90), in one panel."
    )
    title: str = Field(default="", description="The title; the signal's by default.")
    kind: Literal["timeseries", "stat", "gauge", "heatmap"] = Field(
        default="timeseries", description="How it looks."
    )
    width: int = Field(default=8, ge=3, le=24, description="Width in grid units, of 24.")
    height: int = Field(default=8, ge=3, le=20, description="Height in grid units.")
    stacked: bool = Field(default=False, description="Stack the series.")

    @model_validator(mode="after")
    def _some_signal(self) -> PanelSpec:
        if bool(self.signal) == bool(self.signals):
            raise ValueError("a panel shows either signal: NAME or signals: [NAME, ...]")
        return self


class RowSpec(_Model):
    """A row of panels; a panel is a signal's name or a mapping."""

    row: str = Field(min_length=1, description="The row's title.")
    panels: list[str | PanelSpec] = Field(min_length=1, description="The panels, left to right.")


def _url(value: str) -> str:
    if not re.fullmatch(r"https?://[!-~]*[!-.0-~]", value) or set(value) & set("\"'{}<>`"):
        raise ValueError(f"{value!r} is not an http or https address without a slash at its end")
    return value


class Runbooks(_Model):
    """Where runbook pages are published."""

    url: Annotated[str, AfterValidator(_url)] = Field(
        default="https://runbooks.example.org/llm-serving",
        description="The base of runbook links; an alert's page is URL/ALERT.",
    )


class Intervals(_Model):
    """How often Prometheus scrapes and evaluates."""

    scrape: Duration = Field(default="15s", description="The scrape interval.")
    evaluate: Duration = Field(default="30s", description="The rules' evaluation interval.")


class Profile(_Model):
    """What a person writes: signals, thresholds, alerts and the dashboard."""

    extends: str | None = Field(
        default=None, description="A profile that ships with monitorgen, or a file beside it."
    )
    name: ProfileName = Field(default="", description="A short name; the file's by default.")
    title: str = Field(default="", description="The dashboard's title.")
    engines: dict[str, str] = Field(
        default={}, description="Engines and the versions that everything must hold for."
    )
    catalogs: list[str] = Field(default=[], description="Catalog files of your own, beside the profile.")
    labels: Labels = Field(default=Labels())
    interval: Intervals = Field(default=Intervals())
    scrape: dict[JobName, Scrape] = Field(default={}, description="Scrape jobs by name.")
    runbooks: Runbooks = Field(default=Runbooks())
    thresholds: dict[SignalName, Threshold] = Field(default={}, description="Named numbers with units.")
    signals: dict[SignalName, Signal] = Field(default={}, description="What is worth knowing.")
    alerts: dict[AlertName, Alert] = Field(default={}, description="What pages or warns.")
    dashboard: list[RowSpec] = Field(default=[], description="The dashboard's rows.")
