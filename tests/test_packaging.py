"""The wheel holds all four rooms in one package, and works from any folder of an empty environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Where each room of the repository lies in the wheel.
ROOMS = {
    "monitorgen": "monitorgen",
    "kernels": "monitorgen/kernels",
    "templates": "monitorgen/templates",
    "profiles": "monitorgen/profiles",
}
NOT_SHIPPED = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*")

# With xdist's loadgroup, one worker builds and installs for all.
pytestmark = pytest.mark.xdist_group("packaging")


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed, with nothing of the checkout in its environment."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def source_files() -> set[str]:
    """What the checkout's rooms hold, by their names in the wheel."""
    found = set()
    for room, place in ROOMS.items():
        for path in (ROOT / room).rglob("*"):
            parts = path.relative_to(ROOT / room).parts
            hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
            if path.is_file() and not hidden:
                found.add("/".join((place, *parts)))
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, so that no older build in the checkout can leak into it."""
    work = tmp_path_factory.mktemp("wheel")
    for room in ROOMS:
        shutil.copytree(ROOT / room, work / "src" / room, ignore=NOT_SHIPPED)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, work / "src")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", work, work / "src", cwd=work)
    return next(work.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an empty environment into which the wheel, and what it requires, was installed."""
    environment = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment)
    programs = environment / "bin"
    pip = (sys.executable, "-m", "pip", "--python", programs / "python", "install", "--quiet")
    run(*pip, wheel, cwd=environment)
    return programs


def test_wheel_holds_every_file_of_every_room(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == source_files()


def test_wheel_has_one_package_and_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"monitorgen"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_rooms_import_from_inside_the_package_only(installed: Path, tmp_path: Path) -> None:
    code = (
        "import importlib.util, monitorgen, monitorgen.kernels, monitorgen.profiles, monitorgen.templates\n"
        "for room in ('kernels', 'profiles', 'templates', 'torch', 'pytest'):\n"
        "    assert importlib.util.find_spec(room) is None, room\n"
        "print(monitorgen.__file__)"
    )
    place = Path(run(installed / "python", "-c", code, cwd=tmp_path).strip())
    assert place.is_relative_to(installed.parent)


def test_version_is_told(installed: Path, wheel: Path, tmp_path: Path) -> None:
    assert wheel.name.split("-")[1] in run(installed / "monitorgen", "--version", cwd=tmp_path)


def test_profiles_are_listed(installed: Path, tmp_path: Path) -> None:
    listed = run(installed / "monitorgen", "profile", "list", cwd=tmp_path)
    assert all(name in listed for name in ("baseline", "optimized", "kernels"))


def test_bundle_is_the_same_as_the_checkouts(installed: Path, tmp_path: Path) -> None:
    build = ("build", "--profile", "optimized", "--out")
    run(installed / "monitorgen", *build, tmp_path / "wheel", cwd=tmp_path)
    run(Path(sys.executable).parent / "monitorgen", *build, tmp_path / "checkout", cwd=tmp_path)
    written, expected = (
        {path.relative_to(top): path.read_bytes() for path in top.rglob("*") if path.is_file()}
        for top in (tmp_path / "wheel", tmp_path / "checkout")
    )
    assert {".yaml", ".json", ".md"} <= {path.suffix for path in written}
    assert written == expected
