"""Workload files: what they say is what is run, and what is wrong is named with file and key."""

from __future__ import annotations

import statistics
from itertools import pairwise
from pathlib import Path

import pytest

from monitorgen.kernels.decode.workload_config import (
    Arrivals,
    Decoder,
    Requests,
    WorkloadConfig,
    bundled,
    find_config,
    load_config,
    make_requests,
)
from monitorgen.kernels.workload import UsageError


@pytest.mark.parametrize("name", ["flex_attention", "gpu", "sliding_window"])
def test_every_bundled_file_loads(name: str) -> None:
    config = load_config(bundled()[name])
    assert "flex" in config.decoder.backends
    assert find_config(name) == find_config(f"{name}.yaml") == find_config(f"configs/{name}.yaml")


def test_a_file_beside_us_comes_before_a_bundled_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "configs" / "gpu.yaml"
    mine.parent.mkdir()
    mine.write_text("seed: 7\nrequests: {count: 3, prompt_tokens: [2, 5]}\nslo: {ttft_ms: 20}\n")
    monkeypatch.chdir(tmp_path)
    config = load_config(find_config("configs/gpu.yaml"))
    assert (config.seed, config.requests.count, config.requests.prompt_tokens) == (7, 3, (2, 5))
    assert config.slo.ttft_ms == 20.0
    assert config.model == "tiny"  # what a file does not say stays as it is


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    empty = tmp_path / "empty.yaml"
    empty.write_text("# nothing\n")
    assert load_config(empty) == WorkloadConfig()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modle: tiny", "modle: unknown key; did you mean model?"),
        ("decoder: {slot: 3}", "decoder.slot: unknown key; did you mean slots?"),
        ("zzz: 1", "zzz: unknown key; known: arrivals, decoder,"),
        ("decoder: {backends: [flx]}", "decoder.backends[0]: 'flx' must be one of"),
        ("decoder: {backends: [flx]}", "did you mean flex?"),
        ("decoder: {backends: flex}", "decoder.backends: 'flex' must be a list"),
        ("decoder: {backends: [flex, flex]}", "decoder.backends: ['flex', 'flex'] must name one or"),
        ("decoder: {backends: []}", "decoder.backends: [] must name one or more"),
        ("decoder: {backends: [triton], window: 3}", "decoder.backends: triton has no sliding window"),
        ("decoder: {backends: [vllm], window: 3}", "decoder.backends: vllm takes its window from the model"),
        ("decoder: {slots: 0}", "decoder.slots: 0 must be 1 or more"),
        ("decoder: {slots: 2.5}", "decoder.slots: 2.5 must be a whole number"),
        ("decoder: {slots: true}", "decoder.slots: True must be a whole number"),
        ("decoder: {window: -1}", "decoder.window: -1 must be 0 or more"),
        ("decoder: {block: 24}", "decoder.block: 24 must be a power of two, 16 or more"),
        ("decoder: {context: 60}", "decoder.context: 60 places; a prompt of 48 tokens and 24 new"),
        ("decoder: 3", "decoder: 3 must be a mapping"),
        ("requests: {prompt_tokens: [5, 2]}", "requests.prompt_tokens: [5, 2] must be [least, most]"),
        ("requests: {prompt_tokens: [0, 2]}", "requests.prompt_tokens: [0, 2] must be [least, most]"),
        ("requests: {prompt_tokens: [5]}", "requests.prompt_tokens: [5] must be a list of 2"),
        ("requests: {new_tokens: [a, 2]}", "requests.new_tokens[0]: 'a' must be a whole number"),
        ("arrivals: {process: poison}", "arrivals.process: 'poison' must be one of at_once, con"),
        ("arrivals: {rate: 0}", "arrivals.rate: 0 requests a second must be over 0"),
        ("arrivals: {rate: .nan}", "arrivals.rate: nan requests a second must be over 0"),
        ("slo: {ttft_ms: fast}", "slo.ttft_ms: 'fast' must be a number"),
        ("slo: {inter_token_ms: -1}", "slo.inter_token_ms: -1 ms must be over 0"),
        ("model: 3", "model: 3 must be text"),
        ("seed: -4", "seed: -4 must be 0 or more"),
        ("dtype: bf17", "did you mean bf16?"),
        ("[1, 2]", "the file: [1, 2] must be a mapping"),
        ("a: [", "no YAML"),
        ("parity: {logits_of: -1}", "parity.logits_of: -1 must be 0 or more"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_with_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_config(file)
    line = str(caught.value)
    assert line.startswith(str(file))
    assert said in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("configs/flex_atention.yaml", "did you mean configs/flex_attention.yaml?"),
        ("x/y.yaml", "bundled: flex"),
    ],
)
def test_a_file_that_is_not_there(name: str, said: str) -> None:
    with pytest.raises(UsageError, match="no such file") as caught:
        find_config(name)
    assert said in str(caught.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Is a directory"):
        load_config(tmp_path)


def test_requests_are_the_same_for_the_same_seed() -> None:
    config = WorkloadConfig(
        requests=Requests(400, (3, 9), (2, 6)), arrivals=Arrivals("poisson", 20.0), decoder=Decoder()
    )
    made = make_requests(config, 50)
    assert made == make_requests(config, 50)
    assert [one.number for one in made] == list(range(400))
    assert {len(one.prompt) for one in made} == set(range(3, 10))
    assert {one.new_tokens for one in made} == set(range(2, 7))
    assert {token for one in made for token in one.prompt} == set(range(50))
    gaps = [later.arrival - sooner.arrival for sooner, later in pairwise(made)]
    assert min(gaps) >= 0
    # The gaps of a Poisson process have mean and deviation 1 / rate; three standard errors of 399 of them.
    assert statistics.fmean(gaps) == pytest.approx(0.05, abs=3 * 0.05 / 399**0.5)
    assert statistics.stdev(gaps) == pytest.approx(0.05, rel=0.25)


@pytest.mark.parametrize(("process", "arrivals"), [("at_once", [0, 0, 0]), ("constant", [0, 0.25, 0.5])])
def test_arrivals(process: str, arrivals: list[float]) -> None:
    config = WorkloadConfig(requests=Requests(3), arrivals=Arrivals(process, 4.0))  # type: ignore[arg-type]
    assert [one.arrival for one in make_requests(config, 9)] == arrivals
