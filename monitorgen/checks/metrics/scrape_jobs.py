"""Scrape jobs."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.bundle import ScrapeJob
from monitorgen.checks.context import SCRAPE_LABELS, Context, Subject
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check
from monitorgen.promql import format_duration


@check("scrape-jobs")
def scrape_jobs(context: Context) -> Iterator[Finding]:
    """Scrape jobs have targets, one name each, a timeout within the interval, and labels of their own."""
    seen: set[str] = set()
    for job in context.bundle.scrape_jobs:
        subject = Subject(job.id, job.origin)
        if job.job in seen:
            yield subject.finding("there is another job of this name", "rename one")
        seen.add(job.job)
        if not job.targets:
            yield subject.finding("it has no targets", "give it at least one host:port")
        if job.timeout > job.interval:
            yield subject.finding(
                f"its timeout of {format_duration(job.timeout)} exceeds its interval of"
                f" {format_duration(job.interval)}",
                "shorten the timeout",
            )
        yield from _labels(context, subject, job)


def _labels(context: Context, subject: Subject, job: ScrapeJob) -> Iterator[Finding]:
    own = {
        label
        for one in context.catalogs.get(job.engine, ())
        for family in one.families.values()
        for label in family.labels
    }
    for label, _ in job.labels:
        if label in SCRAPE_LABELS:
            yield subject.finding(f"its label {label} replaces the one of the scrape", "rename it")
        elif label in own:
            yield subject.finding(
                f"its label {label} hides the engine's own, which becomes exported_{label}", "rename it"
            )
