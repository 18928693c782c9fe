"""Whatever a person writes wrong: exit code 2, one message with the place and what to do, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
from broken_profiles import BASE, PANELS, RATIO, SIGNAL, Case, alert, expr

UNKNOWN_KEYS = [
    Case("top", BASE + "¦signalz: {}\n", "unknown key 'signalz'", "did you mean 'signals'?"),
    Case("labels", BASE + "labels:\n  ¦keeps: [job]\n", "'labels.keeps'", "did you mean 'keep'?"),
    Case("labels in one line", BASE + "labels: {¦keeps: [job]}\n", "'labels.keeps'", "did you mean 'keep'?"),
    Case("signal", SIGNAL + "    ¦famly: up\n", "'signals.mine.famly'", "did you mean 'family'?"),
    Case(
        "ratio.of",
        SIGNAL + "    ratio: {of: {family: up, ¦wher: {}}, to: {family: up}}\n",
        "'signals.mine.ratio.of.wher'",
        "did you mean 'where'?",
    ),
    Case(
        "ratio.to, a list",
        RATIO + "      to: [{family: up, ¦famil: up}]\n",
        "'signals.mine.ratio.to[0].famil'",
        "did you mean 'family'?",
    ),
    Case(
        "ratio.to, a mapping",
        RATIO + "      to: {family: up, ¦famil: up}\n",
        "'signals.mine.ratio.to.famil'",
        "did you mean 'family'?",
    ),
    Case("panel", PANELS + "[{signal: ttft, ¦titel: x}]\n", "panels[0].titel", "did you mean 'title'?"),
    Case(
        "row",
        BASE + "dashboard:\n  - row: Mine\n    ¦panel: [ttft]\n",
        "dashboard[0].panel'",
        "did you mean 'panels'?",
    ),
    Case(
        "scrape",
        BASE + "scrape:\n  vllm: {engine: vllm, ¦target: ['a:1']}\n",
        "'scrape.vllm.target'",
        "did you mean 'targets'?",
    ),
    Case("alert", alert(more="    ¦sumary: x\n"), "'alerts.Mine.sumary'", "did you mean 'summary'?"),
    Case("runbooks", BASE + "runbooks: {¦urls: 'http://x'}\n", "'runbooks.urls'", "did you mean 'url'?"),
    Case("interval", BASE + "interval: {¦scrap: 5s}\n", "'interval.scrap'", "did you mean 'scrape'?"),
    Case("true as a key", BASE + "¦true: x\n", "unknown key 'true'"),
]

TYPES = [
    Case("signals as a list", BASE + "¦signals: [a]\n", "signals must be a mapping of keys, not ['a']"),
    Case("help as a number", BASE + "signals:\n  mine:\n    ¦help: 5\n", "must be text", 'in quotes: "5"'),
    Case("quantile as text", SIGNAL + "    family: up\n    quantiles: [¦'a']\n", "must be a number"),
    Case("quantiles as a number", SIGNAL + "    family: up\n    ¦quantiles: 0.9\n", "must be a list"),
    Case("targets as text", BASE + "scrape:\n  a: {engine: vllm, ¦targets: 'a:1'}\n", "must be a list"),
    Case("a panel as a number", PANELS + "[¦5]\n", "panels[0] must be text"),
    Case("a panel as a list", PANELS + "[¦[ttft]]\n", "panels[0] must be a mapping of keys"),
    Case("width as text", PANELS + "[{signal: ttft, ¦width: wide}]\n", "must be a whole number, not 'wide'"),
    Case("width too large", PANELS + "[{signal: ttft, ¦width: 99}]\n", "less than or equal to 24"),
    Case("two ways to name signals", PANELS + "[¦{signal: ttft, signals: [ttft]}]\n", "either signal: NAME"),
    Case("no signal at all", PANELS + "[¦{title: x}]\n", "either signal: NAME"),
    Case("dashboard as a mapping", BASE + "¦dashboard: {row: A}\n", "dashboard must be a list"),
    Case("yes is no boolean", SIGNAL + "    family: up\n    ¦mean: yes\n", "must be true or false"),
    Case("severity", alert(**{"severity": "", "¦severity": "page"}), "'page'", "'critical', 'warning' or"),
    Case("a threshold as a list", BASE + "thresholds: {¦kv_warn: [1]}\n", "[1] is not a number with a unit"),
    Case("a threshold as a boolean", BASE + "thresholds: {¦kv_warn: true}\n", "is not a number with a unit"),
    Case("for as a number", alert(**{"for": "", "¦for": "5"}), "5 is not a duration", "5m or 1h30m"),
    Case("for of nothing", alert(**{"for": "", "¦for": "0s"}), "longer than 0"),
    Case("window in words", SIGNAL + "    family: up\n    ¦window: 5 minutes\n", "is not a duration"),
    Case("a window of ages", SIGNAL + "    family: up\n    ¦window: 99y\n", "at most a year"),
    Case("engines as a list", "¦engines: [vllm]\n", "engines must be a mapping of keys"),
    Case("a version as a number", "engines: {¦vllm: 0.9}\n", "must be text, not 0.9", 'in quotes: "0.9"'),
    Case("an empty section", BASE + "¦signals:\n", "signals is empty", "take the line out"),
    Case("nothing to remove", BASE + "thresholds:\n  ¦kv_wran:\n", "nothing of that name", "'kv_warn'?"),
    Case("a missing key", BASE + "alerts:\n  ¦Mine: {when: ttft > 1s}\n", "alerts.Mine lacks the key"),
    Case(
        "a misspelt signal lacks what its parent has",
        BASE + "signals:\n  ¦tttft: {quantiles: [0.5]}\n",
        "signals.tttft lacks the key 'help'",
        "or did you mean 'ttft'?",
    ),
]

UNITS = [
    Case("a share of seconds", BASE + "thresholds:\n  ¦ttft_p90_warn: 90%\n", "in seconds", "example 600ms"),
    Case("a time of a share", BASE + "thresholds:\n  ¦kv_warn: 5m\n", "in ratio", "example 90%"),
    Case("a bare number of seconds", BASE + "thresholds:\n  ¦ttft_p90_warn: 0.6\n", "seconds", "write 0.6s"),
    Case(
        "a bare number in the condition", alert("ttft.p90 > 5").replace("when:", "¦when:"), "5 cannot", "5s"
    ),
    Case("a share in the condition", alert("ttft.p90 > 5%").replace("when:", "¦when:"), "5% cannot be"),
    Case("parsecs", BASE + "thresholds:\n  ¦kv_warn: 5 parsecs\n", "the unknown unit 'parsecs'", "GiB"),
    Case("words", BASE + "thresholds:\n  ¦kv_warn: soon\n", "'soon' is not a number with a unit", "600ms"),
    Case("nothing", BASE + "thresholds:\n  ¦kv_warn: ''\n", "'' is not a number with a unit"),
    Case("infinity", BASE + "thresholds: {kv_warn: ¦.inf}\n", ".inf is not a number"),
    Case("not a number", BASE + "thresholds: {kv_warn: ¦.nan}\n", ".nan is not a number"),
    Case("beyond a float", BASE + "thresholds: {¦kv_warn: 1e999}\n", "1e999 is too large"),
    Case("400 digits", BASE + "thresholds: {¦kv_warn: " + "9" * 400 + "}\n", "is too large"),
    Case("5000 digits", BASE + "thresholds: {¦kv_warn: " + "9" * 5000 + "}\n", "is too large"),
    Case(
        "beyond a float in the condition", alert("ttft.p90 > 1e999s").replace("when:", "¦when:"), "too large"
    ),
    Case("a removed threshold", BASE + "thresholds:\n  ¦kv_warn:\n", "removed here", "remove the alert too"),
    Case("a misspelt threshold", BASE + "thresholds:\n  ¦kv_wran: 95%\n", "no alert uses", "'kv_warn'?"),
]

REFERENCES = [
    Case("extends itself", "¦extends: p.yaml\n", "in a circle", "extend nothing"),
    Case("extends nothing known", "¦extends: baselin\n", "no profile 'baselin'", "did you mean baseline?"),
    Case("extends no file", "¦extends: ./other.yaml\n", "no profile './other.yaml'", "or give a file"),
    Case("extends a folder", "¦extends: .\n", "no profile '.'"),
    Case("extends a list", "¦extends: [baseline]\n", "extends names one profile"),
    Case(
        "signal in an alert",
        alert("tftt.p90 > 1s").replace("when:", "¦when:"),
        "unknown signal 'tftt'",
        "'ttft'?",
    ),
    Case("part in an alert", alert("ttft.p95 > 1s").replace("when:", "¦when:"), "no part 'p95'", "ttft.p90"),
    Case(
        "threshold in an alert",
        alert("ttft > ttft_wran").replace("when:", "¦when:"),
        "'ttft_wran'",
        "did you",
    ),
    Case("no condition", alert("ttft.p90").replace("when:", "¦when:"), "not a condition", "joined by and"),
    Case("or", alert("ttft > 1s or ttft > 2s").replace("when:", "¦when:"), "'1s or ttft", "joined by and"),
    Case("PromQL in a condition", alert("ttft > 1s) or (up").replace("when:", "¦when:"), "is not a number"),
    Case("signal in traffic", alert(more="    ¦traffic: finishd > 1\n"), "signal 'finishd'", "'finished'?"),
    Case("signal in a panel", PANELS + "[¦tfft]\n", "unknown signal 'tfft'", "did you mean 'ttft'?"),
    Case("part in a panel", PANELS + "[¦ttft.p95]\n", "ttft has no part 'p95'", "p90"),
    Case(
        "two units in a panel", PANELS + "[¦{signals: [ttft, running], title: x}]\n", "one panel has one unit"
    ),
    Case("one title twice", PANELS + "[¦ttft]\n", "two panels have the title", "title of its own"),
    Case("a heatmap of a gauge", PANELS + "[¦{signal: running, kind: heatmap, title: x}]\n", "needs buckets"),
    Case("signal in an expr", expr("'[[ runing ]] + 1'"), "unknown signal 'runing'", "'running'?"),
    Case("part in an expr", expr("'[[ ttft.p95 ]] + 1'"), "ttft has no part 'p95'", "it has p90"),
    Case("itself in an expr", expr("'[[ mine ]] + 1'"), "in a circle"),
    Case(
        "each other in an expr",
        BASE
        + "signals:\n  aa: {help: This and that., ¦expr: '[[ bb ]]', unit: number}\n"
        + "  bb: {help: That and this., expr: '[[ aa ]]', unit: number}\n",
        "aa, bb use each other in a circle",
    ),
    Case("scrape job", BASE + "scrape:\n  x: {¦engine: vlm, targets: ['a:1']}\n", "engine 'vlm'", "'vllm'?"),
    Case("engine", BASE + "engines: {¦vlm: '>=0.9'}\n", "no catalog of engine 'vlm'", "vllm"),
    Case("versions of the future", BASE + "engines:\n  ¦vllm: '>=9'\n", "no catalog of vllm lies in", "list"),
    Case("versions in words", BASE + "engines:\n  ¦vllm: about 0.9\n", "not a version range", ">=0.9, <0.33"),
    Case("versions cut off", BASE + "engines:\n  ¦vllm: '>=0.9, <'\n", "not a version range"),
    Case("catalog file", BASE + "catalogs: [¦nope.yaml]\n", "cannot read nope.yaml"),
    Case(
        "label that nothing has",
        BASE + "labels: {keep: [job, ¦zone]}\n",
        "the label 'zone'",
        "target: {zone:",
    ),
    Case("nothing to build", "¦title: Nothing\n", "nothing to build", "extends: optimized"),
]

METRICS = [
    Case(
        "misspelt",
        SIGNAL + "    ¦family: vllm:time_to_first_tokn_seconds\n    quantiles: [0.5]\n",
        "no catalog knows the metric 'vllm:time_to_first_tokn_seconds'",
        "nearest: vllm:time_to_first_token_seconds",
    ),
    Case(
        "second of a list", SIGNAL + "    family: [up, ¦foo_bar]\n", "the metric 'foo_bar'", "catalog capture"
    ),
    Case(
        "misspelt in an expr",
        expr("sum(vllm:num_request_running)"),
        "no catalog",
        "vllm:num_requests_running",
    ),
    Case("misspelt in a ratio", RATIO + "      to: [{¦family: vllm:requests}]\n", "no catalog knows"),
    Case(
        "a series",
        SIGNAL + "    ¦family: vllm:e2e_request_latency_seconds_sum\n",
        "is no family",
        "name that",
    ),
    Case("not a name", SIGNAL + "    ¦family: 'a b'\n", "'a b' is not a valid metric name"),
    Case(
        "family and expr",
        BASE + "signals:\n  ¦mine: {help: Of mine., family: up, expr: up}\n",
        "one of family",
    ),
    Case(
        "two types", SIGNAL + "    ¦family: [vllm:num_requests_running, vllm:request_success_total]\n", "both"
    ),
    Case("no such label", SIGNAL + "    family: up\n    where: {¦reasn: x}\n", "no label 'reasn'", "it has"),
    Case(
        "no such label to keep", SIGNAL + "    family: up\n    by: [¦reasn]\n", "no label 'reasn'", "there is"
    ),
    Case(
        "a variable of Grafana",
        SIGNAL + "    family: up\n    where: {job: [¦'a$b']}\n",
        "Grafana takes for a variable",
    ),
    Case("a variable in an expr", expr("up{job='$job'}"), "is a variable of Grafana"),
    Case("no value", SIGNAL + "    family: up\n    where: {¦job: []}\n", "at least 1 item"),
    Case(
        "quantiles of a counter",
        SIGNAL + "    family: vllm:request_success_total\n    ¦quantiles: [0.5]\n",
        "fit",
    ),
    Case("quantiles of a gauge", SIGNAL + "    family: up\n    ¦quantiles: [0.5]\n", "does not fit a gauge"),
    Case(
        "reduce of a counter",
        SIGNAL + "    family: vllm:request_success_total\n    ¦reduce: max\n",
        "counter",
    ),
    Case("quantile of 90", SIGNAL + "    family: up\n    quantiles: [¦90]\n", "less than 1"),
    Case(
        "a quantile twice", SIGNAL + "    family: up\n    ¦quantiles: [0.5, 0.50]\n", "0.5 stands there twice"
    ),
    Case(
        "no quantile", SIGNAL + "    ¦family: vllm:e2e_request_latency_seconds\n", "which quantiles", "[0.9]"
    ),
    Case(
        "ratio of gauges",
        SIGNAL + "    ratio:\n      of: {¦family: vllm:num_requests_running}\n      to: {family: up}\n",
        "vllm:num_requests_running is a gauge; a ratio counts",
    ),
    Case("ratio to nothing", RATIO + "      ¦to: []\n", "at least 1 item"),
    Case(
        "ratio of nothing", SIGNAL + "    ratio: {of: {¦family: []}, to: {family: up}}\n", "at least 1 item"
    ),
    Case("half a ratio", SIGNAL + "    ¦ratio: {of: {family: up}}\n", "lacks the key 'to'"),
    Case("a unit that is not its own", SIGNAL + "    family: up\n    ¦unit: seconds\n", "not seconds"),
    Case(
        "a unit of nobody",
        expr("up", "¦parsecs").replace("    ¦expr", "    expr").replace("unit: ¦parsecs", "¦unit: parsecs"),
        "unknown unit 'parsecs'",
        "seconds",
    ),
    Case(
        "a record that an engine has",
        SIGNAL + "    family: up\n    ¦record: vllm:num_requests_running\n",
        "exports",
    ),
    Case(
        "one record of two quantiles",
        SIGNAL
        + "    family: vllm:e2e_request_latency_seconds\n    quantiles: [0.5, 0.9]\n    ¦record: a:b:c\n",
        "cannot share the name a:b:c",
    ),
    Case(
        "two signals of one record",
        BASE + "signals:\n  ¦mine: {help: Of mine., family: up, record: 'model:vllm_finished:rate5m'}\n",
        "both record model:vllm_finished:rate5m",
    ),
    Case(
        "expr without unit",
        BASE + "signals:\n  ¦mine: {help: Something of mine., expr: up}\n",
        "needs a unit",
    ),
]

NAMES = [
    Case(
        "signal",
        BASE + "signals:\n  ¦Mine-x: {help: Something of mine., family: up}\n",
        "'Mine-x' is not a valid",
    ),
    Case("threshold", BASE + "thresholds:\n  ¦TTFT: 5s\n", "'TTFT' is not a valid"),
    Case("alert", alert().replace("  Mine:", "  ¦not-mine:"), "'not-mine' is not a valid alert name"),
    Case("alert label", alert(more="    labels: {¦a-b: c}\n"), "'a-b' is not a valid label name"),
    Case("alert label of Prometheus", alert(more="    labels: {¦__name__: c}\n"), "set by Prometheus"),
    Case("severity as a label", alert(more="    labels: {¦severity: c}\n"), "set already"),
    Case(
        "a label that the signal has", alert(more="    labels: {¦model_name: c}\n"), "set already", "another"
    ),
    Case("record", SIGNAL + "    family: up\n    ¦record: 'a b'\n", "'a b' is not a valid metric name"),
    Case("kept label", BASE + "labels: {keep: [¦'a-b']}\n", "'a-b' is not a valid label name"),
    Case("kept label of Prometheus", BASE + "labels: {keep: [¦__name__]}\n", "set by Prometheus"),
    Case("kept bucket edge", BASE + "labels: {keep: [¦le]}\n", "set by Prometheus"),
    Case("kept twice", BASE + "labels: {¦keep: [job, job]}\n", "job stands there twice"),
    Case(
        "where label", SIGNAL + "    family: up\n    where: {¦'a-b': x}\n", "'a-b' is not a valid label name"
    ),
    Case("target label", BASE + "labels: {target: {¦'a b': c}}\n", "'a b' is not a valid label name"),
    Case("target label of the scrape", BASE + "labels: {target: {¦job: c}}\n", "set by the scrape"),
    Case("target label of Prometheus", BASE + "labels: {target: {¦__address__: c}}\n", "set by Prometheus"),
    Case("job without a name", BASE + "scrape:\n  ¦'': {engine: vllm, targets: ['a:1']}\n", "not a job name"),
    Case("target as a URL", BASE + "scrape:\n  a: {engine: vllm, targets: [¦'http://a:1/m']}\n", "HOST:PORT"),
    Case("target with braces", BASE + "scrape:\n  a: {engine: vllm, targets: [¦'a{b}:1']}\n", "HOST:PORT"),
    Case("target with a line", BASE + 'scrape:\n  a: {engine: vllm, targets: [¦"a:1\\nb"]}\n', "HOST:PORT"),
    Case("no target", BASE + "scrape:\n  a: {engine: vllm, ¦targets: []}\n", "at least 1 item"),
    Case("path", BASE + "scrape:\n  a: {engine: vllm, targets: ['a:1'], ¦path: metrics}\n", "is not a path"),
    Case("runbooks elsewhere", BASE + "runbooks: {¦url: 'javascript:alert(1)'}\n", "not an http or https"),
    Case("runbooks with a line", BASE + 'runbooks: {¦url: "http://x.y/a\\nb"}\n', "not an http or https"),
    Case(
        "runbooks with a template", BASE + "runbooks: {¦url: 'http://x.y/{{ x }}'}\n", "not an http or https"
    ),
    Case("profile out of the folder", BASE + "¦name: ../../x\n", "not a valid profile name"),
    Case("profile with a line", BASE + '¦name: "a\\nb"\n', "not a valid profile name"),
]

GROUPS = {
    "unknown": UNKNOWN_KEYS,
    "type": TYPES,
    "unit": UNITS,
    "reference": REFERENCES,
    "metric": METRICS,
    "name": NAMES,
}


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=f"{group}: {case.name}") for group, cases in GROUPS.items() for case in cases],
)
def test_refused(refused, marked, case):
    text, place = marked(case.text)
    Path("p.yaml").write_bytes(text.encode())
    said = refused("build", "--profile", "p.yaml", "--out", "out")
    assert said.startswith(f"error: p.yaml:{place}: "), said
    assert case.says in said
    assert case.hint in said
    assert len(said) < 900
