"""Asking promtool: is the configuration valid, do the unit tests hold? One promtool per Prometheus version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from monitorgen.errors import MonitorgenError

TIMEOUT = 300.0
_VERSION = re.compile(r"version (\d+\.\d+(?:\.\d+)?)")
_FAILURE = re.compile(
    r"^\s*(?:name: (?P<name>.*),|alertname: (?P<alert>\S+), time: (?P<alert_time>\S+),\s*"
    r"|expr: (?P<expr>\".*\"), time: (?P<time>\S+),)\s*$"
)


@dataclass(frozen=True, slots=True)
class Failure:
    """One test that promtool says fails: its group, the alert or expression, the time, and what promtool printed."""

    test: str
    subject: str
    time: str
    text: str


@dataclass(frozen=True)
class Promtool:
    """A promtool binary."""

    path: str

    @cached_property
    def version(self) -> str:
        """The Prometheus version that it belongs to, for example 2.53.3."""
        done = self._run("--version")
        match = _VERSION.search(done.stdout + done.stderr)
        return match[1] if match else "unknown"

    def _run(self, *args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [self.path, *args],
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                cwd=cwd,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired as error:
            raise MonitorgenError(f"{self.path} did not answer within {TIMEOUT:.0f} s") from error
        except OSError as error:
            raise MonitorgenError(f"{self.path} cannot be run: {error.strerror or error}") from error

    def check_rules(self, files: Sequence[Path]) -> str:
        """What is wrong with rule files, every lint fatal; empty if nothing is."""
        done = self._run("check", "rules", "--lint=all", "--lint-fatal", *map(str, files))
        return "" if done.returncode == 0 else (done.stdout + done.stderr).strip()

    def check_config(self, file: Path) -> str:
        """What is wrong with a prometheus.yml, every lint fatal; empty if nothing is."""
        done = self._run("check", "config", "--lint=all", "--lint-fatal", str(file), cwd=file.parent)
        return "" if done.returncode == 0 else (done.stdout + done.stderr).strip()

    def test_rules(self, files: Sequence[Path]) -> tuple[list[Failure], str]:
        """The failures of unit test files, and what promtool said if it could not run them at all."""
        done = self._run("test", "rules", *map(str, files))
        text = done.stdout + done.stderr
        if done.returncode == 0:
            return [], ""
        failures = parse_failures(text)
        return failures, "" if failures else text.strip()


def parse_failures(text: str) -> list[Failure]:
    """The failures in what `promtool test rules` printed."""
    failures: list[Failure] = []
    test, current, lines = "", None, []

    def finish() -> None:
        if current is not None:
            failures.append(Failure(test, current[0], current[1], "\n".join(lines).strip()))

    for line in text.splitlines():
        match = _FAILURE.match(line)
        if not match:
            if current is not None:
                lines.append(line)
            continue
        finish()
        current, lines = None, []
        if match["name"] is not None:
            test = match["name"]
        elif match["alert"]:
            current = (match["alert"], match["alert_time"])
        else:
            current = (match["expr"], match["time"])
    finish()
    return failures


def find_promtools(paths: Iterable[str] = ()) -> list[Promtool]:
    """The promtools to ask: those given, else $MONITORGEN_PROMTOOL (a PATH-like list), else the one on PATH."""
    given = [path for path in paths if path]
    if not given and (listed := os.environ.get("MONITORGEN_PROMTOOL")):
        given = [path for path in listed.split(os.pathsep) if path]
    if not given and (found := shutil.which("promtool")):
        given = [found]
    return [Promtool(path) for path in dict.fromkeys(given)]
