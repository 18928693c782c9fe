"""Profile and catalogs to bundle: one direction, no files written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from monitorgen.build.dashboards import dashboard
from monitorgen.build.expressions import check_parses, render_expressions
from monitorgen.build.plan import Catalogs, Plan, resolve_signals
from monitorgen.build.rules import PlannedAlert, alert_group, planned_alerts, recording_groups, runbooks
from monitorgen.build.silences import with_silences
from monitorgen.bundle import Bundle, ScrapeJob, pairs
from monitorgen.catalog import Catalog, in_range, recorded
from monitorgen.errors import InputError
from monitorgen.profile import Loaded, parse_seconds
from monitorgen.profile.explain import did_you_mean
from monitorgen.profile.legacy import THRESHOLDS

__all__ = ["Built", "Plan", "PlannedAlert", "build", "load_catalogs"]


@dataclass(frozen=True)
class Built:
    """A bundle with the meaning that it was made from, which the proofs need."""

    bundle: Bundle
    plans: Mapping[str, Plan]
    alerts: tuple[PlannedAlert, ...]
    loaded: Loaded
    catalogs: Catalogs


def load_catalogs(loaded: Loaded, *, recorded_only: bool = False) -> Catalogs:
    """The catalogs of the profile's engines, oldest version first, and its own catalog files.

    `recorded_only` leaves out versions that were only read in the source, where others are there.
    """
    catalogs: dict[str, tuple[Catalog, ...]] = {}
    for engine, spec in loaded.profile.engines.items():
        try:
            found = (recorded(engine, spec) if recorded_only else ()) or in_range(engine, spec)
        except InputError as error:
            raise InputError(
                error.message, origin=loaded.origin("engines", engine), hint=error.hint
            ) from error
        if not found:
            raise InputError(
                f"no catalog of {engine} lies in {spec!r}",
                origin=loaded.origin("engines", engine),
                hint=f"see `monitorgen catalog list {engine}`",
            )
        catalogs[engine] = found
    for number, name in enumerate(loaded.profile.catalogs):
        from monitorgen.catalog.userfile import read

        at = loaded.origin("catalogs", number)
        # Beside the file that names it: a profile, one that it extends, or an overrides file.
        try:
            own = read((Path(at.file).parent if Path(at.file).is_file() else Path()) / name)
        except InputError as error:
            raise error if error.origin else InputError(error.message, origin=at, hint=error.hint) from error
        catalogs[own.engine] = (*catalogs.get(own.engine, ()), own)
    catalogs.setdefault("prometheus", in_range("prometheus", ""))
    return catalogs


def build(loaded: Loaded, catalogs: Catalogs | None = None) -> Built:
    """Build the bundle of a profile. Raises InputError for what cannot be built."""
    try:
        return _build(loaded, catalogs or load_catalogs(loaded, recorded_only=True))
    except InputError:
        # Recorded versions know nearly all families; the others take time to load and are asked second.
        return _build(loaded, catalogs or load_catalogs(loaded))


def _build(loaded: Loaded, catalogs: Catalogs) -> Built:
    profile, name = loaded.profile, loaded.name
    if not profile.signals and not profile.scrape:
        raise InputError(
            "the profile has neither signals nor scrape jobs: there is nothing to build",
            origin=loaded.origin(),
            hint="extends: optimized",
        )
    _check_keep(loaded, catalogs)
    for job, scrape in profile.scrape.items():
        if scrape.engine not in profile.engines:
            raise InputError(
                f"the scrape job {job} runs the engine {scrape.engine!r}, which engines: does not name",
                origin=loaded.origin("scrape", job, "engine"),
                hint=did_you_mean(scrape.engine, profile.engines),
            )
    plans, dormant = resolve_signals(loaded, catalogs)
    plans = render_expressions(plans, loaded, catalogs, dormant)
    alerts = with_silences(planned_alerts(plans, loaded, dormant), profile.labels.keep)
    groups = (*recording_groups(plans, loaded, name), *alert_group(alerts, loaded, name))
    for group in groups:
        for rule in group.rules:
            check_parses(rule.expr, rule.origin)
    _check_thresholds(alerts, dormant, loaded)
    bundle = Bundle(
        name=name,
        title=profile.title or name,
        groups=groups,
        dashboards=dashboard(plans, alerts, loaded, name, dormant),
        scrape_jobs=_scrape_jobs(loaded),
        runbooks=runbooks(alerts, loaded),
        engines=pairs(dict(profile.engines)),
        keep=tuple(profile.labels.keep),
    )
    return Built(replace(bundle, dormant=pairs(dormant)), plans, alerts, loaded, catalogs)


def _check_keep(loaded: Loaded, catalogs: Catalogs) -> None:
    """A label that nothing carries cannot be kept. Raises InputError."""
    labels = loaded.profile.labels
    if not loaded.written("labels", "keep"):
        return
    known = {"job", "instance", *labels.target}
    families = (f for cs in catalogs.values() for c in cs for f in c.families.values())
    known |= {label for family in families for label in family.labels}
    for number, label in enumerate(labels.keep):
        if label not in known:
            raise InputError(
                f"labels.keep: no family and no target has the label {label!r}",
                origin=loaded.origin("labels", "keep", number),
                hint=f"if your scrape config sets it, say so: labels: {{target: {{{label}: VALUE}}}}",
            )


def _check_thresholds(alerts: tuple[PlannedAlert, ...], dormant: Mapping[str, str], loaded: Loaded) -> None:
    """A threshold that a person wrote and no alert uses is a misspelt one. Raises InputError."""
    profile = loaded.profile
    used = {c.threshold for alert in alerts for c in (*alert.conditions, *alert.traffic)}
    for name, alert in profile.alerts.items():
        texts = [alert.summary, alert.description, alert.action]
        texts += [alert.when, alert.traffic] if name in dormant else []
        used |= {word for text in texts for word in re.findall(r"\w+", text)}
    for name in profile.thresholds:
        at = loaded.origin("thresholds", name)
        if name not in used and name not in THRESHOLDS and not loaded.shipped(at):
            raise InputError(
                f"no alert uses the threshold {name!r}",
                origin=at,
                hint=did_you_mean(name, sorted(used - {""})),
            )


def _scrape_jobs(loaded: Loaded) -> tuple[ScrapeJob, ...]:
    interval = parse_seconds(loaded.profile.interval.scrape)
    return tuple(
        ScrapeJob(
            job=name,
            targets=tuple(spec.targets),
            engine=spec.engine,
            interval=interval,
            timeout=min(10.0, interval),
            metrics_path=spec.path,
            labels=pairs(dict(loaded.profile.labels.target)),
            origin=loaded.origin("scrape", name),
        )
        for name, spec in loaded.profile.scrape.items()
    )
