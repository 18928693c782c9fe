"""Asking a server that runs already: Prometheus, or what has its API: Mimir, Thanos, VictoriaMetrics.

Nothing is loaded or changed there. Recorded series and panels are asked for their values; alerts and rules
are compared with what the server says it has loaded, where it says so. What it cannot answer is named.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from monitorgen import promql
from monitorgen.prove.asking import Kinds, LiveResult, answer
from monitorgen.prove.exported import Exported
from monitorgen.prove.ledger import KINDS, Kind, Ledger, Proof
from monitorgen.prove.prometheus_api import PrometheusClient, PrometheusError, RuleState
from monitorgen.prove.questions import Question, Subject

VICTORIA = "2.24.0"  # the version that VictoriaMetrics says it is, for the sake of Grafana
SHORT = 100  # characters of a foreign expression that are shown


class _AllRunning(Kinds):
    """Everything comes from the server that was running already."""

    def of(self, labels: Mapping[str, str]) -> Kind:
        return "prometheus"


EVERYTHING = _AllRunning({}, {})


@dataclass(frozen=True, slots=True)
class Server:
    """What answers at a URL: the product and version that it says it is, and the rules that it has loaded.

    `lists_rules` is False where it lists none, which does not mean that nobody evaluates any.
    """

    url: str
    product: str
    version: str
    rules: tuple[RuleState, ...] = ()
    lists_rules: bool = False

    def __str__(self) -> str:
        return f"{self.product} {self.version}".strip() + f" at {self.url}"


@dataclass(frozen=True, slots=True)
class RunningReport:
    """The answers of a running server: values of rules and panels, what is loaded of alerts, what is scraped.

    `notes` say what it cannot answer, and what it remarked on its own answers.
    """

    server: Server
    results: tuple[LiveResult, ...]
    alerts: tuple[LiveResult, ...] = ()
    scrapes: tuple[LiveResult, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing failed; what is unproven has its reason."""
        return not any(one.status == "failed" for one in (*self.results, *self.alerts, *self.scrapes))


def look_at(client: PrometheusClient) -> Server:
    """See that a server answers questions, what it is, and which rules it lists. Raises `PrometheusError`."""
    client.query("vector(1)")
    product, version = _product(client)
    try:
        rules = client.rules()
    except PrometheusError:
        rules = ()
    return Server(client.url, product, version, rules, bool(rules))


def ask_running(
    client: PrometheusClient,
    subject: Subject,
    *,
    jobs: Sequence[str] = (),
    window: float = 3600.0,
    interval: float = 15.0,
) -> RunningReport:
    """Ask a running server every question, over the last `window` seconds, and change nothing there.

    `interval` is how often it scrapes. A recording rule that it has not loaded is asked as an expression;
    `jobs` are scrape jobs to look for. Raises `PrometheusError` if it does not answer at all.
    """
    server = look_at(client)
    since = time.time() - window
    names = client.names(_names(subject, interval), since)
    exported = Exported(names - set(subject.recorded), _declared(client), subject.recorded)
    asking = _Asking(client, server, names, exported, since, interval)
    return RunningReport(
        server=server,
        results=tuple(asking.about(question) for question in subject.questions),
        alerts=tuple(asking.about_alert(alert) for alert in _alerts(subject)),
        scrapes=tuple(asking.about_job(job) for job in jobs),
        notes=(*_cannot(server), *client.warnings),
    )


def add_running(ledger: Ledger, report: RunningReport) -> None:
    """Put what a running server answered into a ledger, as live proofs."""
    for result in (*report.results, *report.alerts, *report.scrapes):
        if result.status == "unproven":
            ledger.unproven(result.item, "live", result.reason)
            continue
        part = f" (query {result.ref})" if result.ref else ""
        claim = {"alert": "is loaded and evaluated", "scrape": "is scraped"}.get(
            result.item.partition("/")[0], f"has values{part}"
        )
        said = result.reason or f"{result.series} series, last {result.value:g}"
        shown = result.evidence[0].points if result.evidence else ()
        ledger.add(
            [
                Proof(
                    item=result.item,
                    level="live",
                    claim=claim,
                    holds=result.ok,
                    source=f"{report.server}, {KINDS['prometheus']}",
                    asked=result.query,
                    answer=said,
                    when=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(result.time or None)),
                    kind="prometheus",
                    series=result.series,
                    value=result.value if result.series else None,
                    points=shown,
                )
            ]
        )
    ledger.notes.extend(report.notes)


