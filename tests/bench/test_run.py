"""Runs of real and of broken targets, each in a process of its own."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from monitorgen.bench.artifacts import make_folder, write
from monitorgen.bench.progress import watching
from monitorgen.bench.report import against, markdown, rows
from monitorgen.bench.result import read_run
from monitorgen.bench.runner import Settings, run_target
from monitorgen.bench.session import Origin, run_all
from monitorgen.bench.targets import MONITORING, Chosen
from monitorgen.errors import InputError

QUICK = Settings(iterations=5, warmup=1, timeout=120.0)


def chosen(target, **flags):
    return Chosen(target, list(target.arms), flags)


def session(targets, settings=QUICK):
    heard = []
    made = run_all(
        targets, settings, Path("out"), Origin("abc", False),
        lambda one: lambda arm, done, of: heard.append((one.target.name, arm, done, of)),
    )  # fmt: skip
    return made, heard


def test_a_real_pair(matmul):
    made, heard = session([chosen(matmul, baseline=["--size", "96"], optimized=["--size", "96"])])
    (result,) = made.results
    assert result.ok
    assert (result.compared, result.differences) == (2, [])
    baseline, optimized = result.arms["baseline"], result.arms["optimized"]
    assert len(baseline.samples_ms) == 5
    assert baseline.metrics == {"steps": 6.0, "calls": 6.0 * 96}, "one step to warm up"
    assert baseline.flops == 2 * 96**3
    assert result.speedup("optimized") == baseline.median_ms / optimized.median_ms
    assert result.speedup("optimized") > 1, "96 calls take longer than one"
    assert heard[-1] == ("matmul", "optimized", 6, 6)
    assert made.environment["device"]["threads"] == 1


def test_arms_that_disagree_have_no_speedup(matmul):
    made, _ = session([chosen(matmul, optimized=["--wrong"])])
    (result,) = made.results
    assert not result.ok
    assert result.speedup("optimized") is None
    assert "optimized against baseline: largest[0]: " in result.differences[0]
    assert "the arms disagree" in markdown(made)


def test_roofline_is_measured_in_the_same_run(matmul):
    made, _ = session([chosen(matmul)], Settings("roofline", 5, 1, 120.0))
    arm = made.results[0].arms["optimized"]
    assert set(made.ceilings) == {"copy_gb_per_s", "read_gb_per_s", "bf16_matmul_tflop_per_s"}
    assert all(value > 0 for value in made.ceilings.values())
    seconds = arm.median_ms / 1e3
    assert arm.roofline["tflop_per_s"] == pytest.approx(2 * 64**3 / seconds / 1e12)
    by_bytes = 3 * 4 * 64**2 / made.ceilings["copy_gb_per_s"] / 1e9
    by_flops = 2 * 64**3 / made.ceilings["bf16_matmul_tflop_per_s"] / 1e12
    assert arm.roofline["roofline_share"] == pytest.approx(max(by_bytes, by_flops) / seconds)


def test_deep_dive_leaves_a_chrome_trace(matmul):
    made, _ = session([chosen(matmul)], Settings("deep_dive", 3, 1, 120.0))
    arm = made.results[0].arms["baseline"]
    events = json.loads(Path("out/matmul", arm.trace).read_text())["traceEvents"]
    names = {event.get("name") for event in events}
    assert {"aten::matmul", "aten::mm"} & names
    assert sum(row["calls"] for row in arm.operators if row["name"] in ("aten::mm", "aten::mv")) == 64
    assert "Chrome trace of baseline" in markdown(made)


BROKEN = {
    "flag": ("def prepare(flags): raise UsageError('no such flag --x')", "usage", "no such flag --x"),
    "parser": ("def prepare(flags): sys.exit(2)", "usage", "is not taken (exit code 2)"),
    "raises": ("def prepare(flags): raise RuntimeError('out of\\nluck')", "failed", "RuntimeError: out of"),
    "import": ("import nothing_of_that_name", "missing", "nothing_of_that_name"),
    "exits": ("def prepare(flags): print('I give up'); sys.stdout.flush(); os._exit(3)", "failed",
              "it ended with exit code 3; last it said: I give up"),
    "killed": ("def prepare(flags): os.kill(os.getpid(), signal.SIGKILL)", "failed", "killed by SIGKILL"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_is_told_and_leaves_the_others_alone(small, name):
    text, kind, says = BROKEN[name]
    made, _ = session([chosen(small("broken", only=text)), chosen(small("fine", only=""))])
    broken, fine = made.results
    assert (broken.ok, broken.error["kind"]) == (False, kind)
    assert says in broken.error["text"]
    assert fine.ok
    assert len(fine.arms["only"].samples_ms) == 5


def test_one_that_hangs_is_ended_with_all_it_started(small, ends):
    text = """
