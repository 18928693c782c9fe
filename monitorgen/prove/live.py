"""Live proof of rules and panels: a real Prometheus scrapes real servers, and each item is asked for.

The rules are loaded as written, durations included; only the scrape interval is shorter. What stays empty
because no server exports the family is told apart from what stays empty though it could have data.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from monitorgen.prove.asking import LiveResult, ask, exported_by
from monitorgen.prove.processes import poll_until
from monitorgen.prove.questions import Subject
from monitorgen.prove.sources import Source, scrape_config
from monitorgen.prove.value_stage import LiveReport, ValueStage

__all__ = ["LiveReport", "LiveResult", "Source", "ask", "exported_by", "run_live", "scrape_config"]


def run_live(
    subject: Subject,
    sources: Sequence[Source],
    *,
    workdir: Path,
    seconds: float,
    interval: float = 2.0,
    load: Callable[[], object] | None = None,
    settle: float = 20.0,
    binary: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> LiveReport:
    """Load the rules into a Prometheus that scrapes the sources, and ask every question.

    With `load`, that is called once the sources are up (it is to return after about `seconds`), and what
    then has no values gets `settle` seconds more. Without it, the answers are awaited for up to `seconds`,
    and families that nobody exports for `settle`.
    A source that cannot be scraped, or goes away, is named in the report's `scrapes`; the others go on.
    Raises `MonitorgenError` if no source can be scraped, a rule file is refused, or Prometheus dies.
    """
    with ValueStage(subject, sources, workdir=workdir, interval=interval, binary=binary) as stage:
        stage.await_sources(progress)
        progress(f"Prometheus {stage.server.version()} scrapes {', '.join(s.target for s in sources)}")
        if load is not None:
            load()
        missing_stands = time.monotonic() + (0.0 if load else settle)

        def complete() -> bool:
            done = stage.poll()
            progress("{} of {} queries have values".format(*stage.progress))
            return done or (not stage.failing and time.monotonic() >= missing_stands)

        poll_until(
            complete,
            timeout=settle if load else seconds,
            pause=threading.Event().wait,
            first=interval,
            longest=2 * interval,
        )
        return stage.report()
