"""The machine's own apt sources, read for `get-prometheus`: mirrors, and how their packages are trusted."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


class CannotError(Exception):
    """Something could not be had; the message is one line for a person."""


@dataclass(frozen=True)
class Source:
    """One `deb` entry of the machine's apt sources: where its packages are and how they are trusted."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: tuple[str, ...]  # deb822 lines that go along, such as Signed-By


def os_release() -> dict[str, str]:
    """The fields of /etc/os-release."""
    try:
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {key: value.strip("\"'") for key, _, value in (line.partition("=") for line in lines)}


def machine_sources(etc: Path = Path("/etc/apt")) -> list[Source]:
    """The machine's own mirrors, the one with its main suite first; CannotError when there are none."""
    sources: list[Source] = []
    for path in [etc / "sources.list", *sorted(etc.glob("sources.list.d/*"))]:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = path.read_text(encoding="utf-8")
            if path.suffix == ".sources":
                sources += deb822_sources(text)
            elif path.suffix == ".list":
                sources += classic_sources(text)
    own = os_release().get("VERSION_CODENAME", "")
    usable = [source for source in sources if is_mirror(source)]
    # A full mirror lists the machine's own release; the other sources are vendors' and hold nothing of ours.
    usable = [source for source in usable if own in source.suites] or usable
    if not usable:
        raise CannotError("the machine's apt sources name no mirror")
    return list(dict.fromkeys(usable))


def is_mirror(source: Source) -> bool:
    """False for CDs, for security-only archives and for flat repositories."""
    reachable = all(not uri.startswith("cdrom:") for uri in source.uris)
    full = any(not suite.endswith(("-security", "/updates", "/")) for suite in source.suites)
    return bool(source.uris and source.components) and reachable and full


def deb822_sources(text: str) -> Iterator[Source]:
    """Entries of a `.sources` file."""
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1].isspace():
                fields[name] = fields.get(name, "") + "\n" + line  # a signing key spans lines
            elif ":" in line:
                key, _, value = line.partition(":")
                name = key.strip().lower()
                fields[name] = value.strip()
        if "deb" in fields.get("types", "").split() and fields.get("enabled", "yes").lower() != "no":
            ours = {"types", "uris", "suites", "components", "enabled", "targets", "languages", "pdiffs"}
            options = tuple(f"{key}: {value}" for key, value in fields.items() if key and key not in ours)
            yield Source(
                tuple(fields.get("uris", "").split()),
                tuple(fields.get("suites", "").split()),
                tuple(fields.get("components", "").split()),
                options,
            )


def classic_sources(text: str) -> Iterator[Source]:
    """Entries of a one-line `.list` file: `deb [option=value ...] uri suite component...`."""
    for line in text.splitlines():
        entry = re.match(r"deb\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)\s*([^#]*)", line.strip())
        if not entry:
            continue
        options = dict(option.partition("=")[::2] for option in (entry[1] or "").split())
        fields = {"arch": "Architectures", "signed-by": "Signed-By", "trusted": "Trusted"}
        fields |= {"check-valid-until": "Check-Valid-Until"}
        lines = (
            f"{fields[key]}: {value.replace(',', ' ')}" for key, value in options.items() if key in fields
        )
        yield Source((entry[2],), (entry[3],), tuple(entry[4].split()), tuple(lines))
