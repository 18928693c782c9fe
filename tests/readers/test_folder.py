"""A bundle that was written reads back as it was; anybody's folder and list of files reads as a bundle."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitorgen.bundle import (
    AlertRule,
    Bundle,
    Dashboard,
    Panel,
    Query,
    RecordingRule,
    Row,
    RuleGroup,
    Runbook,
    ScrapeJob,
    ThresholdStep,
    Variable,
    pairs,
)
from monitorgen.errors import InputError
from monitorgen.readers import read_files, read_folder
from monitorgen.targets.files import about, as_written, bundle_files
from monitorgen.targets.writer import write

LONG = (
    "sum by (job, instance, model_name) (rate(vllm:request_success_total{job=~'x'}[5m])) / sum(rate(y[5m]))"
)
RECORD = RecordingRule("a:b:c", LONG, labels=(("k", "v"),), signal="s", part="p90", unit="seconds", help="h")
ALERT = AlertRule(
    "Down", "up == 0", hold=90.0, labels=(("severity", "critical"),),
    annotations=(("summary", "é\n{{ x }}"),), signals=("up", "s"),
    silences=("Slow",),
)  # fmt: skip
BUNDLE = Bundle(
    name="chat",
    title="Chat models",
    groups=(RuleGroup("g", (RECORD, RECORD, ALERT), interval=30.0), RuleGroup("r", (RECORD,))),
    dashboards=(
        Dashboard(
            "uid-1",
            "T",
            (
                Row("", (Panel("first", (Query("up"),), kind="stat", calc="max", signal="up"),)),
                Row(
                    "Row",
                    (Panel("heat", (Query("x", legend="{{le}}"),), kind="heatmap", unit="s", minimum=0.0),),
                    True,
                ),
                Row("", (Panel("words", (), kind="text", content="# hi"),)),
            ),
            tags=("a", "b"),
            variables=(
                Variable("datasource", "datasource", query="prometheus"),
                Variable("job", query="q", regex="/x/"),
            ),
        ),
    ),
    scrape_jobs=(
        ScrapeJob("vllm", ("h:8000",), engine="vllm", interval=5.0, timeout=2.5, labels=(("a", "b"),)),
    ),
    runbooks=(Runbook("Down", "# Down\n\nDo this.\n"),),
    engines=(("vllm", ">=0.9"),),
    keep=("cluster", "job"),
    dormant=(("spec", "needs a flag"),),
)


def written(bundle: Bundle, out: Path) -> Path:
    write(bundle_files(bundle), out, about=about(bundle))
    return out


def test_a_written_bundle_reads_back_as_it_was(tmp_path):
    assert read_folder(written(BUNDLE, tmp_path / "b")) == as_written(BUNDLE)


def test_reading_and_writing_again_gives_the_same_bytes(tmp_path):
    one = written(BUNDLE, tmp_path / "one")
    two = written(read_folder(one), tmp_path / "two")
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file())
    assert [(one / f).read_bytes() for f in files] == [(two / f).read_bytes() for f in files]


def test_nothing_of_a_bundle_is_lost_but_what_files_have_no_place_for():
    """What `as_written` changes is text that means the same, and defaults filled in."""
    again = as_written(BUNDLE)
    assert [r.id for r in again.recording_rules] == [r.id for r in BUNDLE.recording_rules]
    assert [replace(a, expr="") for a in again.alerts] == [replace(a, expr="") for a in BUNDLE.alerts]
    assert list(again.items) == list(BUNDLE.items)
    assert again.scrape_jobs == BUNDLE.scrape_jobs


names = st.text("abcdefgh", min_size=1, max_size=4)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
label_pairs = st.dictionaries(names, texts, max_size=2).map(pairs)
exprs = st.sampled_from(["up", LONG, 'x{a="\\n é"}', "a\n  + b", "not promql #", "1e3"]) | texts.filter(
    str.strip
)
seconds = st.integers(0, 10**7).map(lambda ms: ms / 1000)
records = st.builds(
    RecordingRule,
    record=names,
    expr=exprs,
    labels=label_pairs,
    signal=texts,
    part=texts,
    unit=texts,
    help=texts,
)
alerts = st.builds(
    AlertRule, alert=names, expr=exprs, hold=seconds, labels=label_pairs, annotations=label_pairs,
    keep_firing_for=seconds, signals=st.lists(names, max_size=2).map(tuple),
    silences=st.lists(names, max_size=2).map(tuple),
)  # fmt: skip
groups = st.builds(
    RuleGroup, name=texts.filter(bool), interval=seconds,
    rules=st.lists(records | alerts, max_size=3).map(tuple),
    file=st.sampled_from(["", "rules/x.yaml", "y.yml"]),
)  # fmt: skip
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9).map(float)
queries = st.builds(
    Query, expr=exprs, legend=texts, ref_id=st.sampled_from("ABC"),
    instant=st.booleans(), hidden=st.booleans(),
    format=st.sampled_from(["time_series", "table", "heatmap"]),
)  # fmt: skip
panels = st.builds(
    Panel,
    title=texts,
    queries=st.lists(queries, max_size=3).map(tuple),
    kind=st.sampled_from(["timeseries", "stat", "gauge", "bargauge", "heatmap", "table", "text"]),
    description=texts,
    unit=texts,
    steps=st.lists(st.builds(ThresholdStep, numbers, names), max_size=3).map(tuple),
    minimum=numbers,
    maximum=numbers,
    width=st.integers(-1, 30),
    height=st.integers(-1, 30),
    stacked=st.booleans(),
    signal=texts,
    content=texts,
    decimals=st.none() | st.integers(0, 5),
    calc=names,
    texts=label_pairs,
)
variables = st.builds(
    Variable,
    name=names,
    kind=st.sampled_from(["datasource", "query", "custom", "interval", "textbox", "constant", "adhoc"]),
    label=texts,
    query=texts,
    multi=st.booleans(),
    include_all=st.booleans(),
    all_value=texts,
    refresh=st.integers(0, 2),
    regex=texts,
)
rows = st.builds(
    Row, title=texts, panels=st.lists(panels, min_size=1, max_size=3).map(tuple), collapsed=st.booleans()
)
dashboards = st.builds(
    Dashboard, uid=names, title=texts, rows=st.lists(rows, max_size=3).map(tuple), description=texts,
    tags=st.lists(texts, max_size=2).map(tuple), variables=st.lists(variables, max_size=2).map(tuple),
    refresh=texts, time_from=texts, editable=st.booleans(),
)  # fmt: skip
jobs = st.builds(
    ScrapeJob, job=texts.filter(bool), targets=st.lists(texts, max_size=2).map(tuple), engine=texts,
    interval=seconds.filter(bool), timeout=seconds.filter(bool),
    metrics_path=texts.filter(bool), labels=label_pairs,
)  # fmt: skip
bundles = st.builds(
    Bundle,
    name=names,
    title=texts,
    groups=st.lists(groups, max_size=3, unique_by=lambda g: g.name).map(tuple),
    dashboards=st.lists(dashboards, max_size=2, unique_by=lambda d: d.uid).map(tuple),
    scrape_jobs=st.lists(jobs, min_size=1, max_size=2, unique_by=lambda j: j.job).map(tuple),
    runbooks=st.lists(st.builds(Runbook, names, texts), max_size=2, unique_by=lambda r: r.alert).map(tuple),
    engines=label_pairs,
    keep=st.lists(names, max_size=2).map(tuple),
    dormant=label_pairs,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(bundles)
def test_any_bundle_reads_back_as_it_was_written(tmp_path_factory, bundle):
    out = tmp_path_factory.getbasetemp() / "bundle"
    shutil.rmtree(out, ignore_errors=True)
    assert read_folder(written(bundle, out)) == as_written(bundle)


def test_without_its_manifest_the_files_still_say_most(tmp_path):
    out = written(BUNDLE, tmp_path / "b")
    (out / "manifest.json").unlink()
    found, wanted = read_folder(out), as_written(BUNDLE)
    assert list(found.items) == list(wanted.items)
    assert found.name == "b"
    assert [r.signal for r in found.recording_rules] == ["", "", ""]
    assert found.runbooks == wanted.runbooks


@pytest.mark.parametrize("damage", ['{"files": 1, "format": 1, "generator": 1}', '{"files": [], "other": 1}'])
def test_a_strange_manifest_does_no_harm(tmp_path, damage):
    out = written(BUNDLE, tmp_path / "b")
    (out / "manifest.json").write_text(damage)
    if '"generator"' in damage:
        with pytest.raises(InputError, match="holds no"):
            read_folder(out)
    else:
        assert list(read_folder(out).items) == list(as_written(BUNDLE).items)


def test_notes_that_do_not_fit_the_files_are_left_out(tmp_path):
    out = written(BUNDLE, tmp_path / "b")
    manifest = json.loads((out / "manifest.json").read_text())
    notes = manifest["bundle"]["rules"]["rules/alerts.yaml"]
    manifest["bundle"] |= {"rules": {"rules/alerts.yaml": {"g": notes["g"][:1]}}, "keep": 5, "engines": [1]}
    (out / "manifest.json").write_text(json.dumps(manifest))
    found = read_folder(out)
    assert (found.keep, found.engines, found.title) == ((), (), "Chat models")
    assert [r.signal for r in found.recording_rules] == ["", "", ""]


def test_a_file_that_the_manifest_lists_must_be_there_and_inside(tmp_path):
    out = written(BUNDLE, tmp_path / "b")
    rules = out / "rules" / "alerts.yaml"
    text = rules.read_text()
    rules.unlink()
    with pytest.raises(InputError, match="missing"):
        read_folder(out)
    (tmp_path / "outside.yaml").write_text(text)
    rules.symlink_to(tmp_path / "outside.yaml")
    with pytest.raises(InputError, match="outside"):
        read_folder(out)


PROMETHEUS = """
global: {scrape_interval: 30s}
rule_files: [rules.yaml]
scrape_configs:
- job_name: node
  static_configs:
  - {targets: ["a:1", "b:1"], labels: {zone: x, rack: "1"}}
  - {targets: ["c:1"], labels: {zone: x, rack: "2"}}
