"""A ledger's file always holds one whole ledger, whatever happens to the disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from monitorgen.errors import InputError
from monitorgen.prove.ledger import Ledger
from monitorgen.prove.saved import DiskFullError, LedgerFile

# A process that may write files of 20 kB at most: what a full disk is, without one. The signal that comes
# with it is Python's to ignore.
LIMITED = """
import resource, sys
from pathlib import Path
from monitorgen.prove.saved import DiskFullError, LedgerFile
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
file = LedgerFile(Path(sys.argv[1]))
file.write("first")
try:
    file.write("x" * 50_000)
except DiskFullError as error:
    print(error.exit_code, error)
"""


def test_each_save_replaces_the_whole_file(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path / "new" / "ledger.json")
    file.prepare()
    assert list(file.path.parent.iterdir()) == []
    for name in ("first", "second"):
        file.save(Ledger(name, ("alert/A/warning",)))
        assert json.loads(file.path.read_text())["bundle"] == name
    assert list(file.path.parent.iterdir()) == [file.path]


def test_what_is_there_survives_preparing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    path.write_text("old")
    LedgerFile(path).prepare()
    assert path.read_text() == "old"


def test_a_full_disk_is_one_line_and_the_old_ledger_stays(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, path], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == ""
    (said,) = done.stdout.splitlines()
    assert said.startswith(f"1 cannot write {path}: ")
    assert said.endswith("(it holds what was saved before)")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_device_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    file = LedgerFile(path)
    file._part.symlink_to("/dev/full")  # where the bytes go first
    with pytest.raises(DiskFullError, match="no space is left on the device"):
        file.write("x")
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_are_refused_before_anything_begins(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "ledger.json"):
        for act in (LedgerFile(path).prepare, lambda path=path: LedgerFile(path).write("x")):
            with pytest.raises(InputError, match="cannot write"):
                act()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="Permission denied"):
        LedgerFile(tmp_path / "ledger.json").prepare()
