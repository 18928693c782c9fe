"""A look at each endpoint before Prometheus starts: what would go wrong, said in one line each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial

from monitorgen.bundle import ScrapeJob
from monitorgen.catalog.exposition import Exposed
from monitorgen.catalog.transport import ACCEPT, LIMIT, Page, parse_page
from monitorgen.errors import InputError, MonitorgenError
from monitorgen.prove.access import NO_ACCESS, Access, Answer, get
from monitorgen.prove.sources import (
    FALLBACK,
    Source,
    families_of,
    job_of_families,
    parse_source,
)

KNOWN_TYPES = ("text/plain", "application/openmetrics-text")


@dataclass(frozen=True, slots=True)
class Checked:
    """What one GET of an endpoint showed.

    `source` has its job by now, if that could be told; `problems` keep it from being scraped; `notes` do not.
    `families` are the names on its page, `seconds` the time until the page was there.
    """

    source: Source
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    families: frozenset[str] = frozenset()
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the endpoint can be scraped."""
        return not self.problems


def preflight(
    source: Source, jobs: Sequence[ScrapeJob] = (), *, timeout: float = 10.0, limit: int = LIMIT
) -> Checked:
    """GET a source's page once, as Prometheus would, and say what is wrong with it.

    A source without a job gets the one of `jobs` that its page fits. `timeout` (seconds) is what a scrape may
    take. Nothing that the server sends back can put our secret into a message.
    """
    try:
        answer = get(
            source.url,
            source.access,
            timeout=timeout,
            limit=limit,
            headers={"Accept": ACCEPT, "Accept-Encoding": "gzip"},
        )
        exposed = _parse(source, answer, limit)
        source = source if source.job or not jobs else _with_job(source, exposed, jobs)
    except MonitorgenError as error:
        return Checked(source, problems=(source.access.redacted(_line(error)),))
    names = frozenset(family.name for family in exposed)
    notes = (*_type_notes(source, answer), *_engine_notes(source, names, jobs))
    return Checked(source, (), notes, names, answer.seconds)


def preflight_all(
    texts: Sequence[str],
    access: Access = NO_ACCESS,
    jobs: Sequence[ScrapeJob] = (),
    *,
    timeout: float = 10.0,
    limit: int = LIMIT,
) -> tuple[Checked, ...]:
    """`parse_source` and `preflight` for every `[JOB=]URL`, all at once so that slow ones do not add up.

    Raises `InputError` for what is wrong before anyone is asked: an address, a file of `access`.
    """
    sources = tuple(dict.fromkeys(parse_source(text, access, jobs) for text in texts))
    if sources:
        access.check()
    futures = [_aside(partial(preflight, one, jobs, timeout=timeout, limit=limit)) for one in sources]
    return tuple(future.result() for future in futures)


def _aside(look: Callable[[], Checked]) -> Future[Checked]:
    """Let a look happen on a thread of its own, for which nobody waits when the run is interrupted."""
    future: Future[Checked] = Future()

    def work() -> None:
        try:
            future.set_result(look())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True, name="preflight").start()
    return future


def _parse(source: Source, answer: Answer, limit: int) -> tuple[Exposed, ...]:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    page = Page(source.url, answer.body, headers.get("content-type", ""), headers.get("content-encoding", ""))
    exposed = parse_page(page, limit)
    if not any(family.samples for family in exposed):
        raise InputError(f"{source.url}: the page holds no samples", hint="is it the metrics page?")
    return exposed


def _with_job(source: Source, exposed: Sequence[Exposed], jobs: Sequence[ScrapeJob]) -> Source:
    try:
        job = job_of_families((family.name for family in exposed), jobs)
    except InputError as error:
        raise InputError(f"{source.url}: {error.message}", hint=error.hint) from error
    return replace(source, job=job.job, labels=job.labels)


def _type_notes(source: Source, answer: Answer) -> tuple[str, ...]:
    said = next((value for name, value in answer.headers.items() if name.lower() == "content-type"), "")
    if said.partition(";")[0].strip().lower() in KNOWN_TYPES:
        return ()
    what = f"the content type {said!r}" if said else "no content type"
    return (
        f"{source.url} sends {source.access.redacted(what)}: Prometheus 3 scrapes it only with "
        f"fallback_scrape_protocol: {FALLBACK} in the scrape config",
    )


def _engine_notes(source: Source, names: frozenset[str], jobs: Sequence[ScrapeJob]) -> tuple[str, ...]:
    engine = next((job.engine for job in jobs if job.job == source.job), "")
    known = families_of(engine)
    if not known or names & known:
        return ()
    return (f"{source.url} exports no family of {engine}, which job {source.job} is for",)


def _line(error: MonitorgenError) -> str:
    return " ".join(str(error).split())
