"""Asking promtool: is the configuration valid, do the unit tests hold?

A promtool belongs to one version of Prometheus; several are asked one after the other.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from monitorgen.errors import MonitorgenError, ToolMissing

TIMEOUT = 300.0
_VERSION = re.compile(r"version (\d+\.\d+(?:\.\d+)?)")
_SECTION = re.compile(r"^  (SUCCESS|FAILED:)\s*$")
_FAILURE = re.compile(
    r"^ +(?:name: (?P<name>.*),|alertname: (?P<alert>\S+), time: (?P<alert_time>[^\s,]+),(?P<alert_rest>.*)"
    r"|expr: (?P<expr>\".*\"), time: (?P<time>[^\s,]+),(?P<rest>.*))\s*$"
)


def run_tool(path: str, *args: str, cwd: Path | None = None) -> tuple[int, str]:
    """A program's exit status, and its output and errors in the order in which they came.

    Raises `ToolMissing` where it cannot be run, `MonitorgenError` where it does not end.
    """
    try:
        done = subprocess.run(
            [path, *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT,
            cwd=cwd,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MonitorgenError(f"{path} did not answer within {TIMEOUT:.0f} s") from error
    except OSError as error:
        raise ToolMissing(f"{path} cannot be run: {error.strerror or error}") from error
    return done.returncode, done.stdout


@dataclass(frozen=True, slots=True)
class Failure:
    """A unit test that failed: the alert or expression, the time, and promtool's words.

    `test` is the test group; promtool names it with alerts, and leaves it out ("") with expressions.
    """

    test: str
    subject: str
    time: str
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What promtool says of one unit test file; `trouble` is why it could not be run, or not all of it."""

    failures: tuple[Failure, ...] = ()
    trouble: str = ""


@dataclass(frozen=True)
class Promtool:
    """A promtool binary."""

    path: str

    @cached_property
    def version(self) -> str:
        """The Prometheus version that it belongs to, for example 2.53.3."""
        match = _VERSION.search(self._run("--version")[1])
        return match[1] if match else "unknown"

    def _run(self, *args: str, cwd: Path | None = None) -> tuple[int, str]:
        return run_tool(self.path, *args, cwd=cwd)

    def check_rules(self, files: Sequence[Path]) -> str:
        """What is wrong with rule files, every lint fatal; empty if nothing is."""
        status, text = self._run("check", "rules", "--lint=all", "--lint-fatal", *map(str, files))
        return text.strip() if status else ""

    def check_config(self, file: Path) -> str:
        """What is wrong with a prometheus.yml, every lint fatal; empty if nothing is."""
        status, text = self._run("check", "config", "--lint=all", "--lint-fatal", str(file), cwd=file.parent)
        return text.strip() if status else ""

    def test_rules(self, files: Sequence[Path]) -> list[Answer]:
        """What it says of unit test files, in their order, from one process if it can be."""
        status, text = self._run("test", "rules", *map(str, files))
        if status == 0:
            return [Answer() for _ in files]
        answers = parse_answers(text)
        if len(answers) == len(files):
            return answers
        # It gave up half way: one by one, so that a file's trouble is its own.
        if len(files) > 1:
            return [answer for file in files for answer in self.test_rules([file])]
        return [Answer(trouble=text.strip() or f"exit status {status}")]


def parse_answers(text: str) -> list[Answer]:
    """The answers in what `promtool test rules` printed, one a file: `SUCCESS`, or `FAILED:` and failures."""
    answers: list[Answer] = []
    section: list[str] | None = None
    for line in text.splitlines():
        match = _SECTION.match(line)
        if match is None:
            if section is not None:
                section.append(line)
            continue
        if section is not None:
            answers.append(_answer(section))
        section = None
        if match[1] == "SUCCESS":
            answers.append(Answer())
        else:
            section = []
    return answers if section is None else [*answers, _answer(section)]


def _answer(lines: list[str]) -> Answer:
    """A failed file's answer. Failures are indented; what is not is an error that stopped a whole test."""
    lines = [line for line in lines if not line.startswith("Unit Testing:")]
    failures = tuple(parse_failures("\n".join(lines)))
    trouble = "\n".join(line for line in lines if line and not line.startswith(" "))
    if not failures and not trouble:
        trouble = "\n".join(lines).strip() or "promtool says no more than that it failed"
    return Answer(failures, trouble)


def parse_failures(text: str) -> list[Failure]:
    """The failures of one file in what `promtool test rules` printed."""
    failures: list[Failure] = []
    test = ""
    current: tuple[str, str, str] | None = None
    lines: list[str] = []

    def finish() -> None:
        if current is not None:
            failures.append(Failure(*current, "\n".join(lines).strip()))

    for line in text.splitlines():
        match = _FAILURE.match(line)
        if match is None:
            lines.append(line)
            continue
        finish()
        current, lines = None, []
        if match["name"] is not None:
            test = match["name"]
        elif match["alert"]:
            current, lines = (test, match["alert"], match["alert_time"]), [match["alert_rest"].strip()]
            test = ""
        else:
            current, lines = ("", match["expr"], match["time"]), [match["rest"].strip()]
    finish()
    return failures


def find_promtools(paths: Iterable[str] = ()) -> list[Promtool]:
    """The promtools to ask: those given, else $MONITORGEN_PROMTOOL (a list like PATH), else PATH's."""
    given = [path for path in paths if path] or find_programs("promtool", "MONITORGEN_PROMTOOL")
    return [Promtool(path) for path in dict.fromkeys(given)]


def find_programs(name: str, variable: str) -> list[str]:
    """The programs that an environment variable lists (like PATH), else PATH's one of that name, if any."""
    if listed := os.environ.get(variable):
        return [path for path in listed.split(os.pathsep) if path]
    found = shutil.which(name)
    return [found] if found else []
