"""Asking amtool: does Alertmanager take the routes, and where do they lead?"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from monitorgen.bundle import AlertRule, Bundle
from monitorgen.prove.ledger import Ledger, Proof
from monitorgen.prove.promtool import find_programs, run_tool
from monitorgen.targets.alertmanager import ALERTMANAGER_FILE, alertmanager_config, matcher, receiver_of

_VERSION = re.compile(r"version (\d+\.\d+(?:\.\d+)?)")
_CHATTER = "Warning: --config.file flag overrides"  # what it says though nobody named a URL


@dataclass(frozen=True)
class Amtool:
    """An amtool binary."""

    path: str

    @cached_property
    def version(self) -> str:
        """The Alertmanager version that it belongs to, for example 0.25.0."""
        match = _VERSION.search(run_tool(self.path, "--version")[1])
        return match[1] if match else "unknown"

    def check_config(self, file: Path) -> str:
        """What is wrong with an Alertmanager config, in one line; empty if nothing is."""
        status, text = run_tool(self.path, "check-config", str(file))
        return (_in_one_line(text) or f"exit status {status}") if status else ""

    def route(self, file: Path, labels: Mapping[str, str]) -> str:
        """The receivers that the routes of a config give to an alert: `page`, or `page,log`.

        What amtool complains of comes instead where it cannot tell.
        """
        words = [matcher(name, value) for name, value in labels.items()]
        _, text = run_tool(self.path, "config", "routes", "test", f"--config.file={file}", *words)
        return _in_one_line(text)


@dataclass(frozen=True, slots=True)
class Routed:
    """Where an amtool sees alerts of each severity led to, or what it says against the config."""

    version: str
    receivers: Mapping[str, str]


def ask_amtools(bundle: Bundle, amtools: Iterable[Amtool]) -> list[Routed]:
    """`amtool check-config` and `config routes test`: are the routes valid, and where do they lead?

    Alerts of one severity are routed alike, so each severity of the bundle is asked about once.
    """
    severities = sorted({_severity(alert) for alert in bundle.alerts})
    answers = []
    with tempfile.TemporaryDirectory(prefix="monitorgen-") as name:
        file = Path(name) / ALERTMANAGER_FILE
        file.write_text(alertmanager_config(bundle), encoding="utf-8")
        for tool in amtools if severities else ():
            trouble = tool.check_config(file)
            receivers = {one: trouble or tool.route(file, {"severity": one}) for one in severities}
            answers.append(Routed(tool.version, receivers))
    return answers


def amtool_proofs(bundle: Bundle, answers: Iterable[Routed], ledger: Ledger) -> None:
    """Enter what amtools said of the routes: for every alert, whether they lead where its severity goes."""
    for answer in answers:
        for alert in bundle.alerts:
            severity = _severity(alert)
            wanted, got = receiver_of(bundle, severity), answer.receivers[severity]
            claim = f"Alertmanager takes the routes, and they lead to {wanted}"
            asked = f"check-config; config routes test {matcher('severity', severity)}"
            source = f"amtool {answer.version}"
            ledger.add([Proof(alert.id, "static", claim, got == wanted, source, asked, got)])


def _severity(alert: AlertRule) -> str:
    return dict(alert.labels).get("severity", "")


def find_amtools() -> list[Amtool]:
    """The amtools to ask: those that $MONITORGEN_AMTOOL lists (like PATH), else PATH's."""
    return [Amtool(path) for path in dict.fromkeys(find_programs("amtool", "MONITORGEN_AMTOOL"))]


def _in_one_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(_CHATTER))
