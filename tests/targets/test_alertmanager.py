"""alertmanager.yml: who is told of what, as Alertmanager's own tool sees it."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitorgen.bundle import AlertRule, Bundle, RuleGroup
from monitorgen.promql import parse_duration
from monitorgen.targets.alertmanager import WAYS, alertmanager_config, receiver_of, ways_of
from monitorgen.targets.files import bundle_files

RECEIVERS = {"critical": "page", "warning": "notify", "info": "log"}
KEEP = ("job", "instance", "cluster", "model_name")


def bundle(*severities: str, keep: tuple[str, ...] = KEEP, silences: tuple[str, ...] = ()) -> Bundle:
    """A bundle with an alert of each severity; the first one silences others."""
    alerts = tuple(
        AlertRule(
            f"A{number}",
            "up == 0",
            labels=(("severity", severity),) if severity else (),
            silences=silences if number == 0 else (),
        )
        for number, severity in enumerate(severities)
    )
    return Bundle("b", groups=(RuleGroup("g", alerts),), keep=keep)


def tree(some: Bundle) -> Any:
    return yaml.safe_load(alertmanager_config(some, header="Made by us"))


def test_the_whole_file() -> None:
    some = bundle("warning", "critical", "warning", silences=("A2", 'odd"\\name'))
    assert tree(some) == {
        "route": {
            "receiver": "notify",
            "group_by": ["alertname", "job", "cluster", "model_name"],
            "group_wait": "30s",
            "group_interval": "5m",
            "repeat_interval": "4h",
            "routes": [
                {
                    "matchers": ['severity="critical"'],
                    "receiver": "page",
                    "group_wait": "10s",
                    "group_interval": "1m",
                    "repeat_interval": "1h",
                },
                {
                    "matchers": ['severity="warning"'],
                    "receiver": "notify",
                    "group_wait": "30s",
                    "group_interval": "5m",
                    "repeat_interval": "4h",
                },
            ],
        },
        "inhibit_rules": [
            {
                "source_matchers": ['alertname="A0"'],
                "target_matchers": [f'alertname="{name}"'],
                "equal": list(KEEP),
            }
            for name in ("A2", 'odd\\"\\\\name')
        ],
        "receivers": [{"name": "page"}, {"name": "notify"}],
    }


def test_the_first_lines_say_what_is_left_to_do() -> None:
    lines = alertmanager_config(bundle("info"), header="Made by us").splitlines()
    comments = list(itertools.takewhile(lambda line: line.startswith("# "), lines))
    assert comments[0] == "# Made by us"
    assert "No receiver has an integration yet" in comments[1]
    assert lines[len(comments)] == "route:"
    assert alertmanager_config(bundle("info")).startswith("# No receiver has an integration")


def test_a_bundle_without_alerts_has_no_routes() -> None:
    assert "alertmanager.yml" not in bundle_files(bundle())
    assert "Made by monitorgen" in bundle_files(bundle("info"))["alertmanager.yml"]


def test_without_kept_labels_nothing_is_compared() -> None:
    plain = tree(bundle("critical", "warning", keep=(), silences=("A1",)))
    assert plain["route"]["group_by"] == ["alertname"]
    assert "equal" not in plain["inhibit_rules"][0]
    assert "inhibit_rules" not in tree(bundle("critical"))


def test_the_more_urgent_the_sooner_and_the_more_often() -> None:
    for sooner, later in itertools.pairwise(WAYS):
        assert sooner.wait < later.wait
        assert sooner.interval < later.interval
        assert sooner.repeat < later.repeat
    for way in WAYS:
        assert way.wait <= way.interval <= way.repeat < parse_duration("5d")
        assert way.repeat % way.interval == 0  # else Alertmanager repeats later than it is told to


ROUTES: list[tuple[tuple[str, ...], str, str]] = [
    *((tuple(RECEIVERS), severity, receiver) for severity, receiver in RECEIVERS.items()),
    *(((severity,), severity, receiver) for severity, receiver in RECEIVERS.items()),
    (tuple(RECEIVERS), "somebody else's", "notify"),
    (tuple(RECEIVERS), "", "notify"),
    (("critical", "info"), "warning", "page"),
    (("info",), "critical", "log"),
    (("page", ""), "critical", "notify"),
]


@pytest.mark.parametrize(("severities", "asked", "wanted"), ROUTES)
def test_amtool_finds_the_receiver(
    severities: tuple[str, ...], asked: str, wanted: str, amtool: Path, tmp_path: Path
) -> None:
    some = bundle(*severities, silences=("A1",))
    file = tmp_path / "alertmanager.yml"
    file.write_text(alertmanager_config(some), encoding="utf-8")
    checked = subprocess.run([amtool, "check-config", file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    labels = [f'severity="{asked}"', 'alertname="A0"', 'job="vllm"', 'instance="a:1"', 'model_name="a/b"']
    verify = [f"--config.file={file}", f"--verify.receivers={wanted}"]
    routed = subprocess.run(
        [amtool, "config", "routes", "test", *verify, *labels], capture_output=True, text=True, check=False
    )
    assert routed.returncode == 0, routed.stdout + routed.stderr
    assert routed.stdout.split() == [wanted]
    assert receiver_of(some, asked) == wanted
    assert [way.severity for way in ways_of(some)] == [name for name in RECEIVERS if name in severities]
