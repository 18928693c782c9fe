"""`monitorgen bench` and `monitorgen workload`, as a person types them."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from monitorgen.cli import main


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["monitorgen", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        return stopped.value.code or 0, said.out, said.err

    return run


QUICK = ["--iterations", "3", "--warmup", "0"]
SLOWER = "def prepare(flags):\n    run = Run()\n    run.step = lambda: sum(range(20000))\n    return run"
WRONG = "Run.outcome = lambda self: Outcome(exact={'tokens': [1, 2, 4]})"


def test_list_targets(call, only, small):
    only(small(baseline="", optimized=""))
    code, out, _ = call("bench", "list-targets")
    assert code == 0
    assert out.splitlines()[1].startswith("plain:small  baseline, optimized  Does nothing.")
    assert call("bench", "list-targets", "--group", "plain")[1] == out
    code, out, err = call("bench", "list-targets", "--group", "plane")
    assert (code, out) == (2, "")
    assert "groups are plain" in err


def test_the_bundled_targets_are_listed(call):
    assert "monitoring:vllm_monitoring" in call("bench", "list-targets")[1]
    assert "vllm_monitoring" in call("workload", "list")[1]


def test_run_prints_a_table_and_leaves_artifacts(call, only, small):
    only(small(baseline=SLOWER, optimized=""))
    code, out, err = call("bench", "run", "-t", "small", *QUICK, "--out", "out", "--format", "both")
    assert code == 0, err
    assert "small: the arms agree on 1 results" in out
    assert {path.name for path in Path("out").iterdir()} == {"run.json", "report.md", "report.json", "small"}
    told = json.loads(Path("out/report.json").read_text())
    assert told["targets"][0]["arms"]["optimized"]["speedup"] > 1
    code, out, _ = call("bench", "compare", "out")
    assert code == 0
    assert "the arms agree" in out
    assert call("bench", "compare", "out", "out/run.json")[0] == 0


def test_json_is_all_that_is_printed(call, only, small):
    only(small(baseline="", optimized=""))
    code, out, _ = call("bench", "run", "-t", "all", *QUICK, "--format", "json", "--profile", "minimal")
    assert code == 0
    assert json.loads(out)["provenance"]["profile_name"] == "minimal"


def test_arms_that_disagree_fail(call, only, small):
    only(small(baseline="", optimized=WRONG))
    code, out, _ = call("bench", "run", "-t", "small", *QUICK, "--out", "out")
    assert code == 1
    assert "the arms disagree, so no speedup: optimized against baseline: tokens[2]: 3, and 4" in out
    assert call("bench", "compare", "out")[0] == 1


def test_dry_run_runs_nothing(call, only, small):
    only(small(baseline="raise SystemExit(9)"))
    code, out, _ = call("bench", "run", "-t", "small", "--dry-run", "--target-extra-arg", "small=--a 'b c'")
    assert code == 0
    assert "plain:small baseline: baseline_small --a 'b c'" in out
    assert not Path("artifacts").exists()


def test_expectations_are_written_and_hold(call, only, small):
    only(small(baseline=SLOWER, optimized=""))
    run = ["bench", "run", "-t", "baseline_small", *QUICK, "--expectations", "e", "--git-commit", "abc"]
    code, _, err = call(*run, "--update-expectations", "--out", "a")
    assert code == 0, err
    (path,) = Path("e").iterdir()
    data = json.loads(path.read_text())
    assert data["examples"]["small"]["provenance"]["git_commit"] == "abc"
    data["examples"]["small"]["metrics"] |= {"baseline_time_ms": 1e-6, "baseline_spread": 0.0}
    path.write_text(json.dumps(data))
    code, _, err = call(*run, "--out", "b")
    assert code == 1
    assert "short of expectations: small baseline" in err
    assert call(*run, "--out", "c", "--no-gate")[0] == 0


BAD = [
    (["-t", "smal"], "did you mean 'small'?"),
    (["-t", "small", "--target-extra-arg", "small"], "is not NAME=FLAGS"),
    (["-t", "small", "--target-extra-arg", "small=--nope"], "small (baseline): no such flag --nope"),
    (["-t", "small", "--out", "full"], "full holds files already"),
]


@pytest.mark.parametrize(("flags", "says"), BAD, ids=[says for _, says in BAD])
def test_bad_input(call, only, small, flags, says):
    refuses = (
        "def prepare(flags):\n    if flags: raise UsageError('no such flag ' + flags[0])\n    return Run()"
    )
    only(small(baseline=refuses))
    Path("full").mkdir()
    Path("full/x").write_text("")
    code, _, err = call("bench", "run", *QUICK, *flags)
    assert code == 2
    assert err.splitlines()[-1].startswith("error: ")
    assert says in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "cannot read"), ("{", "is not JSON"), ("[]", "is no bench run"),
     ('{"schema_version": 1, "results": [], "provenance": {}}', "is no whole bench run")],
)  # fmt: skip
def test_compare_refuses_what_is_no_run(call, text, says):
    if text is not None:
        Path("run.json").write_text(text)
    code, out, err = call("bench", "compare", "run.json")
    assert (code, out) == (2, "")
    assert says in err


def test_without_torch_nothing_starts(call, only, matmul, monkeypatch):
    only(matmul)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    code, _, err = call("bench", "run", "-t", "matmul")
    assert (code, err.count("\n")) == (3, 1)
    assert "pip install 'monitorgen[workloads]'" in err
    assert not Path("artifacts").exists()


def test_workload_run(call, only, matmul):
    only(matmul)
    assert call("workload", "run", "baseline_matmul")[:2] == (0, "64 calls\n")
    assert call("workload", "run", "matmul", "--arm", "optimized")[:2] == (0, "1 calls\n")
    assert call("workload", "run", "optimized_matmul", "--size", "8")[:2] == (0, "1 calls\n")
    for arguments, says in [
        (["matmull"], "did you mean 'matmul'?"),
        (["matmul"], "run baseline_matmul or optimized_matmul"),
        (["matmul", "--arm", "best"], "it has baseline, optimized"),
    ]:
        code, _, err = call("workload", "run", *arguments)
        assert (code, says in err) == (2, True)


PROGRAMS = [
    ("def main(argv): return 7", 7, ""),
    ("def main(argv): return 0 if argv == ['--help', '--prom-port', '9300'] else 1", 0, ""),
    ("def main(argv): raise UsageError('port 9300 is in use')", 2, "error: port 9300 is in use"),
    ("import torch.nothing_of_that_name", 3, "needs torch, which is not installed"),
    (
        "def main(argv): from vllm import nothing\nsys.modules['vllm'] = None",
        3,
        "pip install 'monitorgen[vllm]'",
    ),
]


@pytest.mark.parametrize(("text", "code", "says"), PROGRAMS, ids=[text[:40] for text, *_ in PROGRAMS])
def test_a_programs_exit_code_is_kept(call, only, small, monkeypatch, text, code, says):
    monkeypatch.delitem(sys.modules, "only_small", raising=False)
    if "sys.modules" in text:
        monkeypatch.setitem(sys.modules, "vllm", None)
    only(small(only=text))
    got, _, err = call("workload", "run", "only_small", "--help", "--prom-port", "9300")
    assert got == code, err
    assert says in err


def test_the_bundle_by_the_field_s_name(call):
    code, out, err = call("workload", "run", "baseline_vllm_monitoring", "--outdir", "bundle")
    assert code == 0, err
    assert "bundle: " in out
    assert Path("bundle/rules/alerts.yaml").is_file()
