"""Promises about the repository as a whole: who imports whom, what starts fast, and what no file may hold."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOP_LEVEL = {
    "pyproject.toml", "Makefile", "README.md", "LICENSE", "CHANGELOG.md", ".gitignore",
    ".ci", "monitorgen", "templates", "profiles", "kernels", "examples", "tests",
}  # fmt: skip
LONGEST = 420  # lines of a Python file
HEAVY = {
    "pydantic",
    "yaml",
    "jinja2",
    "grafanalib",
    "promql_parser",
    "rich",
    "prometheus_client",
    "torch",
    "vllm",
}

# Written so that the patterns do not match their own text.
MACHINE_PATHS = re.compile(
    r"(?<![\w.~}-])/(?:work/(?:main|shared)|root/|opt/(?:wheels|pypi)|tmp/lab|home/\w+/)"
)
REGISTRIES = re.compile(
    r"(?:deb|security|snapshot|ftp\.\w+)\.debia[n]\.org|(?:archive|security)\.ubunt[u]\.com|pythonhoste[d]\.org"
    r"|\bpypi\.org|registry\.npmjs\.org|download\.pytorch\.org|proxy\.golang\.org"
)


def tracked() -> list[Path]:
    """Files that are, or are about to be, in the repository."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def is_python(path: Path) -> bool:
    """By its ending or its first line."""
    if path.suffix:
        return path.suffix == ".py"
    with path.open("rb") as file:
        return b"python" in file.readline()


def hits(pattern: re.Pattern[str]) -> list[str]:
    """`file:line: text` of every match in the repository."""
    found = []
    for path in tracked():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        for number, line in enumerate(text.splitlines(), start=1):
            if match := pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    return found


def test_imports_flow_one_way() -> None:
    program = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


def modules_of(arguments: list[str]) -> set[str]:
    """Top-level modules that `monitorgen ARGUMENTS` has imported when it ends well."""
    code = (
        "import atexit, json, sys\n"
        "atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))\n"
        f"sys.argv = ['monitorgen', *{arguments!r}]\n"
        "from monitorgen.cli import main\n"
        "sys.exit(main())"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    loaded = modules_of(arguments)
    assert "monitorgen" in loaded  # or else this looked at nothing
    assert not loaded & HEAVY


def test_top_level_is_tidy() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in tracked()} <= TOP_LEVEL


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (MACHINE_PATHS, "see /" + "work/main/x"),
        (MACHINE_PATHS, "'/" + "home/ann/venv'"),
        (REGISTRIES, "https://pypi" + ".org/simple"),
        (REGISTRIES, "http://deb" + ".debian.org/debian"),
    ],
)
def test_patterns_see_what_they_are_for(pattern: re.Pattern[str], text: str) -> None:
    assert pattern.search(text)


@pytest.mark.parametrize("pattern", [MACHINE_PATHS, REGISTRIES], ids=["machine paths", "registries"])
def test_no_file_holds_addresses_of_one_machine(pattern: re.Pattern[str]) -> None:
    assert not hits(pattern)


def test_python_files_stay_short() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in tracked()
        if is_python(path)
    }
    assert lengths
    assert not {name: length for name, length in lengths.items() if length > LONGEST}
