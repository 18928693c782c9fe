"""Wrong flags and overrides, folders that cannot be written, and what only `check` can find."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

BASE = "extends: baseline\n"


@dataclass(frozen=True)
class Case:
    name: str
    text: str  # with ¦ before the place that the message must name
    says: str
    hint: str = ""


FLAGS = [
    (["--set", "kv_warn"], "--set takes NAME=VALUE", "ttft_p90_warn=400ms"),
    (["--set", "=5"], "--set takes NAME=VALUE", ""),
    (["--set", "kv_warn="], "--set takes NAME=VALUE", ""),
    (["--set", "signals..window=5m"], "--set takes NAME=VALUE", ""),
    (["--set", "kv_wran=95%"], "unknown threshold 'kv_wran'", "did you mean 'kv_warn'?"),
    (["--set", "signal.ttft.window=5m"], "unknown key 'signal'", "did you mean 'signals'?"),
    (["--set", "signals.ttft.windo=5m"], "unknown key 'signals.ttft.windo'", "did you mean 'window'?"),
    (["--set", "signals.ttft.window=5"], "5 is not a duration", "5m"),
    (["--set", "extends=optimized"], "unknown key 'extends'", ""),
    (["--set", "kv_warn=0.9"], "can mean 0.9% or 90%", "write 0.9% or 90%"),
    (["--set", "kv_warn=much"], "'much' is not a number with a unit", ""),
    (["--set", "kv_warn=[1"], "not valid YAML", ""),
    (["--set", "kv_warn=&a 5%"], "anchor", ""),
    (["--set", "thresholds.kv_wran=null"], "nothing of that name to remove", "did you mean 'kv_warn'?"),
    (["--config", "nope.yaml"], "cannot read nope.yaml", ""),
    (["--profile", "nope.yaml"], "no profile 'nope.yaml'", "or give a file"),
    (["--profile", "baselin"], "no profile 'baselin'", "did you mean baseline?"),
]


@pytest.mark.parametrize(("flags", "says", "hint"), FLAGS, ids=[" ".join(flags) for flags, _, _ in FLAGS])
def test_flags(refused, flags, says, hint):
    profile = [] if "--profile" in flags else ["--profile", "baseline"]
    said = refused("build", *profile, *flags, "--out", "out")
    assert says in said
    assert hint in said
    if flags[0] == "--set" and "takes" not in says:
        assert f"--set {flags[1]}" in said


CONFIGS = [
    Case("unknown key", "¦threshold: {}\n", "unknown key 'threshold'", "did you mean 'thresholds'?"),
    Case("extends", "¦extends: optimized\n", "unknown key 'extends'"),
    Case("a list", "¦- a\n", "an overrides file is a mapping of keys"),
    Case("metric name", "metrics:\n  ¦ttft_histo: up\n", "unknown metric name 'ttft_histo'", "'ttft_hist'?"),
    Case(
        "metric of no catalog",
        "metrics:\n  ¦ttft_hist: vllm:ttft\n",
        "no catalog knows the metric 'vllm:ttft'",
    ),
    Case("metric as a number", "metrics:\n  ¦ttft_hist: 5\n", "is the name of a family, or a list"),
    Case("metrics as a list", "¦metrics: [a]\n", "metrics maps names to families"),
    Case(
        "metric of an expression", "metrics:\n  ¦active: up\n", "has no single family", "set signals.active"
    ),
    Case("threshold", "thresholds:\n  ¦kv_wran: 95\n", "no alert uses the threshold", "'kv_warn'?"),
    Case("ambiguous share", "thresholds:\n  ¦kv_warn: 0.9\n", "0.9% or 90%", "write 0.9% or 90%"),
    Case("wrong unit", "thresholds:\n  ¦kv_warn: 5m\n", "cannot be compared with kv_cache_usage.max"),
    Case("nested key", "signals:\n  ttft: {¦windo: 5m}\n", "'signals.ttft.windo'", "'window'?"),
]


@pytest.mark.parametrize("case", CONFIGS, ids=[case.name for case in CONFIGS])
def test_config(refused, marked, case):
    text, place = marked(case.text)
    Path("o.yaml").write_text(text)
    said = refused("build", "-p", "baseline", "--config", "o.yaml", "-o", "out")
    assert said.startswith(f"error: o.yaml:{place}: "), said
    assert case.says in said
    assert case.hint in said


def test_the_out_folder_holds_foreign_files(refused, run):
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    assert "mine.txt" in refused("build", "-p", "baseline", "-o", "out")
    assert run("build", "-p", "baseline", "-o", "out", "--force").code == 0


def test_the_out_folder_is_a_file(run):
    Path("out").write_text("mine")
    ran = run("build", "-p", "baseline", "-o", "out")
    assert ran.code == 2
    assert "'out' is a file" in ran.err
    assert Path("out").read_text() == "mine"


def test_the_out_folder_lies_below_a_file(refused):
    Path("file").write_text("mine")
    assert "file" in refused("build", "-p", "baseline", "-o", "file/out")


def test_a_refused_profile_leaves_the_old_bundle(refused, run):
    Path("p.yaml").write_text(BASE)
    assert run("build", "-p", "p.yaml", "-o", "out").code == 0
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    Path("p.yaml").write_text(BASE + "signalz: {}\n")
    refused("build", "-p", "p.yaml", "-o", "out")
    assert {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["has space.yaml", "ümlaut.yaml", "a.b.yaml", "x" * 60 + ".yaml"])
def test_a_file_whose_name_is_no_name(refused, run, name):
    Path(name).write_text(BASE)
    assert "name: my-profile" in refused("build", "-p", name, "-o", "out")
    Path(name).write_text(BASE + "name: my-profile\n")
    assert run("build", "-p", name, "-o", "out").code == 0


FINDINGS = [
    ("beyond the last bucket", "thresholds: {ttft_p90_warn: 3h}\n", "threshold"),
    ("more than all", "thresholds: {kv_warn: 150%}\n", "threshold"),
    ("below nothing", "thresholds: {ttft_p90_warn: -5s}\n", "threshold"),
    ("a window of one scrape", "signals: {finished: {window: 20s}}\n", "rate-window"),
    (
        "a value that the label never has",
        "signals: {mine: {help: Something of mine., family: vllm:request_success_total, "
        "where: {finished_reason: aborted}}}\n",
        "label-value",
    ),
]


@pytest.mark.parametrize(("text", "check"), [f[1:] for f in FINDINGS], ids=[f[0] for f in FINDINGS])
def test_what_can_be_built_and_is_not_right(run, text, check):
    """No error of form: `check` finds it, and points at the profile."""
    Path("p.yaml").write_text(BASE + text)
    ran = run("check", "-p", "p.yaml", "--level", "static", "--format", "json")
    assert ran.code == 1, ran.out[:500]
    assert f'"check": "{check}' in ran.out
