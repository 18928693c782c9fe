"""Annotations as Prometheus renders them: promtool says whether ours are the same."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

import pytest

from monitorgen.prove.gotext import FUNCTIONS, render_annotation

MANTISSAS = (1.0, 1.2345678, 2.5, 9.9994, 9.99951, 5.25)
VALUES = [
    0.0,
    *(m * 10.0**k for k in range(-9, 13) for m in MANTISSAS),
    *(-m * 10.0**k for k in (-4, -1, 0, 2, 5) for m in (1.0, 2.5)),
    *(59.9, 60.0, 61.5, 3599.9, 3600.0, 86399.0, 86400.0, 90061.75, 0.999999, 1.000001, 1000.0, 999.96),
    *(1023.9, 1024.0, 1048576.0, 1.5 * 2**30),
]
TEMPLATES = {name: f"{{{{ $value | {name} }}}}" for name in FUNCTIONS} | {
    "printed": '{{ printf "%.2f" $value }} of {{ $labels.n }}{{ $labels.absent }}',
    "prefix": "{{ humanize $value }}",
}


def test_annotations_are_rendered_as_prometheus_does(promtool: Path, tmp_path: Path) -> None:
    rule = {"alert": "A", "expr": "v", "annotations": TEMPLATES}
    (tmp_path / "rules.yaml").write_text(json.dumps({"groups": [{"name": "g", "rules": [rule]}]}))
    expected = [
        {
            "exp_labels": {"n": str(number)},
            "exp_annotations": {
                name: render_annotation(text, {"n": str(number)}, value) for name, text in TEMPLATES.items()
            },
        }
        for number, value in enumerate(VALUES)
    ]
    test = {
        "interval": "1m",
        "input_series": [
            {"series": f'v{{n="{number}"}}', "values": repr(value)} for number, value in enumerate(VALUES)
        ],
        "alert_rule_test": [{"eval_time": "0m", "alertname": "A", "exp_alerts": expected}],
    }
    whole = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "test.yaml").write_text(json.dumps(whole))
    done = subprocess.run(
        [promtool, "test", "rules", tmp_path / "test.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, differences(done.stdout + done.stderr)


def differences(text: str) -> list[str]:
    """The lines that only one of promtool's two lists has."""
    expected, _, got = text.partition("got:[")
    return sorted(set(expected.splitlines()) ^ set(got.splitlines()))[:20]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_no_trouble(name: str, value: float) -> None:
    assert FUNCTIONS[name](value).lower().strip("%+") in ("nan", "inf")


@pytest.mark.parametrize(
    "template",
    ["{{ $value | title }}", "{{ range query `up` }}{{ end }}", '{{ printf "%d" $value }}', "{{ $value }}"],
)
def test_what_is_not_known_is_never_guessed(template: str) -> None:
    with pytest.raises(ValueError, match="is not known to the simulation"):
        render_annotation(template, {}, 1.0)
