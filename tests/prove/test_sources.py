"""What `--scrape` values mean, and the scrape configuration that reaches them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from monitorgen.bundle import ScrapeJob
from monitorgen.errors import InputError
from monitorgen.prove.access import Access
from monitorgen.prove.sources import Source, job_of_families, parse_source, scrape_config

TOKEN = "hunter2-token-value"  # what must not be seen anywhere
JOBS = (
    ScrapeJob("vllm", ("h:1",), "vllm", metrics_path="/m", labels=(("zone", "z"),)),
    ScrapeJob("decode", ("h:2",), "workload"),
)


@pytest.mark.parametrize(
    ("text", "job", "url"),
    [
        ("http://h:8000/metrics", "", "http://h:8000/metrics"),
        ("http://h:8000", "", "http://h:8000/metrics"),
        ("h:8000", "", "http://h:8000/metrics"),
        ("h", "", "http://h:80/metrics"),
        ("https://h/", "", "https://h:443/metrics"),
        ("https://h:444/a/b", "", "https://h:444/a/b"),
        ("http://[::1]:8000/metrics", "", "http://[::1]:8000/metrics"),
        ("vllm=http://h:8000", "vllm", "http://h:8000/m"),
        ("vllm=h:8000/other", "vllm", "http://h:8000/other"),
        ("decode=https://h", "decode", "https://h:443/metrics"),
    ],
)
def test_a_scrape_value_names_a_source(text: str, job: str, url: str) -> None:
    source = parse_source(text, jobs=JOBS)
    assert (source.job, source.url, source.kind) == (job, url, "scrape")
    assert source.labels == ((("zone", "z"),) if job == "vllm" else ())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "no address"),
        ("ftp://h", "no address"),
        ("http://", "no address"),
        ("http://h:99999", "no address: Port out of range"),
        ("http://h:0", "no address"),
        ("http://h:x", "no address"),
        ("http://[::1", "no address"),
        ("http://h/a b", "spaces or control characters"),
        ("http://h/\nHost: x", "spaces or control characters"),
        ("http://h/metrics?format=text", "more than a path"),
        ("http://h/metrics#top", "more than a path"),
        ("vlm=http://h", "no scrape job 'vlm' (did you mean vllm?)"),
        ("zzz=http://h", "no scrape job 'zzz' (there are: vllm, decode)"),
    ],
)
def test_what_is_no_source_is_refused(text: str, wanted: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_source(text, jobs=JOBS)
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"http://u:{TOKEN}@h:1/metrics",
        f"http://{TOKEN}@h",
        f"vllm=https://u:{TOKEN}@h",
        f"http://u:{TOKEN}/x@h",
        f"http://h/metrics?token={TOKEN}",
        f"//u:{TOKEN}@h",
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InputError, match="--bearer-token-file") as caught:
        parse_source(text, jobs=JOBS)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ({"vllm:num_requests_running", "process_cpu_seconds_total"}, "vllm"),
        ({"vllm:decode_tokens_total", "process_cpu_seconds_total"}, "decode"),
    ],
)
def test_a_page_tells_its_job(names: set[str], wanted: str) -> None:
    assert job_of_families(names, JOBS).job == wanted


@pytest.mark.parametrize(
    ("names", "jobs", "wanted"),
    [
        ({"node_cpu_seconds_total"}, JOBS, "no family of what the profile watches (vllm, workload)"),
        (set(), JOBS, "JOB=URL, with one of vllm, decode"),
        (
            {"vllm:num_requests_running"},
            (*JOBS, ScrapeJob("chat", (), "vllm")),
            "fits the scrape jobs vllm and chat",
        ),
        ({"vllm:num_requests_running"}, (), "no engine"),
        ({"a"}, (ScrapeJob("x", (), "mine"),), "no family"),
    ],
)
def test_a_page_that_tells_no_job_asks_for_one(
    names: set[str], jobs: tuple[ScrapeJob, ...], wanted: str
) -> None:
    with pytest.raises(InputError) as caught:
        job_of_families(names, jobs)
    assert wanted in str(caught.value)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"basic_auth_user": "u"}, "given together"),
        ({"basic_auth_password_file": Path("p")}, "given together"),
        ({"cert_file": Path("c")}, "given together"),
        ({"insecure": True, "ca_file": Path("c")}, "--insecure"),
        (
            {
                "bearer_token_file": Path("t"),
                "basic_auth_user": "u",
                "basic_auth_password_file": Path("p"),
            },
            "exclude",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, object], wanted: str) -> None:
    with pytest.raises(InputError, match=wanted):
        Access(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [None, b"", b"  \n", b"two\nlines", b"\xff"])
def test_a_token_file_holds_one_line(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="token"):
        Access(bearer_token_file=path).check()


@pytest.mark.parametrize("name", ["ca_file", "cert_file"])
@pytest.mark.parametrize("content", [None, "rubbish"])
def test_what_is_no_certificate_is_refused_by_name(name: str, content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "it.pem"
    if content is not None:
        path.write_text(content)
    options = {name: path, **({"key_file": path} if name == "cert_file" else {})}
    with pytest.raises(InputError, match=r"it\.pem"):
        Access(**options).check()  # type: ignore[arg-type]


def test_the_scrape_config_holds_every_source() -> None:
    sources = [
        Source("vllm", "h:1"),
        Source("vllm", "h:2", labels=(("zone", "z"),)),
        Source("vllm", "h:1"),  # once is enough
        Source("w", "h:3", "/m"),
    ]
    config = yaml.safe_load(scrape_config(sources, 2.0, ("rules/00-a.yaml",)))
    assert config["global"]["scrape_interval"] == config["global"]["evaluation_interval"] == "2s"
    assert config["rule_files"] == ["rules/00-a.yaml"]
    first, second = config["scrape_configs"]
    assert [s["targets"] for s in first["static_configs"]] == [["h:1"], ["h:2"]]
    assert first["static_configs"][1]["labels"] == {"zone": "z"}
    assert (second["job_name"], second["metrics_path"]) == ("w", "/m")


def test_sources_that_differ_in_access_keep_their_job() -> None:
    token = Access(bearer_token_file=Path("/s/token"))
    password = Access(basic_auth_user="ann", basic_auth_password_file=Path("/s/password"))
    sources = [
        Source("a", "h:1"),
        Source("a", "h:2", access=token),
        Source("a", "h:3", scheme="https", access=password),
        Source("a-2", "h:4"),
        Source("a", "h:5", access=token),
    ]
    configs = yaml.safe_load(scrape_config(sources, 1.0))["scrape_configs"]
    assert [config["job_name"] for config in configs] == ["a", "a-3", "a-4", "a-2"]
    targets = {
        static["targets"][0]: static["labels"].get("job", config["job_name"])
        for config in configs
        for static in config["static_configs"]
    }
    assert targets == {"h:1": "a", "h:2": "a", "h:3": "a", "h:4": "a-2", "h:5": "a"}
    assert configs[1]["authorization"] == {"type": "Bearer", "credentials_file": "/s/token"}
    assert configs[2]["basic_auth"] == {"username": "ann", "password_file": "/s/password"}
    assert "authorization" not in configs[0]


def test_two_sources_that_would_write_the_same_series_are_refused() -> None:
    with pytest.raises(InputError, match="would both be job v, instance h:1"):
        scrape_config([Source("v", "h:1"), Source("v", "h:1", "/other")], 2.0)


def test_every_prometheus_takes_the_scrape_config(promtool: Path, tls: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(TOKEN)
    sources = [
        Source("a", "h:1"),
        Source("a", "h:2", "/m", access=Access(bearer_token_file=secret)),
        Source(
            "a",
            "h:3",
            scheme="https",
            access=Access(
                basic_auth_user="u",
                basic_auth_password_file=secret,
                ca_file=tls / "ca.pem",
                cert_file=tls / "client.pem",
                key_file=tls / "client.key",
                server_name="inside.test",
            ),
        ),
        Source("b", "h:4", scheme="https", access=Access(insecure=True)),
    ]
    version = subprocess.run([promtool, "--version"], capture_output=True, text=True, check=True)
    newer = "version 3" in version.stdout + version.stderr
    text = scrape_config(sources, 0.5, fallback=newer)
    assert TOKEN not in text
    path = tmp_path / "prometheus.yml"
    path.write_text(text)
    done = subprocess.run([promtool, "check", "config", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def tls() -> Path:
    return Path(__file__).parents[1] / "fixtures" / "tls"
