"""Catalogs that are declared, not recorded: Prometheus' own series, and what our workloads export."""

from __future__ import annotations

from types import MappingProxyType

from monitorgen import telemetry
from monitorgen.catalog.conventions import unit_of
from monitorgen.catalog.model import Catalog, Family

# Name -> (labels beside those of the target or the alert, help). All are gauges.
_PROMETHEUS: dict[str, tuple[tuple[str, ...], str]] = {
    "up": ((), "1 if the last scrape of the target succeeded, else 0."),
    "scrape_duration_seconds": ((), "How long the scrape took."),
    "scrape_samples_scraped": ((), "Samples that the target exposed."),
    "scrape_samples_post_metric_relabeling": ((), "Samples left after metric relabeling."),
    "scrape_series_added": ((), "New series in this scrape, roughly."),
    "ALERTS": (("alertname", "alertstate", "severity"), "1 for each pending or firing alert."),
    "ALERTS_FOR_STATE": (("alertname", "severity"), "Since when each alert is pending or firing."),
}


def prometheus() -> Catalog:
    """The series that Prometheus 2 and 3 make themselves, for every target and every alert."""
    families = {
        name: Family(
            name=name,
            type="gauge",
            unit=unit_of(name, "gauge"),
            help=help_,
            labels=labels,
            values=MappingProxyType({"alertstate": ("firing", "pending")} if "alertstate" in labels else {}),
            origin="declared",
        )
        for name, (labels, help_) in _PROMETHEUS.items()
    }
    return Catalog(
        "prometheus", "2", MappingProxyType(families), "declared: the series that the server itself makes"
    )


def workload() -> Catalog:
    """The families that `monitorgen.telemetry` declares."""
    families = {
        metric.name: Family(
            name=metric.name,
            type=metric.type,
            unit=metric.unit,
            help=metric.help,
            labels=tuple(sorted(metric.labels)),
            values=MappingProxyType({label: tuple(sorted(values)) for label, values in metric.values}),
            buckets=metric.buckets,
            origin="declared",
            needs=metric.needs,
            created=False,
        )
        for metric in telemetry.METRICS
    }
    return Catalog(
        "workload", telemetry.VERSION, MappingProxyType(families), "declared in monitorgen.telemetry"
    )