- job_name: pods
  scrape_interval: 5s
  metrics_path: /m
  kubernetes_sd_configs: [{role: pod}]
"""


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder as somebody else may have it."""
    root = tmp_path / "theirs"
    for name, text in {
        "prometheus.yml": PROMETHEUS,
        "rules.yaml": "groups: [{name: g, rules: [{record: a, expr: b}]}]",
        "deep/er/board.json": '{"title": "T", "uid": "u", "panels": []}',
        "values.yaml": "replicas: 3\n",
        "package.json": '{"name": "x"}',
        "runbooks/Down.md": "# Down\n",
        "README.md": "# Hi\n",
        ".hidden/r.yaml": "groups: [",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "out.yaml").symlink_to("/etc/hostname")
    return root


def test_a_foreign_folder_gives_what_it_holds(foreign):
    found = read_folder(foreign)
    assert (found.name, [g.file for g in found.groups]) == ("theirs", ["rules.yaml"])
    assert [d.file for d in found.dashboards] == ["deep/er/board.json"]
    assert found.runbooks == (Runbook("Down", "# Down\n"),)
    assert found.scrape_jobs == (
        ScrapeJob("node", ("a:1", "b:1", "c:1"), interval=30.0, labels=(("zone", "x"),)),
        ScrapeJob("pods", (), interval=5.0, timeout=5.0, metrics_path="/m"),
    )
    assert found.scrape_jobs[1].origin.line == 9


def test_files_are_read_under_the_names_they_were_given(foreign):
    found = read_files([foreign / "rules.yaml", foreign / "deep", foreign / "prometheus.yml"])
    assert [g.file for g in found.groups] == [str(foreign / "rules.yaml")]
    assert [d.file for d in found.dashboards] == [str(foreign / "deep" / "er" / "board.json")]
    assert (found.name, len(found.scrape_jobs)) == ("rules", 2)


@pytest.mark.parametrize(
    "name", ["values.yaml", "package.json", "README.md", "nowhere.yaml", ".hidden/r.yaml"]
)
def test_a_named_file_must_hold_something(foreign, name):
    with pytest.raises(InputError) as error:
        read_files([foreign / name])
    assert name in str(error.value)


def test_empty_input_is_an_error(foreign, tmp_path):
    (tmp_path / "empty").mkdir()
    for paths in ([], [tmp_path / "empty"], [tmp_path / "nowhere"]):
        with pytest.raises(InputError):
            read_files(paths)
    with pytest.raises(InputError, match="not a folder"):
        read_folder(foreign / "rules.yaml")
