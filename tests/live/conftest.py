"""The bundle under live proof, as a user gets it: written by the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from monitorgen.prove.questions import Subject, subject_of_folder


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The written bundle of the profile `optimized`; MONITORGEN_LIVE_BUNDLE names another one."""
    if given := os.environ.get("MONITORGEN_LIVE_BUNDLE"):
        return Path(given)
    out = tmp_path_factory.mktemp("live") / "bundle"
    command = [sys.executable, "-m", "monitorgen", "build", "--profile", "optimized", "--out", out]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return out


@pytest.fixture(scope="session")
def subject(bundle: Path) -> Subject:
    """What is asked of the bundle."""
    return subject_of_folder(bundle)
