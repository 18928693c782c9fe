"""What tests of every room share: the Prometheus programs of this machine, and golden files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
NONE_HERE = "no {} on this machine: `make tools` gets it, or put it on PATH"


def candidates() -> Iterator[Path]:
    """Promtools in the order that tests prefer them: what the caller names, what `make tools` got, PATH."""
    for item in os.environ.get("MONITORGEN_PROMTOOL", "").split(os.pathsep):
        if item:
            yield Path(item)
    yield from sorted(ROOT.glob(".tools/prometheus-*/promtool"), key=version_key, reverse=True)
    yield from sorted(ROOT.glob(".tools/*/promtool"))
    if on_path := shutil.which("promtool"):
        yield Path(on_path)


def version_key(path: Path) -> tuple[int, ...]:
    """Sorts `prometheus-3.5/promtool` after `prometheus-2.53/promtool`."""
    return tuple(
        int(part) for part in path.parent.name.removeprefix("prometheus-").split(".") if part.isdigit()
    )


def once(paths: Iterable[Path]) -> list[Path]:
    """Each program that can be run once, where it comes first, however many links lead to it."""
    found: dict[Path, Path] = {}
    for path in paths:
        if os.access(path, os.X_OK):
            found.setdefault(path.resolve(), path)
    return list(found.values())


def find_prometheuses() -> list[Path]:
    """The prometheus beside each promtool, and PATH's."""
    beside = [path.parent / "prometheus" for path in PROMTOOLS]
    on_path = shutil.which("prometheus")
    return once([*beside, *([Path(on_path)] if on_path else [])])


def find_tools(*names: str) -> list[Path]:
    """The programs of these names: what `make tools` got, newest first, and PATH's."""
    got = sorted(
        ROOT.glob(".tools/prometheus-*"), key=lambda folder: version_key(folder / "any"), reverse=True
    )
    ours = [folder / name for folder in got for name in names]
    return once([*ours, *(Path(found) for name in names if (found := shutil.which(name)))])


def as_params(paths: list[Path], program: str) -> list[Any]:
    """A parameter for each program, named by its version's folder; one that skips when there is none."""
    if not paths:
        return [pytest.param(None, id="none", marks=pytest.mark.skip(reason=NONE_HERE.format(program)))]
    return [pytest.param(path, id=path.resolve().parent.name) for path in paths]


PROMTOOLS = once(candidates())
PROMETHEUSES = find_prometheuses()
ALERTMANAGERS = find_tools("alertmanager", "prometheus-alertmanager")
AMTOOLS = find_tools("amtool")


@pytest.fixture(scope="session")
def promtools() -> list[Path]:
    """Every promtool of this machine, most wanted first; skips when there is none."""
    if not PROMTOOLS:
        pytest.skip(NONE_HERE.format("promtool"))
    return PROMTOOLS


@pytest.fixture(scope="session", params=as_params(PROMTOOLS, "promtool"))
def promtool(request: pytest.FixtureRequest) -> Path:
    """Runs the test once with each promtool."""
    return request.param


@pytest.fixture(scope="session", params=as_params(PROMTOOLS[:1], "promtool"))
def one_promtool(request: pytest.FixtureRequest) -> Path:
    """The most wanted promtool, for tests that no version should change."""
    return request.param


@pytest.fixture(scope="session", params=as_params(PROMETHEUSES, "prometheus"))
def prometheus(request: pytest.FixtureRequest) -> Path:
    """Runs the test once with each prometheus."""
    return request.param


@pytest.fixture(scope="session", params=as_params(PROMETHEUSES[:1], "prometheus"))
def one_prometheus(request: pytest.FixtureRequest) -> Path:
    """The most wanted prometheus."""
    return request.param


@pytest.fixture(scope="session", params=as_params(ALERTMANAGERS, "alertmanager"))
def alertmanager(request: pytest.FixtureRequest) -> Path:
    """Runs the test once with each Alertmanager."""
    return request.param


@pytest.fixture(scope="session", params=as_params(ALERTMANAGERS[:1], "alertmanager"))
def one_alertmanager(request: pytest.FixtureRequest) -> Path:
    """The most wanted Alertmanager."""
    return request.param


@pytest.fixture(scope="session", params=as_params(AMTOOLS, "amtool"))
def amtool(request: pytest.FixtureRequest) -> Path:
    """Runs the test once with each amtool."""
    return request.param


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--renew-golden` writes what the golden files are compared with."""
    parser.addoption(
        "--renew-golden", action="store_true", help="write the golden files instead of comparing"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """Compares text with a committed golden file; `--renew-golden` writes the file instead."""

    def compare(path: Path, text: str) -> None:
        if request.config.getoption("--renew-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        assert path.exists(), f"{path} is missing: run `make golden` and read what it wrote"
        assert text == path.read_text(encoding="utf-8"), f"{path} differs: `make golden` shows how, as a diff"

    return compare


# Machines that run the suite are shared and slow at times: how long one example takes says nothing.
settings.register_profile("suite", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("suite")
