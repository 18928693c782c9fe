"""Running monitorgen as a user does, within the process: exit code, what it printed, nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from monitorgen.cli import main

# What several tables share lies beside them.
sys.path.insert(0, str(Path(__file__).parent))


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Ran]:
    """Runs the command line in an empty folder; an error that is not one of ours fails the test."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["monitorgen", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        code = stopped.value.code
        return Ran(code if isinstance(code, int) else 0, said.out, said.err)

    return call


@pytest.fixture
def refused(run: Callable[..., Ran]) -> Callable[..., str]:
    """What a run that must be refused says; checks what holds for all of them."""

    def call(*arguments: object) -> str:
        before = sorted(Path().rglob("*"))
        ran = run(*arguments)
        assert ran.code == 2, ran
        assert ran.out == ""
        assert ran.err.startswith("error: ")
        assert ran.err.count("error: ") == 1
        assert "Traceback" not in ran.err
        assert sorted(Path().rglob("*")) == before
        return ran.err

    return call


@pytest.fixture
def marked() -> Callable[[str], tuple[str, str]]:
    """Takes the mark ¦ out of a text and says where it stood, as LINE:COLUMN."""

    def call(text: str) -> tuple[str, str]:
        before, mark, after = text.partition("¦")
        assert mark, "the case says no place"
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        return before + after, f"{line}:{column}"

    return call
