"""What is no YAML, no template, no PromQL, or much too much of it: refused at its place, in no time."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest
from broken_profiles import BASE, HERE, Case, alert, expr

TEMPLATES = [
    Case(
        "undefined name",
        alert().replace("summary: Something", "¦summary: '[[ nope ]]'#"),
        "'nope'",
        "known are",
    ),
    Case("cut off", expr("'[[ running '"), "not a valid template"),
    Case("empty block", expr("'[% if %]'"), "not a valid template"),
    Case("class of a signal", expr("'[[ ttft.__class__.__mro__ ]]'"), "not allowed", "[[ name ]]"),
    Case("class of a text", expr("\"[[ ''.__class__ ]]\""), "not allowed"),
    Case("format", expr("\"[[ '{0.__class__}'.format(running) ]]\""), "not allowed"),
    Case("attr", expr("\"[[ running | attr('_plan') ]]\""), "not allowed"),
    Case("a private part", expr("'[[ running._plan ]]'"), "not allowed"),
    Case("a billion turns", expr("'[% for i in range(10**9) %]x[% endfor %]'"), "not allowed"),
    Case("a billion letters", expr("\"[[ 'a' * 10**9 ]]\""), "not allowed"),
    Case("a billion spaces", expr("\"[[ 'a'.center(10**9) ]]\""), "not allowed"),
    Case("a power of a power", expr("'[[ 9**9**9 ]]'"), "not allowed"),
    Case("a format of a billion", expr("\"[[ '%1000000000d' % 1 ]]\""), "not allowed"),
    Case("a filter of a billion", expr("\"[[ 'a' | center(1000000000) ]]\""), "not allowed"),
    Case(
        "doubling",
        expr("'[% set x = 'ab' %]" + "[% set x = x ~ x %]" * 40 + "'").replace("'ab'", '"ab"'),
        "not",
    ),
    Case(
        "a macro of itself", expr("'[% macro f() %][[ f() ]][[ f() ]][% endmacro %][[ f() ]]'"), "not allowed"
    ),
    Case("a file", expr("\"[% include '/etc/passwd' %]\""), "not allowed"),
    Case("a module", expr("\"[% import 'os' as os %]\""), "not allowed"),
    Case("a call of a signal", expr("'[[ running() ]]'"), "running is no function"),
    Case("an index", expr("'[[ running[0] ]]'"), "not allowed"),
    Case("a deep chain", expr("'[[ running" + " and running" * 3000 + " ]]'"), "not a valid template"),
    Case("a deep nest", expr("'[[ " + "(" * 5000 + "running" + ")" * 5000 + " ]]'"), "not a valid template"),
    Case("an engine of nobody", expr("\"up{[[ job_matcher('vlm') ]]}\""), "the engine 'vlm'", "engine: vlm"),
    Case("no engine", expr("'up{[[ job_matcher() ]]}'"), "job_matcher takes one text"),
    Case(
        "Go: never closed", alert().replace("summary: Some", "¦summary: 'a {{ $labels.x' #"), "never closed"
    ),
    Case(
        "Go: no such label",
        alert().replace("summary: Some", "¦summary: 'of {{ $labels.modelname }}' #"),
        "$labels.modelname",
        "it has job, instance, model_name",
    ),
    Case(
        "Go: no such function",
        alert().replace("summary: Some", "¦summary: 'at {{ $value | human }}' #"),
        "'human'",
    ),
    Case("Go: in a label", alert(more="    labels: {¦team: '{{ end }}'}\n"), "labels: "),
]

PROMQL = [
    ("sum by (job (up)", "sum by (job (up)\n       ^ this '(' is never closed"),
    (
        "'[[ running ]] +'",
        "model:vllm_running:sum_avg_5m +\n                              ^ the expression stops",
    ),
    ("'up[5m'", "up[5m\n  ^"),
    ("' '", "the expression is empty"),
    ("'rate(up)'", "rate(up)\n"),
]

YAML = [
    Case("alias", BASE + "labels: {keep: [job], target: {x: ¦*a}}\n", "alias"),
    Case("anchor", BASE + "title: ¦&a x\n", "anchor &a", "write the value out"),
    Case("merge key", BASE + "labels: {¦<<: {keep: [job]}}\n", "merge key", "use extends:"),
    Case("python tag", BASE + "title: ¦!!python/object:os.system x\n", "tag !!python/object:os.system"),
    Case("python call", BASE + "title: ¦!!python/object/apply:os.system ['id']\n", "is not allowed"),
    Case("own tag", BASE + "title: ¦!foo x\n", "the tag !foo is not allowed"),
    Case("plain tag", BASE + "title: ¦!!str 5\n", "the tag !!str is not allowed"),
    Case("key twice", BASE + "title: a\n¦title: b\n", "'title' stands here twice", "remove one"),
    Case("key twice within", BASE + "thresholds:\n  a1: 1\n  ¦a1: 2\n", "'a1' stands here twice"),
    Case("tab", BASE + "thresholds:\n¦\tkv_warn: 5%\n", "a tab", "spaces"),
    Case("empty file", "¦", "a profile is a mapping", "profile new"),
    Case("a list", "¦- a\n", "a profile is a mapping"),
    Case("a text", "¦hello\n", "a profile is a mapping"),
    Case("two documents", "title: a\n¦---\ntitle: b\n", "expected a single document"),
    Case(
        "deep brackets", "title: " + "[" * 39 + "¦" + "[" * 100_000 + "]" * 100_039, "nested deeper than 40"
    ),
    Case("deep mappings", "".join(" " * n + "a:\n" for n in range(40)) + " " * 40 + "¦a: b", "nested deeper"),
    Case("NUL", "title: a¦\0b\n", "'\\x00' is not allowed"),
    Case("bell", "title: a¦\x07b\n", "'\\x07' is not allowed"),
    Case("a list as a key", "? ¦[a, b]\n: c\n", "a key must be a plain word"),
    Case("never closed", "title: [a\n¦", "not valid YAML"),
]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{group}: {case.name}")
        for group, cases in (("template", TEMPLATES), ("yaml", YAML))
        for case in cases
    ],
)
def test_refused(refused, marked, case):
    text, place = marked(case.text)
    Path("p.yaml").write_bytes(text.encode())
    said = refused("build", "--profile", "p.yaml", "--out", "out")
    assert said.startswith(f"error: p.yaml:{place}: "), said
    assert case.says in said
    assert case.hint in said
    assert len(said) < 900


@pytest.mark.parametrize(("text", "says"), PROMQL)
def test_promql_is_underlined(refused, text, says):
    Path("p.yaml").write_text(expr(text).replace(HERE, ""))
    said = refused("build", "-p", "p.yaml", "-o", "out")
    assert said.startswith("error: p.yaml:5:5: not valid PromQL:\n")
    assert says in said
    assert said.count("^") >= 1


@pytest.mark.parametrize("length", [1, 2, 3])
def test_extends_in_a_circle(refused, length):
    for number in range(length):
        Path(f"p{number}.yaml").write_text(f"title: x\nextends: p{(number + 1) % length}.yaml\n")
    said = refused("build", "-p", "p0.yaml", "-o", "out")
    chain = " -> ".join([*(f"p{number}" for number in range(length)), "p0"])
    assert said.startswith(f"error: p{length - 1}.yaml:2:1: extends runs in a circle: {chain}")


@pytest.mark.parametrize(
    ("raw", "place", "says"),
    [
        (b"title: caf\xe9\n", "p.yaml:1:11: ", "byte 0xe9 is not UTF-8"),
        ("title: x\n".encode("utf-16"), "p.yaml:1:1: ", "is not UTF-8"),
        (b"title: " + b"x" * 3_000_000, "", "p.yaml has 3,000,007 bytes"),
    ],
)
def test_bytes_that_are_no_text(refused, raw, place, says):
    Path("p.yaml").write_bytes(raw)
    said = refused("build", "-p", "p.yaml", "-o", "out")
    assert said.startswith(f"error: {place}")
    assert says in said


def test_a_byte_order_mark_is_no_error(run):
    Path("p.yaml").write_bytes(b"\xef\xbb\xbfextends: baseline\n")
    assert run("build", "-p", "p.yaml", "-o", "out").code == 0


def test_a_large_file_takes_no_time(refused):
    """As large as a profile may be, over another: the work must not grow with the square of the keys."""
    keys = "".join(f"  a{n}: 1\n" for n in range(35_000))
    Path("p.yaml").write_text(f"extends: baseline\nthresholds:\n{keys}")
    start, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "no alert uses the threshold 'a0'" in refused("build", "-p", "p.yaml", "-o", "out")
    assert time.process_time() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 500_000  # kB
