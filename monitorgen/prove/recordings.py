"""The recordings that come with monitorgen: scrapes of real servers under load, and what they are of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from monitorgen.prove.replay import Replay

INDEX = "recordings.json"


@dataclass(frozen=True, slots=True)
class Recording:
    """Scrapes of one server, oldest first, `step` seconds apart when played back.

    `engine` says which scrape job would have scraped it, `about` what it was, in words for the ledger.
    `beside` names the recording that was taken at the same time, if there is one.
    """

    name: str
    engine: str
    about: str
    step: float
    count: int
    beside: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """Its scrapes, gzipped."""
        return tuple(_folder() / f"{self.name}-{number}.prom.gz" for number in range(self.count))

    def replay(self) -> Replay:
        """It, ready to be played back. Raises InputError if a file is missing or broken."""
        return Replay.from_files(self.files, step=self.step)


@cache
def recordings() -> tuple[Recording, ...]:
    """All of them, as the index beside the files lists them."""
    return tuple(Recording(**one) for one in json.loads((_folder() / INDEX).read_text("utf-8")))


def _folder() -> Path:
    return Path(str(files("monitorgen.prove") / "data"))
