"""What a live proof scrapes: servers, how to reach them, and the scrape configuration that does so.

What is generated here refers to secrets by the path of their file; Prometheus reads them itself.
"""

from __future__ import annotations

import difflib
import re
import urllib.parse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

from monitorgen import catalog, promql
from monitorgen.bundle import Pairs, ScrapeJob
from monitorgen.catalog.transport import LIMIT
from monitorgen.errors import InputError
from monitorgen.prove.access import CREDENTIAL_OPTIONS, NO_ACCESS, Access
from monitorgen.prove.ledger import Kind

Scheme: TypeAlias = Literal["http", "https"]
PORTS: dict[Scheme, int] = {"http": 80, "https": 443}
FALLBACK = "PrometheusText0.0.4"
_RUNTIME = re.compile(r"(process|python|go|promhttp|http)_")
_JOB = re.compile(r"([^\s=:/]+)=(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Source:
    """A server to scrape: `target` is `host:port`; `labels` are put on its series.

    `kind` says in the ledger what stands behind it; `access` is what the server wants to see.
    """

    job: str
    target: str
    metrics_path: str = "/metrics"
    labels: Pairs = ()
    kind: Kind = ""
    scheme: Scheme = "http"
    access: Access = NO_ACCESS

    @property
    def url(self) -> str:
        """The address of the metrics page."""
        return f"{self.scheme}://{self.target}{self.metrics_path}"


def parse_source(text: str, access: Access = NO_ACCESS, jobs: Sequence[ScrapeJob] = ()) -> Source:
    """The source that `[JOB=]URL` names; `job` stays empty where none is given (see `preflight`).

    The scheme defaults to http, the port to the scheme's, the path to the job's, else to /metrics. A job must
    be one of `jobs`, unless there are none. Raises `InputError`; credentials in the address are refused, and
    not repeated.
    """
    given = _JOB.fullmatch(text)
    name, address = (given[1], given[2]) if given else ("", text)
    if "//" in address and "@" in address:
        raise InputError(
            f"the address of {address.rpartition('@')[2].partition('/')[0] or 'a source'} holds credentials",
            hint=f"put them into files: {CREDENTIAL_OPTIONS}",
        )
    job = _named(name, jobs) if name else None
    parts = _parts(address)
    scheme: Scheme = "https" if parts.scheme == "https" else "http"
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else str(parts.hostname)
    path = parts.path if parts.path.strip("/") else (job.metrics_path if job else "/metrics")
    return Source(
        job=name,
        target=f"{host}:{parts.port or PORTS[scheme]}",
        metrics_path=path,
        labels=job.labels if job else (),
        kind="scrape",
        scheme=scheme,
        access=access,
    )


def _parts(address: str) -> urllib.parse.SplitResult:
    """A valid address, taken apart."""
    if not address.isprintable() or " " in address:
        raise InputError(f"{address!r} is no address: it holds spaces or control characters")
    try:
        parts = urllib.parse.urlsplit(address if "://" in address else f"http://{address}")
        port = parts.port
    except ValueError as error:
        raise InputError(
            f"{address!r} is no address: {error}", hint="such as http://host:8000/metrics"
        ) from error
    if parts.scheme not in PORTS or not parts.hostname or port == 0:
        raise InputError(f"{address!r} is no address", hint="such as http://host:8000/metrics")
    if parts.query or parts.fragment:
        raise InputError(
            f"{address.partition('?')[0].partition('#')[0]}: the address has more than a path",
            hint="a query is not supported; a token goes into a file: --bearer-token-file",
        )
    return parts


def _named(name: str, jobs: Sequence[ScrapeJob]) -> ScrapeJob | None:
    """The scrape job of a name; None if there are none to choose from."""
    found = next((job for job in jobs if job.job == name), None)
    if found is None and jobs:
        names = [job.job for job in jobs]
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names)}"
        raise InputError(f"the profile has no scrape job {name!r}", hint=hint)
    return found


def job_of_families(names: Iterable[str], jobs: Sequence[ScrapeJob]) -> ScrapeJob:
    """The scrape job whose engine exports most of the families that no other job's engine exports.

    Raises `InputError` if no job fits, or several do.
    """
    here = frozenset(names)
    known = {engine: here & families_of(engine) for engine in sorted({job.engine for job in jobs})}
    own = {
        engine: found - frozenset[str]().union(*(known[other] for other in known if other != engine))
        for engine, found in known.items()
    }
    most = max((len(found) for found in own.values()), default=0)
    fitting = [job for job in jobs if most and len(own[job.engine]) == most]
    if len(fitting) == 1:
        return fitting[0]
    hint = f"say which job it is: JOB=URL, with one of {', '.join(job.job for job in jobs) or 'none'}"
    if fitting:
        raise InputError(
            f"the page fits the scrape jobs {' and '.join(job.job for job in fitting)}", hint=hint
        )
    engines = ", ".join(engine for engine in known if engine) or "no engine"
    raise InputError(f"the page has no family of what the profile watches ({engines})", hint=hint)


