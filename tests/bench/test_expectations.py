"""Expectations: what is written, what is refused, and what a run must be short of to fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monitorgen.bench import expectations
from monitorgen.bench.report import against
from monitorgen.bench.result import Arm, BenchRun, Provenance, Result, tolerance
from monitorgen.errors import InputError

FOLDER = Path("expectations")


def arm(median, *, spread=0.0, share=None, flags=(), digest="d"):
    """An arm whose quartiles lie `spread` of the median apart on either side."""
    samples = [median * (1 - spread), median, median * (1 + spread)]
    roofline = {} if share is None else {"roofline_share": share}
    return Arm("m", list(flags), "cuda", samples, digest=digest, roofline=roofline, metrics={"captures": 3.0})


def made(arms=None, *, name="graphs", differences=(), **by):
    arms = arms or {"baseline": arm(20.0), "optimized": arm(10.0)}
    given = {
        "git_commit": "abc",
        "hardware_key": "h100",
        "profile_name": "none",
        "timestamp": "t",
        "iterations": 3,
        "warmup_iterations": 1,
        **by,
    }
    result = Result(name, "decode", True, arms, compared=1, differences=list(differences))
    return BenchRun(Provenance(**given), {}, [result])


def test_the_file():
    path = expectations.update(FOLDER, made({"baseline": arm(20.0), "optimized": arm(10.0, share=0.8)}))
    data = json.loads(path.read_text())
    assert path.name == "h100.json"
    assert (data["schema_version"], data["hardware_key"]) == (1, "h100")
    example = data["examples"]["graphs"]
    assert example["metrics"]["baseline_time_ms"] == 20.0
    assert example["metrics"]["best_optimized_time_ms"] == 10.0
    assert example["metrics"]["best_speedup"] == 2.0
    assert example["metrics"]["optimized_roofline_share"] == 0.8
    assert example["metrics"]["optimized_captures"] == 3.0
    assert example["provenance"] == {
        "git_commit": "abc",
        "hardware_key": "h100",
        "profile_name": "none",
        "timestamp": "t",
        "iterations": 3,
        "warmup_iterations": 1,
    }


REFUSED = [
    ("dirty", {"dirty": True}, (), "files differ from it"),
    ("no commit", {"git_commit": ""}, (), "say --git-commit"),
    ("other commit", {"git_commit": "def", "name": "loop"}, (), "mix the commit of its examples: abc, def"),
    ("other profile", {"profile_name": "minimal", "name": "loop"}, (), "mix the profile of its examples"),
    (
        "both",
        {"profile_name": "minimal", "git_commit": "def", "name": "loop"},
        ("commit",),
        "mix the profile",
    ),
    ("disagree", {"differences": ["x"]}, (), "failed or disagree: graphs"),
]


@pytest.mark.parametrize(
    ("by", "mixed", "says"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_refused(by, mixed, says):
    before = expectations.update(FOLDER, made()).read_text()
    with pytest.raises(InputError) as caught:
        expectations.update(FOLDER, made(**by), mixed)
    assert says in str(caught.value)
    assert [path.read_text() for path in FOLDER.iterdir()] == [before]


def test_mixed_hardware_in_one_file():
    path = expectations.update(FOLDER, made())
    data = json.loads(path.read_text())
    data["examples"]["graphs"]["provenance"]["hardware_key"] = "h200"
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match="mix the hardware"):
        expectations.update(FOLDER, made(name="loop"))
    assert expectations.update(FOLDER, made(name="loop"), ["hardware"]) == path


def test_mixed_when_said():
    expectations.update(FOLDER, made())
    expectations.update(
        FOLDER, made(name="loop", git_commit="def", profile_name="roofline"), ["commit", "profile"]
    )
    assert set(expectations.load(FOLDER, "h100")) == {"graphs", "loop"}


def test_the_same_target_is_replaced_without_mixing():
    expectations.update(FOLDER, made())
    expectations.update(FOLDER, made(git_commit="def"))
    assert expectations.load(FOLDER, "h100")["graphs"]["provenance"]["git_commit"] == "def"


GATES = [
    ("as expected", arm(20.0), arm(10.0), [], []),
    ("within noise", arm(20.9), arm(10.4), [], []),
    ("one slower", arm(20.0), arm(10.6), ["graphs optimized: 10.6 ms is 6.0% more"], []),
    # A gate on speedup would see nothing here.
    ("both slower alike", arm(24.0), arm(12.0), ["graphs baseline: 24 ms", "graphs optimized: 12 ms"], []),
    ("slower, and noisy", arm(20.0), arm(12.0, spread=0.1), [], []),
    ("faster", arm(20.0), arm(9.0), [], ["graphs optimized: 9 ms, 10 ms expected: renew"]),
    ("less of the roofline", arm(20.0), arm(10.0, share=0.7), ["70.0% of the roofline, 80.0% expected"], []),
    ("other flags", arm(20.0), arm(99.0, flags=["--x"]), [], ["which has other flags"]),
]


@pytest.mark.parametrize(
    ("base", "best", "short", "notes"), [row[1:] for row in GATES], ids=[row[0] for row in GATES]
)
def test_gate(base, best, short, notes):
    expected = made({"baseline": arm(20.0), "optimized": arm(10.0, share=0.8)})
    expectations.update(FOLDER, expected)
    said = expectations.gate(made({"baseline": base, "optimized": best}), expectations.load(FOLDER, "h100"))
    for lines, wanted in zip(said, (short, notes), strict=True):
        assert len(lines) == len(wanted), lines
        assert all(text in line for text, line in zip(wanted, lines, strict=True)), lines


def test_other_hardware_is_not_gated():
    expectations.update(FOLDER, made())
    short, notes = expectations.gate(made(), expectations.load(FOLDER, "b200"))
    assert short == []
    assert "nothing is expected of" in notes[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot read"),
        ("[]", "no expectations of schema"),
        ('{"schema_version": 2}', "of schema 1"),
        ('{"schema_version": 1, "hardware_key": "x"}', "is of 'x', not of 'h100'"),
        ('{"schema_version": 1, "hardware_key": "h100", "examples": {"a": {}}}', "every example has metrics"),
    ],
)
def test_broken_files(text, says):
    FOLDER.mkdir()
    (FOLDER / "h100.json").write_text(text)
    with pytest.raises(InputError) as caught:
        expectations.load(FOLDER, "h100")
    assert says in str(caught.value)


def test_tolerance_is_three_times_both_spreads():
    assert tolerance(0.0, 0.0) == 0.05
    assert tolerance(0.03, 0.04) == pytest.approx(0.15)
    # Quartiles of three samples lie halfway to the outer ones: 0.1 of the median apart, so sigma is 0.0741.
    assert arm(10.0, spread=0.1).sigma == pytest.approx(0.1 / 1.349)
    assert arm(10.0).sigma == 0
    assert Arm("m", [], "cpu", [5.0]).sigma == 0


COMPARED = [
    ("slower", arm(10.0), arm(11.0), "slower"),
    ("faster", arm(11.0), arm(10.0), "faster"),
    ("noise", arm(10.0, spread=0.1), arm(11.0), "the same"),
    ("results", arm(10.0), arm(10.0, digest="e"), "the same, OTHER RESULTS"),
    ("flags", arm(10.0), arm(10.0, digest="e", flags=["--x"]), "the same, other flags"),
]


@pytest.mark.parametrize(
    ("one", "other", "verdict"), [row[1:] for row in COMPARED], ids=[row[0] for row in COMPARED]
)
def test_run_against_run(one, other, verdict):
    body, notes = against(made({"only": one}), made({"only": other}, hardware_key="h200"))
    assert [row[-1] for row in body] == [verdict]
    assert notes == ["hardware differs: h100, and h200"]
    assert against(made(name="a"), made(name="b"))[1] == [
        "b is in the second run only",
        "a is in the first run only",
    ]