import subprocess, time
def prepare(flags):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open("pid", "w").write(str(child.pid))
    child.wait()
"""
    for seconds in (2.0, 20.0, 60.0):  # a busy machine may not even have started the child in time
        ran = run_target(chosen(small(only=text)), Settings(iterations=1, timeout=seconds), Path("out"))
        assert f"more than {seconds:g} s" in ran.result.error["text"]
        if Path("pid").exists():
            break
    assert ends(int(Path("pid").read_text()))


def test_what_it_prints_goes_to_the_log_and_progress_does_not(small):
    run_target(chosen(small(only="print('hello from the arm')")), QUICK, Path("out"))
    assert Path("out/log.txt").read_text() == "hello from the arm\n"


def test_progress_that_nobody_hears_changes_nothing(small):
    text = "def prepare(flags): os.closerange(3, 64); return Run()"  # the pipe too
    ran = run_target(chosen(small(only=text)), QUICK, Path("out"))
    assert ran.result.ok
    assert len(ran.result.arms["only"].samples_ms) == 5


def test_the_bundles_side_by_side():
    made, _ = session([chosen(MONITORING)], Settings(iterations=1, warmup=0, timeout=120.0))
    (result,) = made.results
    assert result.ok
    assert result.speedup("optimized") is None, "two things, not two ways to do one"
    assert result.arms["optimized"].metrics["alerts"] > result.arms["baseline"].metrics["alerts"] > 0


def test_artifacts_hold_every_sample(small):
    made, _ = session([chosen(small(baseline="", optimized=""))])
    folder = make_folder(Path("artifacts"), "")
    (folder / "small").mkdir()
    write(made, folder, markdown(made))
    assert read_run(folder) == made
    picture = ElementTree.fromstring((folder / "small/samples.svg").read_text())
    dots = picture.findall("{http://www.w3.org/2000/svg}circle")
    assert len(dots) == 10
    assert "| small | baseline | cpu |" in (folder / "report.md").read_text()
    with pytest.raises(InputError, match="holds files already"):
        make_folder(folder, "")


def test_a_run_against_itself_is_the_same(small):
    made, _ = session([chosen(small(baseline="", optimized=""))])
    body, notes = against(made, made)
    assert [row[-1] for row in body] == ["the same", "the same"]
    assert notes == []
    assert len(rows(made)) == 2


def test_nothing_is_left_open(small):
    before = len(list(Path("/proc/self/fd").iterdir()))
    run_target(chosen(small(only="")), QUICK, Path("out"))
    run_target(chosen(small("dead", only="os._exit(1)")), QUICK, Path("out"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_bars_and_lines_of_progress(small, monkeypatch, capsys):
    one = chosen(small(only=""))
    for watched, says in [(True, "small only"), (False, "small only: 3 iterations")]:
        monkeypatch.setattr("sys.stderr.isatty", lambda watched=watched: watched)
        with watching() as progress:
            tell = progress(one)
            for done in (1, 2, 3):
                tell("only", done, 3)
        said = capsys.readouterr().err
        assert says in said
        assert ("3/3" in said) == watched