def families_of(engine: str) -> frozenset[str]:
    """The families that tell an engine, in any version; none for an engine without catalogs.

    What runtimes and HTTP libraries export is left out: every Python program has it.
    """
    if engine not in catalog.engines():
        return frozenset()
    versions = (catalog.load(engine, version).families for version in catalog.versions(engine))
    return frozenset(name for families in versions for name in families if not _RUNTIME.match(name))


def scrape_config(
    sources: Sequence[Source], interval: float, rule_files: Sequence[str] = (), *, fallback: bool = False
) -> str:
    """The text of a prometheus.yml that scrapes and evaluates every `interval` seconds.

    Sources of one job that differ in path, scheme or access get scrape configs of their own, all with that
    job's label. `fallback` reads pages without a content type as text; only Prometheus 3 knows that setting,
    and only there it is needed. Raises `InputError` if two sources would write the same series.
    """
    every = promql.format_duration(interval)
    groups: dict[Source, list[Source]] = {}
    for source in dict.fromkeys(sources):
        alike = Source(source.job, "", source.metrics_path, (), "", source.scheme, source.access)
        groups.setdefault(alike, []).append(source)
    _refuse_twins(list(dict.fromkeys(sources)))
    config = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": list(rule_files),
        "scrape_configs": [
            _scrape_config(name, members, fallback)
            for name, members in zip(_unique([one.job for one in groups]), groups.values(), strict=True)
        ],
    }
    return yaml.safe_dump(config, sort_keys=False)


def _refuse_twins(sources: Sequence[Source]) -> None:
    seen: dict[tuple[str, str, Pairs], Source] = {}
    for source in sources:
        other = seen.setdefault((source.job, source.target, source.labels), source)
        if other is not source:
            raise InputError(
                f"{other.url} and {source.url} would both be job {source.job}, instance {source.target}",
                hint="Prometheus could not tell their series apart: give them different jobs",
            )


def _unique(jobs: Sequence[str]) -> list[str]:
    """A name for each scrape config: its job, else the first free one with a number."""
    taken: list[str] = []
    for job in jobs:
        name, number = job, 1
        while name in taken or (number > 1 and name in jobs):
            number += 1
            name = f"{job}-{number}"
        taken.append(name)
    return taken


def _scrape_config(name: str, members: Sequence[Source], fallback: bool) -> dict[str, Any]:
    """One scrape config; a target's own `job` label wins over the config's name."""
    first = members[0]
    return {
        "job_name": name,
        "scheme": first.scheme,
        "metrics_path": first.metrics_path,
        "honor_labels": False,
        "follow_redirects": False,  # a redirect would carry credentials to a host that nobody named
        "body_size_limit": f"{LIMIT >> 20}MB",  # Prometheus counts in powers of two
        **({"fallback_scrape_protocol": FALLBACK} if fallback else {}),
        **_credentials(first.access),
        **({"tls_config": _tls_config(first.access)} if first.scheme == "https" else {}),
        "static_configs": [
            {
                "targets": [source.target],
                "labels": {**dict(source.labels), **({"job": source.job} if name != source.job else {})},
            }
            for source in members
        ],
    }


def _credentials(access: Access) -> dict[str, Any]:
    if access.bearer_token_file:
        return {"authorization": {"type": "Bearer", "credentials_file": _absolute(access.bearer_token_file)}}
    if access.basic_auth_password_file:
        user, file = access.basic_auth_user, _absolute(access.basic_auth_password_file)
        return {"basic_auth": {"username": user, "password_file": file}}
    return {}


def _tls_config(access: Access) -> dict[str, Any]:
    files = {"ca_file": access.ca_file, "cert_file": access.cert_file, "key_file": access.key_file}
    return {
        **{key: _absolute(path) for key, path in files.items() if path},
        **({"server_name": access.server_name} if access.server_name else {}),
        "insecure_skip_verify": access.insecure,
    }


def _absolute(path: Path) -> str:
    """Prometheus looks for relative files beside its configuration, which is elsewhere."""
    return str(path.absolute())
