"""The alerts' way to people, as Alertmanager's configuration: routes by severity, receivers, inhibitions.

Matchers are written as Alertmanager 0.22 and newer read them. Receivers have no integration: who is told, and
how, is a secret of the place where the file is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from monitorgen.bundle import Bundle
from monitorgen.promql import format_duration
from monitorgen.targets.yaml_text import yaml_text

ALERTMANAGER_FILE = "alertmanager.yml"
_HINT = """\
No receiver has an integration yet, so nobody is told: copy this file, and give each receiver its own
(https://prometheus.io/docs/alerting/latest/configuration/#receiver). Prometheus sends alerts here once its
`alerting` section names this Alertmanager."""


@dataclass(frozen=True, slots=True)
class Way:
    """Where alerts of a severity go, and when. Times are seconds.

    `wait` is how long the first alert of a group waits for others, `interval` how long changes of a group are
    gathered, `repeat` after how long people are told again that it still fires.
    """

    severity: str
    receiver: str
    wait: float
    interval: float
    repeat: float


# The most urgent first. Waits weigh how soon somebody must know against how much one message should gather;
# all repeat well within the five days for which Alertmanager remembers what it said (--data.retention).
WAYS = (
    Way("critical", "page", wait=10, interval=60, repeat=3600),
    Way("warning", "notify", wait=30, interval=300, repeat=4 * 3600),
    Way("info", "log", wait=60, interval=600, repeat=24 * 3600),
)


def ways_of(bundle: Bundle) -> tuple[Way, ...]:
    """The ways of the severities that the bundle's alerts have, the most urgent first."""
    severities = {dict(alert.labels).get("severity") for alert in bundle.alerts}
    return tuple(way for way in WAYS if way.severity in severities)


def receiver_of(bundle: Bundle, severity: str) -> str:
    """The receiver that the bundle's routes give to alerts of a severity, also of one without a route."""
    ways = ways_of(bundle)
    own = next((way.receiver for way in ways if way.severity == severity), "")
    return own or _fallback(ways).receiver


def alertmanager_config(bundle: Bundle, *, header: str = "") -> str:
    """alertmanager.yml: a route for each severity that the alerts have, and what an alert makes needless.

    Alerts are told together by name and by the labels that the bundle keeps, but for the instance. An alert
    that another one silences is held back while that fires with the same kept labels.
    """
    ways = ways_of(bundle)
    fallback = _fallback(ways)
    tree: dict[str, Any] = {
        "route": {
            "receiver": fallback.receiver,
            "group_by": ["alertname", *(label for label in bundle.keep if label != "instance")],
            **_times(fallback),
            "routes": [
                {"matchers": [matcher("severity", way.severity)], "receiver": way.receiver, **_times(way)}
                for way in ways
            ],
        }
    }
    rules = _inhibitions(bundle)
    if rules:
        tree["inhibit_rules"] = rules
    tree["receivers"] = [{"name": way.receiver} for way in ways or (fallback,)]
    return yaml_text(tree, header=f"{header}\n{_HINT}".lstrip())


def _fallback(ways: tuple[Way, ...]) -> Way:
    """Where alerts without one of the severities go: they are looked at today, and never lost."""
    by_severity = {way.severity: way for way in ways}
    return by_severity.get("warning") or next(iter(ways), WAYS[1])


def _times(way: Way) -> dict[str, str]:
    return {
        "group_wait": format_duration(way.wait),
        "group_interval": format_duration(way.interval),
        "repeat_interval": format_duration(way.repeat),
    }


def _inhibitions(bundle: Bundle) -> list[dict[str, Any]]:
    """A rule for each alert and each one that it silences, on the same kept labels."""
    equal = {"equal": list(bundle.keep)} if bundle.keep else {}
    return [
        {
            "source_matchers": [matcher("alertname", alert.alert)],
            "target_matchers": [matcher("alertname", other)],
            **equal,
        }
        for alert in bundle.alerts
        for other in alert.silences
    ]


def matcher(label: str, value: str) -> str:
    """`label="value"` as Alertmanager's parsers, the classic and the UTF-8 one, read it."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{label}="{escaped}"'
