"""A bundle on disk: whole or not at all, whatever goes wrong in between."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from monitorgen.errors import InputError
from monitorgen.targets import writer
from monitorgen.targets.manifest import check_name
from monitorgen.targets.writer import compare, read_manifest, verify, write

OLD = {"a.txt": "old", "rules/r.yaml": "groups: []\n"}
NEW = {"a.txt": "new", "dashboards/d.json": b"{}\n"}


def content(out: Path) -> dict[str, str]:
    """Every file but the manifest."""
    return {
        path.relative_to(out).as_posix(): path.read_text()
        for path in out.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }


def left_beside(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir() if path != out)


def as_text(files) -> dict[str, str]:
    return {name: text if isinstance(text, str) else text.decode() for name, text in files.items()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "here" / "dist"


def test_the_folder_holds_exactly_what_was_given(out):
    write(OLD, out)
    write(NEW, out)
    assert content(out) == as_text(NEW)
    assert left_beside(out) == []
    assert verify(out) == []


def test_the_manifest_lists_digests_and_what_is_said(out):
    manifest = write({"b": "x", "a": ""}, out, about={"generator": {"name": "m", "version": "1"}})
    assert [(e.path, e.size) for e in manifest.files] == [("a", 0), ("b", 1)]
    assert manifest.files[1].sha256 == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    assert read_manifest(out) == manifest
    assert manifest.about["generator"]["version"] == "1"


def test_the_same_files_give_the_same_bytes_and_touch_nothing(out):
    write(OLD, out)
    first = {path: (path.stat().st_ino, path.read_bytes()) for path in out.rglob("*") if path.is_file()}
    write(dict(reversed(OLD.items())), out)
    assert {
        path: (path.stat().st_ino, path.read_bytes()) for path in out.rglob("*") if path.is_file()
    } == first


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/x", "a//b", "", ".", "a/.", "a\\b", "a\nb", "\0", "\ud800", "x" * 256]
)
def test_names_that_leave_the_folder_are_refused(out, name):
    with pytest.raises(InputError):
        write({name: "x"}, out)
    assert not out.exists()


@pytest.mark.parametrize("name", ["a", "a/b", "..a", "a..b", "é.json", ".hidden"])
def test_harmless_names_pass(name):
    check_name(name)


@pytest.mark.parametrize("files", [{"manifest.json": ""}, {"a": "", "a/b": ""}])
def test_files_that_clash_are_refused(out, files):
    with pytest.raises(InputError):
        write(files, out)
    assert not out.exists()


@pytest.mark.parametrize("foreign", ["notes.txt", "rules/mine.yaml", "link", "folder-link"])
def test_a_folder_with_files_of_others_is_not_replaced(out, foreign):
    write(OLD, out)
    if "link" in foreign:
        (out / foreign).symlink_to(out.parent)
    else:
        (out / foreign).write_text("mine")
    with pytest.raises(InputError, match=foreign) as error:
        write(NEW, out)
    assert "--force" in error.value.hint
    assert content(out).items() >= OLD.items()
    write(NEW, out, force=True)
    assert content(out) == as_text(NEW)
    assert out.parent.is_dir()


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"format": 1}', '{"format": 9, "files": []}', '{"format": 1, "files": [{}]}']
)
def test_a_damaged_manifest_vouches_for_nothing(out, damage):
    write(OLD, out)
    (out / "manifest.json").write_text(damage)
    with pytest.raises(InputError, match=r"a\.txt"):
        write(NEW, out)
    with pytest.raises(InputError):
        read_manifest(out)


def test_a_manifest_that_points_outside_is_refused(out):
    write(OLD, out)
    text = (out / "manifest.json").read_text()
    (out / "manifest.json").write_text(text.replace("rules/r.yaml", "../r.yaml"))
    with pytest.raises(InputError):
        verify(out)


@pytest.mark.parametrize("force", [False, True])
def test_links_files_repositories_and_the_own_folder_are_refused(out, force, monkeypatch):
    write(OLD, out)
    link = out.parent / "link"
    link.symlink_to(out)
    with pytest.raises(InputError, match="symbolic link"):
        write(NEW, link, force=force)
    with pytest.raises(InputError, match="is a file"):
        write(NEW, out / "a.txt", force=force)
    (out / ".git").mkdir()
    with pytest.raises(InputError, match="git"):
        write(NEW, out, force=force)
    (out / ".git").rmdir()
    monkeypatch.chdir(out / "rules")
    with pytest.raises(InputError, match="you are in"):
        write(NEW, out, force=force)
    assert content(out) == OLD


def test_a_link_inside_is_never_followed(out, tmp_path):
    write(OLD, out)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "r.yaml").write_text(OLD["rules/r.yaml"])
    shutil.rmtree(out / "rules")
    (out / "rules").symlink_to(outside)
    assert verify(out) == ["rules/r.yaml: is missing", "rules: is not in the manifest"]
    with pytest.raises(InputError, match="holds rules"):
        write(NEW, out)
    write(NEW, out, force=True)
    assert (outside / "r.yaml").exists()


def test_verify_names_each_problem(out):
    assert "no manifest.json" in verify(out)[0]
    write({**OLD, "gone": "x"}, out)
    (out / "a.txt").write_text("edited")
    (out / "gone").unlink()
    (out / "more").write_text("")
    assert verify(out) == [
        "a.txt: was changed after it was written",
        "gone: is missing",
        "more: is not in the manifest",
    ]


def test_compare_shows_what_a_write_would_change(out):
    write({"same": "s", "changed": "one\ntwo\n", "extra": "e"}, out)
    found = compare({"same": "s", "changed": "one\nthree\n", "missing": "m"}, out)
    assert [(d.path, d.kind) for d in found] == [
        ("changed", "changed"),
        ("extra", "extra"),
        ("missing", "missing"),
        ("manifest.json", "changed"),
    ]
    assert "-two\n+three" in found[0].diff
    assert compare({"a": ""}, out.parent / "nowhere")[0].kind == "missing"
    write({"a": ""}, out)
    assert compare({"a": ""}, out) == []
    assert [d.path for d in compare({"a": ""}, out, about={"profile": "p"})] == ["manifest.json"]


def test_a_long_diff_is_cut(out):
    write({"a": "\n".join(map(str, range(1000)))}, out)
    diff = compare({"a": "\n".join(f"x{i}" for i in range(1000))}, out)[0].diff
    assert len(diff.splitlines()) == 41
    assert diff.endswith("lines more")


def test_a_second_writer_stops(out):
    write(OLD, out)
    lock = os.open(out.parent / ".dist.monitorgen-lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(InputError, match="another process"):
        write(NEW, out)
    os.close(lock)
    write(NEW, out)
    assert content(out) == as_text(NEW)


STEPS = ["open", "mkdir", "rename", "rename2", "fsync", "write"]


def failing(monkeypatch, step: str, action) -> None:
    """Make one step of writing call `action` instead; `rename2` is the second rename."""
    if step == "fsync":
        monkeypatch.setattr(writer.os, "fsync", action)
    elif step == "write":
        original = Path.open

        def opened(self, *args, **kwargs):
            if args == ("xb",) and self.name == "d.json":
                action()
            return original(self, *args, **kwargs)

        monkeypatch.setattr(Path, "open", opened)
    elif step == "open":
        monkeypatch.setattr(writer.os, "open", action)
    elif step == "mkdir":
        original_mkdir = Path.mkdir

        def mkdir(self, *args, **kwargs):
            if self.name == ".dist.monitorgen-new":
                action()
            return original_mkdir(self, *args, **kwargs)

        monkeypatch.setattr(Path, "mkdir", mkdir)
    else:
        original_rename = Path.rename
        source = "dist" if step == "rename" else ".dist.monitorgen-new"

        def rename(self, target):
            if self.name == source:
                action()
            return original_rename(self, target)

        monkeypatch.setattr(Path, "rename", rename)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_when_the_disk_fails_the_old_bundle_stays(out, monkeypatch, step, number):
    write(OLD, out)

    def fail(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        failing(patched, step, fail)
        with pytest.raises(InputError, match=os.strerror(number)):
            write(NEW, out)
    assert content(out) == OLD
    assert verify(out) == []
    assert [name for name in left_beside(out) if "lock" not in name] == []
    write(NEW, out)
    assert content(out) == as_text(NEW)


CHILD = """
import os, signal, sys
sys.path[:0] = [{here!r}]
from pathlib import Path
from monitorgen.targets import writer
step, out = sys.argv[1], Path(sys.argv[2])
die = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
rename, rmtree, fsync = Path.rename, writer.shutil.rmtree, os.fsync
def renamed(self, target):
    if step == "before-aside" and self.name == "dist" or step == "between" and "new" in self.name: die()
    rename(self, target)
    if step == "after-swap" and "new" in self.name: die()
Path.rename = renamed
if step == "writing": os.fsync = die
if step == "removing":
    def rmtree_(path, **k):
        if "old" in path.name: os.unlink(path / "a.txt"); die()
        rmtree(path, **k)
    writer.shutil.rmtree = rmtree_
writer.write({{"a.txt": "new", "dashboards/d.json": b"{{}}\\n"}}, out)
"""


@pytest.mark.parametrize(
    ("step", "after"),
    [("writing", OLD), ("before-aside", OLD), ("between", OLD), ("after-swap", NEW), ("removing", NEW)],
)
def test_a_killed_writer_leaves_the_old_bundle_or_the_new_one(out, step, after):
    write(OLD, out)
    root = str(Path(writer.__file__).parents[2])
    child = subprocess.run([sys.executable, "-c", CHILD.format(here=root), step, str(out)], check=False)
    assert child.returncode == -signal.SIGKILL
    assert verify(out) == []
    assert content(out) == as_text(after)
    write(NEW, out)
    assert content(out) == as_text(NEW)
    assert left_beside(out) == []
