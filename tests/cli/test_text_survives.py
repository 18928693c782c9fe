"""Text that people may write comes out of the files as it went in, and Prometheus takes the files."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitorgen.build import build
from monitorgen.profile import load_profile
from monitorgen.promql import selectors
from monitorgen.prove.files import profile_files

NASTY = [
    "a \"quoted\" 'word'",
    "back\\slash \\n \\",
    "brackets {x} [y] (z) <b>",
    "colon: dash - hash # percent % at @ bang ! star * amp &",
    "5 $ a month, $1 a day",
    "%{HOST} $(id) `id`",
    "- item",
    "yes and no",
    "null and void",
    "0x10 and 010",
    "1e3 things",
    "naïve 日本 🙂",
    "nbsp\u00a0and\u2028line",
    "ends with space \\ ",
    ']] }}{{ "x" }} done',
    "{{ `raw` }} text",
    'it\'s {{ . }} of "{{ 1 }}"',
]


def profile_text(summary, *, label="x", title="Title here", where="x", target="x", job="vllm", value="a:1"):
    """A profile, as data, with text in every place that takes some."""
    return yaml.safe_dump(
        {
            "extends": "baseline",
            "title": title,
            "labels": {"keep": ["cluster", "job", "instance", "model_name"], "target": {"cluster": target}},
            "scrape": {job: {"engine": "vllm", "targets": [value]}},
            "signals": {
                "mine": {
                    "help": title,
                    "family": "vllm:request_success_total",
                    "where": {"finished_reason": [where, "b|c"]},
                },
                "one": {
                    "help": "Something of mine.",
                    "family": "up",
                    "where": {"job": where},
                    "recorded": False,
                },
                "two": {"help": "Something of mine.", "expr": "[[ one ]] * 2", "unit": "bool"},
                "jobs": {
                    "help": "Something of mine.",
                    "expr": "up{[[ job_matcher('vllm') ]]}",
                    "unit": "bool",
                },
            },
            "alerts": {
                "Mine": {
                    "when": "mine > 0.5",
                    "for": "5m",
                    "severity": "info",
                    "summary": summary,
                    "action": "Look at it now.",
                    "labels": {"team": label},
                }
            },
            "dashboard": [{"row": title, "panels": ["mine"]}],
        },
        allow_unicode=False,
    )


def files_of(text):
    """The files that a profile yields, and its bundle."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "p.yaml")
        path.write_text(text, encoding="utf-8")
        made = build(load_profile(str(path)))
        return profile_files(made)[0], made.bundle


def words(text):
    return " ".join(text.split())


@pytest.mark.parametrize("text", NASTY)
def test_text_survives_everywhere(text):
    literal = text.replace("{{", "{").replace("}}", "}")  # where Prometheus expands no templates
    files, bundle = files_of(
        profile_text(
            "Text: " + text,
            label=literal,
            title="T: " + text,
            where=literal,
            target=literal,
            job=words(literal),
        )
    )
    rules = yaml.safe_load(files["rules/alerts.yaml"])["groups"][0]["rules"]
    mine = next(rule for rule in rules if rule["alert"] == "Mine")
    assert mine["annotations"]["summary"] == words("Text: " + text)
    assert mine["labels"]["team"] == literal
    scrape = yaml.safe_load(files["prometheus.yml"])["scrape_configs"]
    assert words(literal) in {job["job_name"] for job in scrape}
    assert {job["static_configs"][0]["labels"]["cluster"] for job in scrape} == {literal}
    records = {rule.signal: rule.expr for rule in bundle.recording_rules}
    assert {m.value for s in selectors(records["two"]) for m in s.matchers} == {literal}
    assert bundle.dashboards[0].title == "T: " + text


def test_promtool_takes_every_text(promtool, tmp_path):
    """All the nasty texts at once, in one profile's worth of files each."""
    for number, text in enumerate(NASTY):
        literal = text.replace("{{", "{").replace("}}", "}")
        files, _ = files_of(
            profile_text(
                "Text: " + text,
                label=literal,
                title="T: " + text,
                where=literal,
                target=literal,
                job=words(literal),
            )
        )
        for name, content in files.items():
            path = tmp_path / str(number) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
    found = sorted(map(str, tmp_path.glob("*/rules/*.yaml")))
    ran = subprocess.run([promtool, "check", "rules", *found], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr + ran.stdout


def test_promtool_takes_every_text_in_a_config(one_promtool, tmp_path):
    for number, text in enumerate(NASTY):
        literal = words(text.replace("{{", "{").replace("}}", "}"))
        files, _ = files_of(profile_text("Something is wrong", target=literal, job=literal))
        path = tmp_path / f"{number}.yaml"
        path.write_text(files["prometheus.yml"].replace("rules/", str(tmp_path / "none")), encoding="utf-8")
    found = sorted(map(str, tmp_path.glob("*.yaml")))
    ran = subprocess.run(
        [one_promtool, "check", "config", "--syntax-only", *found], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr + ran.stdout


# What people can type; brackets and dollars come alone, since pairs of them are templates.
letters = st.characters(exclude_categories=("C", "Z"), exclude_characters="[{$") | st.sampled_from(" \"'\\")
plain = st.lists(letters, min_size=8, max_size=40).map("".join).map(lambda text: f"x{text}x")


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(plain, min_size=6, max_size=6))
def test_any_text_survives(texts):
    summary, action, description, label, where, title = texts
    data = yaml.safe_load(profile_text(summary, label=label, where=where, title=title))
    data["alerts"]["Mine"] |= {"action": action, "description": description}
    files, bundle = files_of(yaml.safe_dump(data))
    rules = yaml.safe_load(files["rules/alerts.yaml"])["groups"][0]["rules"]
    mine = next(rule for rule in rules if rule["alert"] == "Mine")
    assert mine["annotations"]["summary"] == words(summary)
    assert mine["annotations"]["description"] == f"{words(description)} {words(action)}"
    assert mine["labels"]["team"] == label
    records = {rule.signal: rule.expr for rule in bundle.recording_rules}
    assert {m.value for s in selectors(records["two"]) for m in s.matchers} == {where}
    promtool_examples.append(files["rules/alerts.yaml"])


promtool_examples: list[str] = []


def test_promtool_takes_any_text(one_promtool, tmp_path):
    """What the test above made, in one call: a process for each example would take too long."""
    if not promtool_examples:
        test_any_text_survives()
    for number, text in enumerate(promtool_examples[-100:]):
        (tmp_path / f"{number}.yaml").write_text(text, encoding="utf-8")
    found = sorted(map(str, tmp_path.glob("*.yaml")))
    ran = subprocess.run([one_promtool, "check", "rules", *found], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:] + ran.stdout[-2000:]