@dataclass(frozen=True, slots=True)
class _Alert:
    """An alert as its rule file has it; `holds` is its `for`, in seconds."""

    item: str
    name: str
    severity: str
    expr: str
    holds: float


@dataclass(frozen=True, slots=True)
class _Asking:
    """One round of questions."""

    client: PrometheusClient
    server: Server
    names: frozenset[str]
    exported: Exported
    since: float
    interval: float
    _cache: dict[str, str] = field(default_factory=dict)

    def about(self, question: Question) -> LiveResult:
        """What the server has for a recorded name or a panel's query."""
        result = self._ask(question)
        if question.rule:
            return self._about_record(question, result)
        if result.status != "failed":
            return result
        reads = _reads(question.query(self.interval))
        unrecorded = sorted(reads & set(self.exported.recorded) - self.names)
        if not unrecorded:
            return result
        return replace(result, status="unproven", reason=f"{self._not_recorded(unrecorded)}, which it reads")

    def _about_record(self, question: Question, result: LiveResult) -> LiveResult:
        name = question.item.partition("/")[2]
        loaded = [rule for rule in self.server.rules if rule.kind == "recording" and rule.name == name]
        if loaded:
            broken = next((rule for rule in loaded if rule.health == "err"), None)
            if broken:
                return replace(result, status="failed", reason=f"it is loaded, but fails: {broken.error}")
            if not any(same(rule.query, question.rule) for rule in loaded):
                other = _short(loaded[0].query)
                return replace(result, status="failed", reason=f"another expression is loaded: {other}")
        if loaded or name in self.names:
            return result
        asked = self._ask(replace(question, expr=question.rule, rule=""))
        if asked.ok:
            return replace(asked, reason=f"asked as an expression: {self._not_recorded([name])}")
        if asked.status == "failed" and asked.series == 0 and not _refused(asked):
            return replace(asked, status="unproven", reason=f"{self._not_recorded([name])}; {asked.reason}")
        return asked

    def about_alert(self, alert: _Alert) -> LiveResult:
        """Whether an alert is loaded as it should be, and can be evaluated."""
        blank = LiveResult(alert.item, "", "failed", alert.expr)
        loaded = [
            rule
            for rule in self.server.rules
            if rule.kind == "alerting"
            and rule.name == alert.name
            and rule.labels.get("severity", "") == alert.severity
        ]
        if not loaded:
            try:
                now = len(self.client.query(alert.expr))
            except PrometheusError as error:
                return replace(blank, reason=error.message)
            seen = f"its expression can be evaluated, with {now} series now"
            return replace(blank, status="unproven", reason=f"{self._not_loaded()}; {seen}")
        alike = [rule for rule in loaded if same(rule.query, alert.expr)]
        if not alike:
            other = _short(loaded[0].query)
            return replace(blank, reason=f"another expression is loaded: {other}")
        rule = next((one for one in alike if one.holds == alert.holds), None)
        if rule is None:
            there, here = (promql.format_duration(seconds) for seconds in (alike[0].holds, alert.holds))
            return replace(blank, reason=f"it is loaded with `for: {there}` instead of `for: {here}`")
        if rule.health == "err":
            return replace(blank, reason=f"it is loaded, but fails: {rule.error}")
        if rule.health != "ok":
            return replace(blank, status="unproven", reason="it is loaded, and was not evaluated yet")
        said = f"loaded with the same expression, health ok, {rule.state or 'inactive'}"
        return replace(blank, status="proven", reason=said, time=rule.last)

    def about_job(self, job: str) -> LiveResult:
        """Whether targets of a job are scraped."""
        expr = f'up{{job="{job}"}}'
        found = self._ask(Question(f"scrape/{job}", expr))
        if found.ok and not any(sample.value for sample in self.client.query(expr)):
            return replace(found, status="failed", reason=f"none of {found.series} targets is up")
        if found.ok:
            return found
        return replace(found, status="unproven", reason=f"the server scrapes no target of job {job}")

    def _ask(self, question: Question) -> LiveResult:
        return answer(self.client, question, self.exported, self.since, self.interval, EVERYTHING)

    def _not_recorded(self, names: Sequence[str]) -> str:
        what = ", ".join(names)
        if self.server.lists_rules:
            return f"the server has no rule that records {what}"
        return f"the server has no {what}, and does not tell which rules are evaluated"

    def _not_loaded(self) -> str:
        if self.server.lists_rules:
            return "the server has not loaded it"
        return "the server does not tell which alerts are loaded"


