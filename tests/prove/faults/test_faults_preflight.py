"""What one look at an endpoint says of every fault, before any Prometheus starts; no secret is ever shown."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from monitorgen.bundle import ScrapeJob
from monitorgen.errors import InputError
from monitorgen.prove.access import Access
from monitorgen.prove.preflight import Checked, preflight, preflight_all
from monitorgen.prove.sources import Source

TOKEN = "hunter2-token-value"  # what must not be seen anywhere
PAGE = '# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{engine="0"} 3\n'
JOBS = (ScrapeJob("chat", ("h:1",), "vllm"), ScrapeJob("decode", ("h:2",), "workload"))
MIB = 1 << 20
LINE = b'a_metric_of_many{number="1234567890123456789012345678901234567890"} 1\n'  # 70 bytes, about


def ok(request: Any) -> None:
    request.send(PAGE)


def slow(request: Any) -> None:
    request.server.ended.wait(30)


def drip(request: Any) -> None:
    request.start()
    while not request.server.ended.wait(0.05):
        request.write(b"a 1\n")


def huge(request: Any) -> None:
    """100 MB, made as it is sent."""
    request.start()
    chunk = LINE * 1000
    while request.server.sent < 100_000_000:
        request.write(chunk)
        request.server.sent += len(chunk)


def huge_zipped(request: Any) -> None:
    """100 MB of text in 100 kB."""
    request.send(gzip.compress(LINE * (100_000_000 // len(LINE)), 1), Content_Encoding="gzip")


def cut(request: Any) -> None:
    request.start(Content_Length="5000")
    request.write(PAGE.encode())


def hang_up(request: Any) -> None:
    request.handler.connection.shutdown(socket.SHUT_RDWR)


def garbage(request: Any) -> None:
    request.handler.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")


def status(code: int, **headers: str) -> Callable[[Any], None]:
    return lambda request: request.send("<html>no</html>", code, "text/html", **headers)


def says(body: str | bytes, kind: str | None = "text/plain; version=0.0.4") -> Callable[[Any], None]:
    return lambda request: request.send(body, kind=kind)


def look(server: Any, access: Access | None = None, **options: Any) -> Checked:
    source = Source("", server.target, scheme=server.scheme, access=access or Access())
    checked = preflight(source, JOBS, **{"timeout": 60.0, **options})
    assert all("\n" not in problem for problem in checked.problems)
    assert server.methods <= {"GET"}
    return checked


def test_a_good_page_has_no_problem_and_tells_its_job(serve: Any) -> None:
    server = serve(ok)
    checked = look(server)
    assert (checked.problems, checked.notes) == ((), ())
    assert checked.source == Source("chat", server.target)
    assert checked.families == {"vllm:num_requests_running"}
    assert server.count == 1


FAMILY = b"\x0a\x0ametric_one\x12\x04help\x18\x01"
PROTOBUF = bytes([len(FAMILY)]) + FAMILY
FAULTS = {
    "slow": (slow, "did not answer within 0.3 s"),
    "dripping": (drip, "did not answer within 0.3 s"),
    "cut short": (cut, f"ends its page early: {len(PAGE)} of 5000 bytes"),
    "hangs up": (hang_up, "does not answer in HTTP (does it want https:// ?)"),
    "another protocol": (garbage, "does not answer in HTTP"),
    "401": (status(401), "asks for credentials (401 Unauthorized) (give --bearer-token-file"),
    "403": (status(403), "asks for credentials (403 Forbidden)"),
    "404": (status(404), "answers 404 Not Found (the path is usually /metrics)"),
    "500": (status(500), "answers 500 Internal Server Error"),
    "503": (status(503), "answers 503 Service Unavailable (is the server still starting?)"),
    "redirect": (status(302, Location="/login"), "/login (302) (give that address"),
    "to elsewhere": (
        status(301, Location=f"https://u:{TOKEN}@h/m?token={TOKEN}"),
        "redirects to https://h/m (301)",
    ),
    "in a circle": (status(307, Location="/metrics"), "redirects to itself (307)"),
    "to nowhere": (status(302), "redirects to itself"),
    "a web page": (says("<html>", "text/html; charset=utf-8"), "answers with a web page"),
    "malformed": (says("a 1\nb 2\nc{x=} 3\n"), "/metrics:3:1: the labels are broken"),
    "JSON": (says('{"a": 1}', "application/json"), "/metrics:1:1:"),
    "protobuf": (says(PROTOBUF, "application/vnd.google.protobuf"), "answers in protobuf"),
    "untold protobuf": (says(PROTOBUF), "is protobuf, not text"),
    "binary": (says(b"a \xff\xfe 1\n"), "is not UTF-8 text (line 1)"),
    "empty": (says(""), "the page holds no samples"),
    "only comments": (says("# HELP a b\n"), "the page holds no samples"),
    "nobody's": (says("node_load1 1\n"), "no family of what the profile watches (vllm, workload)"),
}


@pytest.mark.parametrize(("fault", "wanted"), FAULTS.values(), ids=FAULTS)
def test_each_fault_is_one_line_with_the_address(fault: Any, wanted: str, serve: Any) -> None:
    server = serve(fault)
    quick = {"timeout": 0.3} if fault in (slow, drip) else {}
    (problem,) = look(server, **quick).problems
    assert wanted in problem
    assert server.target in problem
    assert TOKEN not in problem


@pytest.mark.parametrize("fault", [huge, huge_zipped])
def test_a_huge_page_is_not_read_to_its_end(fault: Any, serve: Any) -> None:
    server = serve(fault)
    (problem,) = look(server, limit=2 * MIB, timeout=120.0).problems
    assert problem == f"{server.url} is larger than 2 MiB"
    assert server.sent < 50_000_000


def test_nothing_listens_and_no_such_name() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{closed.getsockname()[1]}"
        assert preflight(Source("chat", target), JOBS).problems == (
            f"http://{target}/metrics: nothing listens there (connection refused) (is the server up?)",
        )
    (problem,) = preflight(Source("chat", "no-such-host.invalid:80"), JOBS).problems
    assert "the name no-such-host.invalid is not known" in problem


@pytest.mark.parametrize("kind", [None, "application/json", "text/x-metrics"])
def test_a_page_without_a_known_content_type_is_noted(kind: str | None, serve: Any) -> None:
    checked = look(serve(says(PAGE, kind)))
    assert checked.ok
    (note,) = checked.notes
    assert "fallback_scrape_protocol: PrometheusText0.0.4" in note
    assert (kind or "no content type") in note


def test_a_page_of_another_engine_than_its_job_is_noted(serve: Any) -> None:
    server = serve(ok)
    checked = preflight(Source("decode", server.target), JOBS)
    assert checked.ok
    assert checked.notes == (f"{server.url} exports no family of workload, which job decode is for",)


def test_a_slow_endpoint_tells_how_long_it_took(serve: Any) -> None:
    def later(request: Any) -> None:
        request.server.ended.wait(0.2)
        request.send(PAGE)

    assert 0.2 <= look(serve(later)).seconds < 60


def wants(header: str) -> Callable[[Any], None]:
    """Answers with the page to the right credentials, and to wrong ones with what was sent."""

    def answer(request: Any) -> None:
        if request.headers.get("Authorization") == header:
            request.send(PAGE)
        else:
            request.send(f"wrong {request.headers.get('Authorization')}", 401)

    return answer


BASIC = "Basic YW5uOmh1bnRlcjItdG9rZW4tdmFsdWU="  # ann:hunter2-token-value


@pytest.mark.parametrize(("kind", "header"), [("bearer", f"Bearer {TOKEN}"), ("basic", BASIC)])
def test_credentials_are_read_from_files(kind: str, header: str, serve: Any, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(f"{TOKEN}\n")
    access = (
        Access(bearer_token_file=path)
        if kind == "bearer"
        else Access(basic_auth_user="ann", basic_auth_password_file=path)
    )
    server = serve(wants(header))
    assert look(server, access).ok
    assert server.seen == [header]
    path.write_text("another")
    (problem,) = look(server, access).problems
    assert f"refuses the credentials of {path} (401 Unauthorized)" in problem
    path.unlink()
    (problem,) = look(server, access).problems
    assert "cannot be read: No such file" in problem
    assert server.count == 2


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", BASIC])
def test_a_server_that_sends_our_secret_back_does_not_get_it_shown(
    header: str, serve: Any, tmp_path: Path
) -> None:
    path = tmp_path / "secret"
    path.write_text(TOKEN)
    access = (
        Access(bearer_token_file=path)
        if header.startswith("Bearer")
        else Access(basic_auth_user="ann", basic_auth_password_file=path)
    )
    for answer in (
        lambda request: request.send(f"you sent {request.headers['Authorization']}"),
        lambda request: request.send("", 302, Location=f"/{request.headers['Authorization'].split()[1]}"),
        lambda request: request.send(PAGE, kind=f"text/{request.headers['Authorization'].split()[1]}"),
    ):
        server = serve(answer)
        checked = look(server, access)
        told = repr(checked)
        assert checked.problems or checked.notes
        assert server.seen == [header]
        assert TOKEN not in told
        assert BASIC.split()[1] not in told


def test_tls_is_checked_against_the_authority_and_the_name(serve: Any, tls: Path) -> None:
    inside, elsewhere = serve(ok, "server"), serve(ok, "elsewhere")
    trusting = Access(ca_file=tls / "ca.pem")
    assert look(inside, trusting).ok
    assert look(inside, Access(insecure=True)).ok
    assert look(elsewhere, replace(trusting, server_name="elsewhere.test")).ok
    (problem,) = look(inside).problems
    assert "its certificate is refused" in problem
    assert "--ca-file" in problem
    for access in (trusting, replace(trusting, server_name="inside.test")):
        (problem,) = look(elsewhere, access).problems
        assert "its certificate is refused" in problem
        assert "--server-name" in problem


def test_a_server_that_wants_a_client_certificate(serve: Any, tls: Path) -> None:
    server = serve(ok, "server", wants_client=True)
    trusting = Access(ca_file=tls / "ca.pem")
    assert look(server, replace(trusting, cert_file=tls / "client.pem", key_file=tls / "client.key")).ok
    (problem,) = look(server, trusting).problems
    assert "--cert-file" in problem


def test_plain_and_encrypted_are_told_apart(serve: Any) -> None:
    plain, encrypted = serve(ok), serve(ok, "server")
    (problem,) = preflight(Source("chat", plain.target, scheme="https")).problems
    assert "write http://" in problem
    (problem,) = preflight(Source("chat", encrypted.target)).problems
    assert "https://" in problem


def test_endpoints_are_looked_at_together_and_told_in_their_order(serve: Any) -> None:
    """Each answers only once all of them have been asked; one after the other, none ever would."""
    together = threading.Barrier(6)

    def with_the_others(request: Any) -> None:
        together.wait(60)
        request.send(PAGE)

    servers = [serve(with_the_others) for _ in range(6)]
    checked = preflight_all([f"chat={server.url}" for server in servers], jobs=JOBS, timeout=60)
    assert all(one.ok for one in checked)
    assert [one.source.target for one in checked] == [server.target for server in servers]


def test_slow_endpoints_are_given_up(serve: Any) -> None:
    checked = preflight_all([f"chat={serve(slow).url}" for _ in range(2)], jobs=JOBS, timeout=0.5)
    assert all("within 0.5 s" in one.problems[0] for one in checked)


def test_a_missing_secret_is_found_before_anyone_is_asked(serve: Any, tmp_path: Path) -> None:
    server = serve(ok)
    with pytest.raises(InputError, match="cannot be read"):
        preflight_all([server.url], Access(bearer_token_file=tmp_path / "none"), JOBS)
    assert server.count == 0
