"""An alert's whole way: a rule in a real Prometheus, a real Alertmanager, and the webhook at the end."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

from monitorgen.build import build
from monitorgen.errors import InputError, ToolMissing
from monitorgen.profile import load_profile
from monitorgen.prove import alertmanager as room
from monitorgen.prove.alertmanager import (
    Alertmanager,
    AlertmanagerClient,
    AlertmanagerError,
    PostedAlert,
    find_alertmanager,
    for_proof,
)
from monitorgen.prove.processes import ProcessError, poll_until
from monitorgen.prove.prometheus import Prometheus
from monitorgen.prove.webhook import WebhookReceiver
from monitorgen.targets.alertmanager import alertmanager_config

CONFIG = """
global: {resolve_timeout: 10m, smtp_smarthost: "mail:25", smtp_from: a@example.org}
templates: [nowhere/*.tmpl]
route:
  receiver: notify
  group_by: [alertname, model_name]
  group_wait: 30s
  routes:
    - {receiver: page, matchers: [severity="critical"], group_wait: 10s, repeat_interval: 1h}
    - {receiver: "log/it", matchers: [severity="info"], group_interval: 1ms}
inhibit_rules:
  - source_matchers: [alertname="Full"]
    target_matchers: [alertname="NearlyFull"]
    equal: [instance]
receivers:
  - {name: page, slack_configs: [{api_url: "https://example.org/secret", channel: "#x"}]}
  - {name: notify, email_configs: [{to: b@example.org}]}
  - {name: log/it}
"""
WAIT = 90.0  # seconds that a machine may take that stands still at times


@contextmanager
def running(binary: Path, workdir: Path) -> Iterator[tuple[Alertmanager, WebhookReceiver]]:
    """An Alertmanager with CONFIG, every duration 100 ms or so, and the webhook behind it."""
    with WebhookReceiver() as webhook:
        config = for_proof(CONFIG, webhook.url, 1e6)
        with Alertmanager(config, workdir=workdir, binary=binary) as server:
            yield server, webhook


def posted(name: str, severity: str, instance: str = "a:1", **more: str) -> PostedAlert:
    labels = {"alertname": name, "severity": severity, "instance": instance}
    return PostedAlert(labels, {"summary": f'{name} at "{instance}": 90 %, ü'} | more, time.time())


def test_an_alert_posted_reaches_its_receiver_and_is_resolved(alertmanager: Path, tmp_path: Path) -> None:
    firing = posted("Slow", "info", description="two\nlines {{ $value }}")
    with running(alertmanager, tmp_path) as (server, webhook):
        assert server.version().split(".")[0] == "0"
        assert server.receivers() == ("page", "notify", "log/it")
        server.post([firing])
        one = webhook.wait_for(lambda d: d.status == "firing", WAIT)
        (held,) = server.alerts()
        ended = time.time()
        server.post([PostedAlert(firing.labels, firing.annotations, firing.starts_at, ended)])
        gone = webhook.wait_for(lambda d: d.status == "resolved", WAIT)
        assert webhook.errors() == ()
    assert one is not None
    assert one.receiver == "log/it"
    assert (one.labels, one.annotations) == (firing.labels, firing.annotations)
    assert one.starts_at == pytest.approx(firing.starts_at, abs=0.001)
    assert (held.labels, held.annotations) == (firing.labels, firing.annotations)
    assert (held.name, held.receivers, held.state) == ("Slow", ("log/it",), "active")
    assert held.fingerprint == one.fingerprint
    assert gone is not None
    assert (gone.receiver, gone.labels) == ("log/it", firing.labels)
    assert gone.ends_at == pytest.approx(ended, abs=0.001)


RULES = {
    "groups": [
        {
            "name": "g",
            "rules": [
                {
                    "alert": name,
                    "expr": f'label_replace(vector({value}), "model_name", "a/b", "", "") < 3',
                    "labels": {"severity": severity},
                    "annotations": {"summary": "{{ $labels.model_name }} at {{ $value }}"},
                }
                for name, severity, value in (
                    ("Page", "critical", 1),
                    ("Look", "warning", 2),
                    ("Calm", "info", 7),
                )
            ],
        }
    ]
}
# The alerts end when their rule does: the file is written again and Prometheus reads it again.
QUIET = {"groups": [{"name": "g", "rules": [{"alert": "Page", "expr": "vector(7) < 3"}]}]}


def test_a_rule_in_a_real_prometheus_reaches_the_webhook(
    one_alertmanager: Path, one_prometheus: Path, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        server, webhook = stack.enter_context(running(one_alertmanager, tmp_path / "alertmanager"))
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [server.target]}]}]},
        }
        prometheus = stack.enter_context(
            Prometheus(
                yaml.safe_dump(config),
                workdir=tmp_path / "prometheus",
                files={"rules.yaml": yaml.safe_dump(RULES)},
                binary=one_prometheus,
                # It looks for its Alertmanagers after five seconds, and sends an alert again after a minute.
                flags=("--web.enable-lifecycle", "--rules.alert.resend-delay=1s"),
            )
        )
        page = webhook.wait_for(lambda d: d.name == "Page", WAIT)
        look = webhook.wait_for(lambda d: d.name == "Look", WAIT)
        states = {alert.labels["alertname"]: alert for alert in prometheus.alerts()}
        (tmp_path / "prometheus" / "rules.yaml").write_text(yaml.safe_dump(QUIET))
        reload(prometheus)
        gone = webhook.wait_for(lambda d: (d.name, d.status) == ("Page", "resolved"), WAIT)
        assert webhook.errors() == ()
        seen = {delivery.name for delivery in webhook.deliveries()}
    assert seen == {"Page", "Look"}
    assert page is not None
    assert look is not None
    for delivery, receiver, value in ((page, "page", "1"), (look, "notify", "2")):
        assert (delivery.receiver, delivery.status) == (receiver, "firing")
        assert delivery.annotations == states[delivery.name].annotations == {"summary": f"a/b at {value}"}
        assert delivery.labels == states[delivery.name].labels
        assert delivery.generator_url.startswith("http")
    assert gone is not None
    assert gone.receiver == "page"
    assert gone.ends_at > gone.starts_at


def reload(prometheus: Prometheus) -> None:
    request = urllib.request.Request(f"{prometheus.url}/-/reload", method="POST")
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60).close()


def test_inhibition_holds_on_the_same_instance_only(alertmanager: Path, tmp_path: Path) -> None:
    with running(alertmanager, tmp_path) as (server, webhook):
        server.post([posted("Full", "critical")])
        assert webhook.wait_for(lambda d: d.name == "Full", WAIT)
        server.post([posted("NearlyFull", "warning", "a:1"), posted("NearlyFull", "warning", "b:2")])
        assert webhook.wait_for(lambda d: d.labels["instance"] == "b:2", WAIT)

        def suppressed() -> bool:
            return any(alert.state == "suppressed" for alert in server.alerts())

        server.child.wait_until(suppressed, timeout=WAIT, what="an inhibition")
        held = {(alert.name, alert.labels["instance"]): alert for alert in server.alerts()}
        told = {(delivery.name, delivery.labels["instance"]) for delivery in webhook.deliveries()}
    full, near = held["Full", "a:1"], held["NearlyFull", "a:1"]
    assert (near.state, near.inhibited_by) == ("suppressed", (full.fingerprint,))
    assert held["NearlyFull", "b:2"].state == "active"
    assert told == {("Full", "a:1"), ("NearlyFull", "b:2")}


def test_the_generated_routes_page_and_hold_back_as_they_say(alertmanager: Path, tmp_path: Path) -> None:
    bundle = build(load_profile("optimized")).bundle
    severities = {alert.alert: dict(alert.labels)["severity"] for alert in bundle.alerts}

    def one(name: str, instance: str) -> PostedAlert:
        target = {"job": "vllm", "instance": instance, "model_name": "a/b"}
        return PostedAlert({"alertname": name, "severity": severities[name], **target}, {}, time.time())

    def told(webhook: WebhookReceiver) -> set[tuple[str, str, str]]:
        return {(one.name, one.labels["instance"], one.receiver) for one in webhook.deliveries()}

    with WebhookReceiver() as webhook:
        config = for_proof(alertmanager_config(bundle), webhook.url, 1e6)
        with Alertmanager(config, workdir=tmp_path, binary=alertmanager) as server:
            server.post([one("KVCacheCritical", "a:1"), one("TargetDown", "a:1")])
            assert webhook.wait_for(lambda d: d.name == "KVCacheCritical", WAIT)
            assert webhook.wait_for(lambda d: d.name == "TargetDown", WAIT)
            soft = [one("KVCacheHigh", "a:1"), one("KVCacheHigh", "b:2"), one("TTFTHigh", "a:1")]
            server.post([*soft, one("PrefixCacheCold", "a:1")])
            for name in ("KVCacheHigh", "TTFTHigh", "PrefixCacheCold"):
                assert webhook.wait_for(lambda d, name=name: d.name == name, WAIT)
            suppressed = [alert for alert in server.alerts() if alert.state == "suppressed"]
            assert [(alert.name, alert.labels["instance"]) for alert in suppressed] == [
                ("KVCacheHigh", "a:1")
            ]
            assert told(webhook) == {
                ("KVCacheCritical", "a:1", "page"),
                ("TargetDown", "a:1", "page"),
                ("KVCacheHigh", "b:2", "notify"),
                ("TTFTHigh", "a:1", "notify"),
                ("PrefixCacheCold", "a:1", "log"),
            }


def test_nothing_is_left_behind(one_alertmanager: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(elsewhere)
        with running(one_alertmanager, tmp_path / "work") as (server, webhook):
            process = server.child.process
            server.post([posted("Slow", "warning")])
            assert webhook.wait_for(lambda d: d.status == "firing", WAIT)
    assert process.poll() is not None
    assert list(elsewhere.iterdir()) == []
    assert {path.name for path in (tmp_path / "work").iterdir()} == {
        "alertmanager",
        "alertmanager.log",
        "alertmanager.yaml",
    }
    with pytest.raises(AlertmanagerError, match="does not answer"):
        server.alerts()
    with pytest.raises(AlertmanagerError, match="not running"):
        _ = server.child


def test_only_one_port_is_open(one_alertmanager: Path, tmp_path: Path) -> None:
    """No gossip: the process listens on its web port of the loopback interface and nowhere else."""
    listens = "0A"
    with running(one_alertmanager, tmp_path) as (server, _):
        folder = Path(f"/proc/{server.child.process.pid}")
        if not folder.exists():
            pytest.skip("no /proc here to look up sockets in")
        inodes = {
            str(link.readlink()).removeprefix("socket:[").removesuffix("]")
            for link in (folder / "fd").iterdir()
            if str(link.readlink()).startswith("socket:")
        }
        rows = [
            line.split()
            for table in ("tcp", "tcp6", "udp", "udp6")
            for line in (folder / "net" / table).read_text().splitlines()[1:]
        ]
    mine = [row for row in rows if row[9] in inodes]
    port = int(server.target.rpartition(":")[2])
    assert [row[1] for row in mine if row[3] == listens] == [f"0100007F:{port:04X}"]
    assert not [row for row in mine if row[3] == "07"], "07 is an unconnected UDP socket"


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ("nonsense: 1", "field nonsense not found"),
        ("route: {receiver: a}\nreceivers: [{name: b}]", 'undefined receiver "a"'),
        ("receivers: [{name: b}]", "no route"),
        ("route: [", "did not find expected node content"),
    ],
)
def test_a_refused_config_is_one_line(config: str, wanted: str, alertmanager: Path, tmp_path: Path) -> None:
    server = Alertmanager(config, workdir=tmp_path, binary=alertmanager)
    with pytest.raises(ProcessError, match=wanted) as caught, server:
        pytest.fail("it must not start")
    assert "\n" not in str(caught.value)
    with pytest.raises(AlertmanagerError, match="not running"):
        _ = server.child


def test_a_port_that_is_taken_is_told(one_alertmanager: Path, tmp_path: Path) -> None:
    with WebhookReceiver() as taken:
        port = int(taken.url.rpartition(":")[2])
        server = Alertmanager(CONFIG, workdir=tmp_path, binary=one_alertmanager, port=port)
        wanted = rf"cannot listen on 127\.0\.0\.1:{port}: Address already in use"
        with pytest.raises(AlertmanagerError, match=wanted), server:
            pytest.fail("it must not start")
    assert not (tmp_path / "alertmanager").exists()


def test_a_free_port_that_is_taken_meanwhile_is_given_up(
    alertmanager: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WebhookReceiver() as taken, WebhookReceiver() as webhook:
        first = int(taken.url.rpartition(":")[2])
        ports = iter([first, room.free_port()])
        monkeypatch.setattr(room, "free_port", lambda: next(ports))
        config = for_proof(CONFIG, webhook.url, 1e6)
        with Alertmanager(config, workdir=tmp_path, binary=alertmanager) as server:
            assert server.receivers()
            assert server.target != f"127.0.0.1:{first}"
        monkeypatch.setattr(room, "free_port", lambda: first)
        with (
            pytest.raises(ProcessError, match="address already in use"),
            Alertmanager(config, workdir=tmp_path, binary=alertmanager),
        ):
            pytest.fail("it must not start")


def test_a_server_that_is_killed_is_told(one_alertmanager: Path, tmp_path: Path) -> None:
    with running(one_alertmanager, tmp_path) as (server, _):
        server.child.process.kill()
        pause = threading.Event().wait
        assert poll_until(lambda: not server.child.alive, timeout=WAIT, pause=pause)
        with pytest.raises(ProcessError, match=r"alertmanager was killed \(SIGKILL\)"):
            server.child.check()
        with pytest.raises(AlertmanagerError, match="does not answer"):
            server.post([posted("Slow", "warning")])


def test_a_refused_alert_is_told_in_its_words(alertmanager: Path, tmp_path: Path) -> None:
    with running(alertmanager, tmp_path) as (server, _):
        with pytest.raises(AlertmanagerError, match=r"Alertmanager refuses: .*(start time|end time)"):
            server.post([PostedAlert({"alertname": "x"}, {}, 2e9, 1e9)])
        with pytest.raises(AlertmanagerError, match=r"Alertmanager refuses: .*at least one label"):
            server.post([PostedAlert({}, {}, 1e9)])
        assert server.alerts() == ()


def test_the_environment_names_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(room.BINARY_VARIABLE, raising=False)
    with pytest.raises(ToolMissing, match="alertmanager is not on PATH"):
        find_alertmanager()
    debian = tmp_path / "prometheus-alertmanager"
    debian.write_text("#!/bin/sh\n")
    debian.chmod(0o755)
    assert find_alertmanager() == debian
    usual = tmp_path / "alertmanager"
    usual.write_text("#!/bin/sh\n")
    usual.chmod(0o755)
    assert find_alertmanager() == usual
    monkeypatch.setenv(room.BINARY_VARIABLE, str(debian))
    assert find_alertmanager() == debian
    monkeypatch.setenv(room.BINARY_VARIABLE, str(tmp_path / "gone"))
    with pytest.raises(ToolMissing, match=r"gone .from MONITORGEN_ALERTMANAGER. cannot be run"):
        find_alertmanager()


def test_a_config_for_a_proof_keeps_routes_and_reaches_nobody_else() -> None:
    tree = yaml.safe_load(for_proof(CONFIG, "http://127.0.0.1:7/", 20))
    assert tree["global"] == {"resolve_timeout": "30s"}
    assert "templates" not in tree
    assert tree["route"] == {
        "receiver": "notify",
        "group_by": ["alertname", "model_name"],
        "group_wait": "1s500ms",
        "group_interval": "15s",  # five minutes where nothing is said
        "repeat_interval": "12m",  # four hours where nothing is said
        "routes": [
            {
                "receiver": "page",
                "matchers": ['severity="critical"'],
                "group_wait": "500ms",
                "repeat_interval": "3m",
            },
            {"receiver": "log/it", "matchers": ['severity="info"'], "group_interval": "100ms"},
        ],
    }
    assert tree["inhibit_rules"] == yaml.safe_load(CONFIG)["inhibit_rules"]
    webhooks = {one["name"]: one["webhook_configs"] for one in tree["receivers"]}
    assert [list(one) for one in tree["receivers"]] == [["name", "webhook_configs"]] * 3
    assert {name: [hook["url"] for hook in hooks] for name, hooks in webhooks.items()} == {
        "page": ["http://127.0.0.1:7/page"],
        "notify": ["http://127.0.0.1:7/notify"],
        "log/it": ["http://127.0.0.1:7/log%2Fit"],
    }
    assert all(hook["send_resolved"] is True for hooks in webhooks.values() for hook in hooks)
    shortest = yaml.safe_load(for_proof(CONFIG, "http://x", 1e9))
    assert (shortest["global"]["resolve_timeout"], shortest["route"]["repeat_interval"]) == ("5s", "100ms")
    silent = yaml.safe_load(for_proof("route: {receiver: a}\nreceivers: [{name: a}]", "http://x", 1))
    assert silent["global"] == {"resolve_timeout": "5m"}


@pytest.mark.parametrize(
    ("config", "scale", "wanted"),
    [
        (CONFIG, 0, "time scale 0 is not above 0"),
        (CONFIG, float("nan"), "time scale nan"),
        ("a: [", 1, "no YAML"),
        ("a", 1, "no route"),
        ("receivers: []", 1, "no route"),
        ("route: {}", 1, "no list of named receivers"),
        ("route: {}\nreceivers: [{}]", 1, "no list of named receivers"),
        ("route: {group_wait: soon}\nreceivers: []", 1, "group_wait: not a duration: 'soon'"),
    ],
)
def test_what_is_no_config_is_wrong_input(config: str, scale: float, wanted: str) -> None:
    with pytest.raises(InputError, match=wanted) as caught:
        for_proof(config, "http://127.0.0.1:7", scale)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "127.0.0.1:9093", "ftp://x"])
def test_an_address_is_checked(url: str) -> None:
    with pytest.raises(InputError, match="is no Alertmanager address"):
        AlertmanagerClient(url)


def test_another_programs_answers_are_one_error() -> None:
    with WebhookReceiver() as other:  # answers no GET
        client = AlertmanagerClient(other.url)
        assert client.ready() is False
        with pytest.raises(AlertmanagerError, match="Alertmanager refuses: HTTP 501"):
            client.alerts()
        with pytest.raises(AlertmanagerError, match="HTTP 400"):
            client.post([posted("x", "info")])
        assert [error.path for error in other.errors()] == ["/api/v2/alerts"]