def same(one: str, other: str) -> bool:
    """Whether two expressions are the same but for how they are written."""
    return _canonical(one) == _canonical(other)


def _canonical(expr: str) -> str:
    try:
        return str(promql.tree(expr).root.expr.prettify())
    except promql.PromQLError:  # servers know functions that our parser does not
        return " ".join(expr.split())


def _short(expr: str) -> str:
    text = " ".join(expr.split())
    return text if len(text) <= SHORT else f"{text[: SHORT - 3]}..."


def _refused(result: LiveResult) -> bool:
    return "refuses" in result.reason


def _names(subject: Subject, interval: float) -> frozenset[str]:
    """Every name that a question, or a rule behind it, reads or records."""
    exprs: Iterable[str] = (
        *(question.query(interval) for question in subject.questions),
        *(expr for behind in subject.recorded.values() for expr in behind),
    )
    return frozenset(subject.recorded).union(*map(_reads, exprs))


def _reads(expr: str) -> frozenset[str]:
    """The names that an expression reads; none if it does not parse, which asking it will tell."""
    try:
        return frozenset(one.name for one in promql.selectors(expr) if one.name)
    except promql.PromQLError:
        return frozenset()


def _alerts(subject: Subject) -> list[_Alert]:
    """The alerts of the rule files, which were read before and are known to be rule files."""
    rules: list[Mapping[str, Any]] = [
        rule
        for text in subject.rule_files.values()
        for group in yaml.safe_load(text)["groups"]
        for rule in group.get("rules") or ()
        if "alert" in rule
    ]
    return [
        _Alert(
            item=f"alert/{rule['alert']}/{(rule.get('labels') or {}).get('severity', '')}",
            name=str(rule["alert"]),
            severity=str((rule.get("labels") or {}).get("severity", "")),
            expr=str(rule["expr"]),
            holds=promql.parse_duration(str(rule.get("for", "0s"))),
        )
        for rule in rules
    ]


def _product(client: PrometheusClient) -> tuple[str, str]:
    """What the server is, by what it says when it is asked for its version; unknown if it says nothing."""
    try:
        info = client.api("status/buildinfo")
        version = str(info.get("version", "")).partition("+")[0]
    except (PrometheusError, AttributeError):
        return "a server with Prometheus' API", ""
    if "application" in info:
        return str(info["application"]), version
    if version == VICTORIA and not info.get("revision"):
        return "VictoriaMetrics", ""
    return "Prometheus", version


def _declared(client: PrometheusClient) -> frozenset[str]:
    try:
        return client.families()
    except PrometheusError:  # not every server keeps metadata; it only makes reasons more telling
        return frozenset()


def _cannot(server: Server) -> tuple[str, ...]:
    if server.lists_rules:
        return ()
    where = (
        "VictoriaMetrics alone evaluates no rules: ask vmalert what it has loaded"
        if server.product == "VictoriaMetrics"
        else "no rule is loaded there, or another component evaluates them"
    )
    return (f"{server} lists no rules, so alerts cannot be looked up: {where}",)
