"""`monitorgen catalog` as a user runs it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from monitorgen import telemetry
from monitorgen.catalog.userfile import read
from monitorgen.cli.catalog import catalog
from monitorgen.errors import InputError

SCRAPES = Path(__file__).parents[1] / "fixtures" / "scrapes"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(catalog, arguments)


def ran(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: str) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, InputError), result.output
    return str(result.exception)


def test_list() -> None:
    text = ran("list")
    assert all(
        reference in text
        for reference in ("vllm@0.9.2", "vllm@0.32.0", "prometheus@2", f"workload@{telemetry.VERSION}")
    )
    rows = json.loads(ran("list", "--engine", "vllm", "--format", "json"))
    assert {row["engine"] for row in rows} == {"vllm"}
    assert sum(row["recorded"] for row in rows) == 6
    assert "no catalog of engine" in refused("list", "--engine", "tgi")


def test_show_a_catalog() -> None:
    (line,) = (
        line for line in ran("show", "vllm@0.32").splitlines() if "vllm:iteration_tokens_total" in line
    )
    assert "histogram" in line
    assert "tokens" in line
    assert line == line.rstrip()
    names = [row["name"] for row in json.loads(ran("show", "vllm@0.9", "--format", "json"))["families"]]
    assert names == sorted(names)
    assert "vllm:gpu_cache_usage_perc" in names


def test_show_a_family_or_its_series() -> None:
    assert "finished_reason: abort, error, length, repetition, stop" in ran(
        "show", "vllm@0.32", "vllm:request_success_total"
    )
    plain = json.loads(
        ran("show", "vllm@0.32", "vllm:time_to_first_token_seconds_bucket", "--format", "json")
    )
    assert plain["name"] == "vllm:time_to_first_token_seconds"
    assert plain["buckets"][0] == 0.001


def test_show_offers_near_names() -> None:
    message = refused("show", "vllm@0.32", "vllm:gpu_cache_usage_perc")
    assert "vllm@0.32.0 has no family 'vllm:gpu_cache_usage_perc'" in message
    assert "did you mean vllm:kv_cache_usage_perc" in message


def test_capture_writes_a_catalog_and_asks_about_what_is_conditional(tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    pages = [str(SCRAPES / f"vllm-0.32.0{run}.prom.gz") for run in ("", ".ngram", ".flags")]
    text = ran(
        "capture",
        *pages,
        "--engine",
        "vllm",
        "--version",
        "0.32.0",
        "-o",
        str(out),
        "--needs",
        "vllm:spec_decode_*=--speculative-config",
    )
    families = read(out).families
    assert families["vllm:spec_decode_num_drafts_total"].needs == "--speculative-config"
    assert families["vllm:kv_block_lifetime_seconds"].needs == "seen in 1 of 3 scrapes"
    assert families["vllm:num_requests_running"].needs == ""
    assert "--needs 'vllm:kv_block_lifetime_seconds=--flag'" in text
    assert "spec_decode" not in text


def test_capture_is_the_same_bytes_again(tmp_path: Path) -> None:
    page = str(SCRAPES / "vllm-0.20.2.prom.gz")
    for name in "ab":
        ran("capture", page, "--engine", "vllm", "--version", "0.20.2", "-o", str(tmp_path / name))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.prom", "--version", "1"], "cannot read nowhere.prom"),
        ([str(SCRAPES / "vllm-0.20.2.prom.gz"), "--version", "new"], "'new' is not a version"),
        ([str(SCRAPES / "vllm-0.20.2.prom.gz"), "--version", "1", "--needs", "x"], "FAMILY=FLAG"),
    ],
)
def test_capture_refuses(tmp_path: Path, arguments: list[str], message: str) -> None:
    out = tmp_path / "out.yaml"
    assert message in refused("capture", *arguments, "--engine", "vllm", "-o", str(out))
    assert not out.exists()


def test_drift_without_rules_is_a_table_and_no_failure() -> None:
    text = ran("drift", "vllm@0.9", "vllm@0.32")
    assert "vllm:gpu_cache_usage_perc" in text
    assert "vllm@0.9.2 -> vllm@0.32.0: 4 renamed" in text
    assert "nothing changes" in ran("drift", "vllm@0.9", "vllm@0.9.2")


def test_drift_says_which_lines_of_a_rule_file_are_lost(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("groups:\n- rules:\n  - {alert: Full, expr: 'vllm:gpu_cache_usage_perc > 0.9'}\n")
    result = run("drift", "vllm@0.9", "vllm@0.32", "--rules", str(rules))
    assert result.exit_code == 1
    assert f"{rules}:3:25: alert/Full: vllm:gpu_cache_usage_perc was renamed" in result.stdout
    result = run("drift", "vllm@0.9", "vllm@0.32", "--rules", str(rules), "--format", "json")
    assert result.exit_code == 1
    (loss,) = json.loads(result.stdout)["lost"]
    assert (loss["line"], loss["hint"]) == (3, "use vllm:kv_cache_usage_perc")


def test_drift_is_content_with_rules_that_lose_nothing(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("groups:\n- rules:\n  - {alert: Busy, expr: 'vllm:num_requests_waiting > 9'}\n")
    assert "0 selectors lost in 1 expressions" in ran("drift", "vllm@0.9", "vllm@0.32", "--rules", str(rules))


def test_drift_between_engines_is_refused() -> None:
    assert "are different engines" in refused("drift", "vllm@0.9", "prometheus@2")
