"""prometheus.yml to scrape jobs; what service discovery finds is not known, so such jobs have no targets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from monitorgen.bundle import Pairs, ScrapeJob, pairs
from monitorgen.promql import parse_duration
from monitorgen.readers.source import read_source
from monitorgen.readers.yaml_nodes import YamlNode, documents

_DEFAULT_INTERVAL = 60.0  # Prometheus's own defaults, in seconds
_DEFAULT_TIMEOUT = 10.0


def read_scrape_jobs(path: Path) -> tuple[ScrapeJob, ...]:
    """The scrape jobs of a prometheus.yml. InputError where it is none."""
    nodes = documents(read_source(path))
    return tuple(job for node in nodes for job in jobs_of(node))


def holds_jobs(nodes: list[YamlNode]) -> bool:
    """Whether these documents are a Prometheus configuration."""
    return any(
        node.is_mapping and ("scrape_configs" in (fields := node.fields()) or "rule_files" in fields)
        for node in nodes
    )


def jobs_of(node: YamlNode) -> list[ScrapeJob]:
    """The scrape jobs of one document."""
    fields = node.fields()
    defaults = fields["global"].fields() if "global" in fields else {}
    interval = _seconds(defaults, "scrape_interval", _DEFAULT_INTERVAL)
    timeout = _seconds(defaults, "scrape_timeout", min(_DEFAULT_TIMEOUT, interval))
    jobs = fields["scrape_configs"].items() if "scrape_configs" in fields else []
    return [_job(job, interval, timeout) for job in jobs]


def _job(node: YamlNode, interval: float, timeout: float) -> ScrapeJob:
    fields = node.fields()
    name = fields["job_name"].text() if "job_name" in fields else ""
    if not name:
        raise node.error("a scrape job has no `job_name`", "name it")
    statics = (
        [static.fields() for static in fields["static_configs"].items()] if "static_configs" in fields else []
    )
    targets = tuple(t.text() for static in statics if "targets" in static for t in static["targets"].items())
    own = _seconds(fields, "scrape_interval", interval)
    return ScrapeJob(
        job=name,
        targets=targets,
        interval=own,
        timeout=_seconds(fields, "scrape_timeout", min(timeout, own)),
        metrics_path=(fields["metrics_path"].text() if "metrics_path" in fields else "") or "/metrics",
        labels=_common_labels(statics),
        origin=node.origin,
    )


def _common_labels(statics: list[dict[str, YamlNode]]) -> Pairs:
    """The labels that every target of the job has."""
    sets = [set((static["labels"].texts() if "labels" in static else {}).items()) for static in statics]
    return pairs(dict(set.intersection(*sets))) if sets else ()


def _seconds(fields: Mapping[str, YamlNode], key: str, default: float) -> float:
    node = fields.get(key)
    if node is None or node.is_null:
        return default
    try:
        return parse_duration(node.text())
    except ValueError as error:
        raise node.error(f"`{key}`: {error}") from error
