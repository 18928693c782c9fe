"""The stage on which rules and panels are asked: a Prometheus at real pace with the rules as written."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import yaml

from monitorgen.bundle import Pairs
from monitorgen.errors import InputError
from monitorgen.prove.asking import STATUSES, Kinds, LiveResult, Status, ask
from monitorgen.prove.prometheus import Prometheus, find_prometheus, release
from monitorgen.prove.questions import Question, Subject
from monitorgen.prove.scrapes import Scrapes, await_targets, look_back
from monitorgen.prove.sources import Source, scrape_config


@dataclass(frozen=True, slots=True)
class LiveReport:
    """All results of one run, and what they were asked of.

    `alerts` holds each alert's name and state at the end, `errors` the rules that Prometheus could not
    evaluate, `scrapes` how each source fared.
    """

    results: tuple[LiveResult, ...]
    sources: tuple[Source, ...]
    prometheus: str
    seconds: float
    alerts: Pairs = ()
    errors: tuple[str, ...] = ()
    scrapes: tuple[Scrapes, ...] = ()

    def of(self, status: Status) -> tuple[LiveResult, ...]:
        """The results with a status."""
        return tuple(result for result in self.results if result.status == status)

    @property
    def ok(self) -> bool:
        """Whether nothing failed and every source was there; what is unproven has its reason."""
        return not self.errors and not self.of("failed") and not self.down

    @property
    def down(self) -> tuple[Scrapes, ...]:
        """The sources that were not there, or not always."""
        return tuple(one for one in self.scrapes if not one.ok)

    def table(self) -> str:
        """A line for each query: status, value, series, item, and the reason where there is no value."""
        broken = [f"{'broken':8} {'-':>12} {0:4d}  {error}" for error in self.errors]
        counts = ", ".join(f"{len(self.of(status))} {status}" for status in STATUSES)
        where = ", ".join(f"{source.job} at {source.target}" for source in self.sources)
        states = [f"{name} {state}" for name, state in self.alerts if state in ("pending", "firing")]
        return "\n".join(
            [
                f"{'status':8} {'last value':>12} {'n':>4}  item",
                *map(str, self.results),
                *broken,
                *(f"{'down':8} {'-':>12} {0:4d}  {one}" for one in self.down),
                f"{counts}; Prometheus {self.prometheus}, {self.seconds:.0f} s of {where}",
                f"alerts at the end: {', '.join(states) or 'none pending or firing'}",
            ]
        )


class ValueStage:
    """Asks every question of a subject inside the `with` block, again and again until it has an answer.

    `poll` asks what is not proven yet and says whether all is; `results` are the latest answers.
    Entering raises `InputError` without a source; `await_sources` raises if none can be scraped.
    """

    def __init__(
        self,
        subject: Subject,
        sources: Sequence[Source],
        *,
        workdir: Path,
        interval: float = 2.0,
        binary: Path | None = None,
    ) -> None:
        if not sources:
            raise InputError("a live proof needs a server to scrape")
        self.subject, self.sources, self.interval = subject, tuple(sources), interval
        rules = {name: at_scrape_pace(text) for name, text in subject.rule_files.items()}
        program = binary or find_prometheus()
        fallback = release(program) >= (3,)
        config = scrape_config(sources, interval, tuple(rules), fallback=fallback)
        self.server = Prometheus(config, workdir=workdir, files=rules, binary=program)
        self.began = time.time()
        self.kinds = Kinds(
            {dict(source.labels).get("instance", source.target): source.kind for source in sources},
            {source.job: source.kind for source in sources},
        )
        self._proven: dict[Question, LiveResult] = {}
        self._latest: dict[Question, LiveResult] = {}
        self._stack = contextlib.ExitStack()

    @property
    def results(self) -> tuple[LiveResult, ...]:
        """The latest answer to each question; empty before the first poll."""
        return tuple(self._latest[q] for q in self.subject.questions if q in self._latest)

    @property
    def failing(self) -> int:
        """How many questions could have values and have none, so far."""
        return sum(result.status == "failed" for result in self.results)

    @property
    def progress(self) -> tuple[int, int]:
        """How many questions are proven, of how many."""
        return len(self._proven), len(self.subject.questions)

    def poll(self) -> bool:
        """Ask once what is not proven yet; whether nothing is left to ask."""
        self.server.check()
        open_questions = [q for q in self.subject.questions if q not in self._proven]
        answers = ask(
            self.server,
            self.subject,
            since=self.began,
            interval=self.interval,
            kinds=self.kinds,
            questions=open_questions,
        )
        self._latest.update(zip(open_questions, answers, strict=True))
        self._proven.update((q, result) for q, result in self._latest.items() if result.ok)
        return len(self._proven) == len(self.subject.questions)

    def ask_again(self) -> None:
        """Ask everything once more: the last answers have the longest courses."""
        self._proven.clear()
        self.poll()

    def await_sources(self, progress: Callable[[str], None] = lambda _: None) -> None:
        """Wait until every source was scraped once; `progress` is told which ones cannot be.

        Raises `PrometheusError` if none can.
        """
        await_targets(self.server, self.sources, self.interval, progress)

    def report(self) -> LiveReport:
        """What came of it so far."""
        rules = self.server.rules()
        return LiveReport(
            results=self.results,
            sources=self.sources,
            prometheus=self.server.version(),
            seconds=time.time() - self.began,
            alerts=tuple((rule.name, rule.state) for rule in rules if rule.kind == "alerting"),
            errors=tuple(f"{rule.name}: {rule.error}" for rule in rules if rule.health == "err"),
            scrapes=look_back(self.server, self.sources, time.time() - self.began, self.interval),
        )

    def __enter__(self) -> ValueStage:
        self._stack.enter_context(self.server)
        self.began = time.time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def at_scrape_pace(rules: str) -> str:
    """A rule file whose groups are evaluated as often as targets are scraped, not at intervals of their own.

    Expressions, with their windows, and `for` stay as they are: only the first values come sooner.
    """
    tree = yaml.safe_load(rules)
    for group in tree["groups"]:
        group.pop("interval", None)
    return yaml.safe_dump(tree, sort_keys=False)
