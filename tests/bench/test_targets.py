"""How people name targets and give them flags."""

from __future__ import annotations

import pytest

from monitorgen.bench.programs import module_of
from monitorgen.bench.targets import Target, choose, parse_extra
from monitorgen.errors import InputError

ARMS = {"baseline": "b", "optimized": "o"}
TARGETS = (
    Target("graphs", "decode", "", ARMS),
    Target("buckets", "decode", "", ARMS),
    Target("loop", "engine", "", {"loop": "l"}),
)


def picked(text: str, *extra: str) -> dict[str, dict[str, list[str]]]:
    return {
        one.target.name: {arm: one.flags.get(arm, []) for arm in one.arms}
        for one in choose(text, extra, TARGETS)
    }


BOTH: dict[str, list[str]] = {"baseline": [], "optimized": []}
NAMES = [
    ("graphs", {"graphs": BOTH}),
    ("decode:graphs", {"graphs": BOTH}),
    (" graphs , loop", {"graphs": BOTH, "loop": {"loop": []}}),
    ("decode", {"graphs": BOTH, "buckets": BOTH}),
    ("all", {"graphs": BOTH, "buckets": BOTH, "loop": {"loop": []}}),
    ("optimized_graphs", {"graphs": {"optimized": []}}),
    ("graphs_optimized", {"graphs": {"optimized": []}}),
    ("decode:graphs_optimized,graphs_baseline", {"graphs": BOTH}),
    ("graphs,graphs", {"graphs": BOTH}),
]


@pytest.mark.parametrize(("text", "expected"), NAMES, ids=[text for text, _ in NAMES])
def test_names(text, expected):
    assert picked(text) == expected


def test_an_arm_is_also_named_as_its_module():
    flex = Target(
        "flex", "attention", "", {"baseline": "room.baseline_flex", "math": "room.optimized_flex_math"}
    )
    for name in ("optimized_flex_math", "attention:optimized_flex_math", "flex_math", "math_flex"):
        (chosen,) = choose(name, (), (*TARGETS, flex))
        assert (chosen.target, chosen.arms) == (flex, ["math"])
    assert module_of("optimized_flex_math", None, (flex,)) == "room.optimized_flex_math"


def test_flags_go_to_a_target_and_on_top_to_an_arm():
    # The call of the field: both arms named, each with its own flags.
    said = picked(
        "decode:buckets,decode:buckets_optimized",
        "decode:buckets=--vllm-model gpt-oss-20b",
        "decode:buckets_optimized=--vllm-model x --skip-compile-smoke",
    )
    flags = ["--vllm-model", "gpt-oss-20b"]
    assert said["buckets"] == {
        "baseline": flags,
        "optimized": [*flags, "--vllm-model", "x", "--skip-compile-smoke"],
    }


def test_flags_are_split_as_a_shell_does():
    assert parse_extra("a=--text 'two words' --x=1") == ("a", ["--text", "two words", "--x=1"])


BAD = [
    ("graph", (), "no target 'graph' (did you mean 'graphs'?)"),
    ("engine:graphs", (), "no target 'engine:graphs'"),
    ("", (), "empty name"),
    ("graphs,,loop", (), "empty name"),
    ("graphs", ("graphs",), "is not NAME=FLAGS"),
    ("graphs", ("graphs=",), "is not NAME=FLAGS"),
    ("graphs", ("graphs=  ",), "is not NAME=FLAGS"),
    ("graphs", ("=--flag",), "is not NAME=FLAGS"),
    ("graphs", ("--flag v",), "is not NAME=FLAGS"),
    ("graphs", ("graphs=--a 'b",), "no closing quotation"),
    ("graphs", ("graph=--a",), "did you mean 'graphs'?"),
    ("graphs", ("buckets=--a",), "buckets is not among the targets"),
    ("graphs_baseline", ("graphs_optimized=--a",), "that arm is not among the targets"),
    ("graphs", ("graphs=--a", "graphs=--b"), "names graphs twice"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "extra", "says"), BAD, ids=[says for *_, says in BAD])
def test_bad_names_and_flags(text, extra, says):
    with pytest.raises(InputError) as caught:
        choose(text, extra, TARGETS)
    assert says in str(caught.value)


def test_a_program_is_one_arm():
    assert module_of("optimized_graphs", None, TARGETS) == "o"
    assert module_of("graphs", "baseline", TARGETS) == "b"
    assert module_of("loop", None, TARGETS) == "l"
    for name, arm, says in [
        ("graphs", None, "run baseline_graphs or optimized_graphs"),
        ("graphs", "fast", "it has baseline, optimized"),
        ("optimized_graphs", "baseline", "is not the arm"),
        ("optimised_graphs", None, "did you mean 'optimized_graphs'?"),
    ]:
        with pytest.raises(InputError) as caught:
            module_of(name, arm, TARGETS)
        assert says in str(caught.value)
