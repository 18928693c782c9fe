"""Whatever a string holds, YAML gives it back: to Python here, to Prometheus's own parser below."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from monitorgen.bundle import AlertRule, RecordingRule, RuleGroup, pairs
from monitorgen.targets.prometheus import rule_files
from monitorgen.targets.yaml_text import yaml_text

NASTY = [
    "", " ", "yes", "No", "on", "off", "null", "~", "true", "y", "1", "1e3", "0x1F", "0o7", "1_000",
    "-1", ".5", ".inf", "+.inf", ".nan", "NaN", "2001-01-01", "2001-12-14t21:59:43.10-05:00", "1:30",
    "<<", "=", "- a", "-", "---", "...", "a: b", "a #b", "#b", "{{ $labels.x }}", "[a]", "{a: b}", "*a",
    "&a", "!a", "%a", "@a", "`a`", "|", ">", "? a", "'", '"', "a'b\"c", "\\", "\\n", "a\nb", "a\n",
    "\na", "a\n\nb", "a\n\n", "  a\nb", "a \nb", "a\n  b\n c", "\ta", "a\tb", "a\rb", "a\r\nb", "\x00",
    "\x1b[0m", "\x7f", "\x85", "\u2028", "\ufeff", "é", "日本", "😀", "a" * 300, "word " * 60,
    "a\nkey: value", "a\n# b", "a\n---\nb", "a\n...\n", "trailing ", ": ", "a:", "x" + " " * 200 + "y",
]  # fmt: skip

texts = st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(NASTY))
trees = st.recursive(
    st.one_of(
        texts, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none()
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)


@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_a_nasty_string_survives_as_key_value_and_item(text):
    tree = {"k": text, "list": [text, [text]], "map": {text: {"in": text}}}
    assert yaml.safe_load(yaml_text(tree)) == tree


@given(trees)
def test_any_tree_survives(tree):
    assert yaml.safe_load(yaml_text({"tree": tree})) == {"tree": tree}


@given(trees, st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_a_header_is_only_a_comment(tree, header):
    assert yaml.safe_load(yaml_text({"tree": tree}, header=header)) == {"tree": tree}


def test_equal_values_get_no_anchors():
    shared = ["x"]
    assert "&" not in yaml_text({"a": shared, "b": shared})


def test_long_strings_stay_on_one_line():
    assert yaml_text({"expr": "word " * 99 + "end"}).count("\n") == 1


def test_several_lines_are_a_literal_block():
    assert yaml_text({"expr": "sum(\n  x\n)"}) == "expr: |-\n  sum(\n    x\n  )\n"


@pytest.mark.parametrize(
    ("number", "text"), [(15.0, "15"), (0.5, "0.5"), (1e-9, "1.0e-09"), (-3.0, "-3"), (2**60, str(2**60))]
)
def test_numbers_read_back_as_numbers(number, text):
    written = yaml_text({"number": number})
    assert written == f"number: {text}\n"
    assert float(yaml.safe_load(written)["number"]) == number


def prometheus_takes(text: str) -> bool:
    """Label values and annotations are templates there, so those with braces are left out."""
    return "{{" not in text


def test_promtool_reads_the_same_labels_and_annotations(promtool: Path, tmp_path: Path):
    """An alert with every nasty text as a label and an annotation fires with exactly these."""
    texts_ = {f"t{i}": text for i, text in enumerate(NASTY) if text and prometheus_takes(text)}
    rule = AlertRule("Nasty", "vector(1)", labels=pairs(texts_), annotations=pairs(texts_))
    record = RecordingRule("a:b:c", "vector(1)", labels=pairs(texts_))
    groups = [RuleGroup("g", (rule, record), interval=15.0, file="rules.yaml")]
    (tmp_path / "rules.yaml").write_text(rule_files(groups)["rules.yaml"], encoding="utf-8")
    # The expectation is written as JSON, not with the writer under test.
    expected = {"exp_labels": texts_, "exp_annotations": texts_}
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "15s",
        "tests": [{"alert_rule_test": [{"eval_time": "1m", "alertname": "Nasty", "exp_alerts": [expected]}]}],
    }
    as_json = json.dumps(test).replace(json.dumps("😀").strip('"'), "\\U0001F600")  # YAML has no surrogates
    (tmp_path / "test.yaml").write_text(as_json, encoding="utf-8")
    run = subprocess.run(
        [promtool, "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
