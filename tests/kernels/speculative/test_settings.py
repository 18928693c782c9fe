"""Settings of speculation: what a file and flags say, and one clear line for what cannot be."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the workloads' extra is not installed")

from monitorgen.kernels.speculative import optimized_speculative_decoding as arm  # noqa: E402
from monitorgen.kernels.speculative import sweep, train  # noqa: E402
from monitorgen.kernels.speculative.adaptive import (  # noqa: E402
    AdaptiveK,
    expected_speedup,
    expected_tokens,
)
from monitorgen.kernels.speculative.plot import Line, log_plot, ticks  # noqa: E402
from monitorgen.kernels.speculative.settings import Settings, settings_from  # noqa: E402
from monitorgen.kernels.speculative.sweep import Point, best, read_sweep  # noqa: E402
from monitorgen.kernels.workload import UsageError  # noqa: E402

NO_FLAGS = dict.fromkeys(Settings.__dataclass_fields__)


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text, "utf-8")
    return path


def test_a_file_is_read_and_flags_go_over_it(tmp_path: Path) -> None:
    path = written(tmp_path, "method: ngram\nk: 6\nngram-max: 5\ntemperature: 1\n")
    flags = {**NO_FLAGS, "config": str(path), "k": 3, "adaptive": True}
    assert settings_from(flags) == Settings(method="ngram", k=3, adaptive=True, ngram_max=5, temperature=1.0)
    assert settings_from({**NO_FLAGS, "config": None}) == Settings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("metod: ngram", r"unknown key 'metod'; there are method, .*; did you mean method\?"),
        ("method: ngrams", r"method 'ngrams': there are .*; did you mean ngram\?"),
        ("k: four", "k is 'four', int is wanted"),
        ("k: true", "k is True, int is wanted"),
        ("k: 0", "k 0: a draft has 1 to 32 tokens"),
        ("k: 33", "k 33"),
        ("adaptive: 1", "adaptive is 1, bool is wanted"),
        ("{ngram-min: 5, ngram-max: 3}", "ngram-min 5, ngram-max 3"),
        ("temperature: -1", "temperature -1"),
        ("temperature: .nan", "temperature nan"),
        ("top-p: 0", "top-p 0"),
        ("[1]", "a mapping of settings is wanted"),
        ("k: [1", r"settings.yaml:\d+ is no YAML"),
    ],
)
def test_a_wrong_file_is_one_line_with_its_place_and_exit_code_2(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError, match=said):
        settings_from({**NO_FLAGS, "config": str(path)})
    assert arm.main(["--config", str(path)]) == 2
    told = capsys.readouterr().err
    assert str(path) in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--method", "magic"], "method 'magic': there are"),
        (["--k", "0"], "k 0: a draft has 1 to"),
        (["--config", "nowhere.yaml"], "nowhere.yaml cannot be read: No such file"),
        (["--draft", "huge"], "no draft 'huge' for the pair tiny; there are: small, medium"),
        (["--draft", "tiny"], "draft tiny has a vocabulary of 264 tokens, the target spec-tiny one of 96"),
        (["--model", "tiny"], "--model needs --draft"),
        (["--model", "tiny", "--method", "head"], "method head: heads are trained for the pairs only"),
        (["--model", "tiny", "--draft", "1b"], "draft 1b has a vocabulary of 128256 tokens, the target tiny"),
        (["--k", "8", "--tokens", "8", "--context", "30"], "drafts of 8 need"),
        (["--tokens", "600"], "spec-tiny has 512 positions"),
        (["--ops", "triton"], "--ops triton needs --device cuda"),
        (["--ops", "compile"], "--ops compile: speculative steps are captured"),
        (["--prom-duration", "3"], "needs --prom-port"),
        (["--temperature", "-1"], "temperature -1: it must be 0"),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_2_before_any_work(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = ["--device", "cpu", "--models", str(tmp_path / "models")]
    assert arm.main([*work, *flags]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not (tmp_path / "models").exists()  # nothing was trained


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method: ngram", "a list of settings is wanted"),
        ("[]", "a list of settings is wanted"),
        ("[3]", "entry 1: a mapping of settings is wanted, not 3"),
        ("[{method: ngram}, {k: [2, x]}]", "entry 2: k is 'x', int is wanted"),
        ("[{k: [1, 2], adaptiv: true}]", r"entry 1: unknown key 'adaptiv'; .*did you mean adaptive\?"),
        ("[{draft: huge}]", "no draft 'huge'"),
    ],
)
def test_a_wrong_sweep_is_refused_before_any_work(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, text)
    models = tmp_path / "models"
    assert sweep.main(["--sweep", str(path), "--device", "cpu", "--models", str(models)]) == 2
    assert re.search(said, capsys.readouterr().err)
    assert not models.exists()


def test_a_sweep_stands_for_all_values(tmp_path: Path) -> None:
    path = written(tmp_path, "- {method: [ngram, draft-model], k: [2, 4]}\n- {k: 8, adaptive: true}\n")
    assert [str(way) for way in read_sweep(path)] == [
        "ngram, k=2", "ngram, k=4", "draft-model, k=2", "draft-model, k=4", "draft-model, k to 8",
    ]  # fmt: skip
    shipped = Path(sweep.__file__).with_name("sweep.yaml")
    assert len(set(read_sweep(shipped))) == len(read_sweep(shipped)) == 15


def test_the_best_way_has_the_lowest_latency_that_serves_the_load() -> None:
    base = Point("a", None, 1, 100.0, 0.010, 0.0, 1.0)
    points = [base, replace(base, name="b", tokens_per_second=300.0, latency_seconds=0.020),
              replace(base, name="c", tokens_per_second=250.0, latency_seconds=0.015)]  # fmt: skip
    names = [found.name if (found := best(points, load)) else None for load in (50, 200, 260, 301)]
    assert names == ["a", "c", "b", None]


@pytest.mark.parametrize("text", ["", "0", "1,x"])
def test_batches_are_whole_numbers(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main(["--batches", text]) == 2
    assert f"--batches {text!r}: give whole numbers" in capsys.readouterr().err


def test_an_unknown_pair_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--pair", "huge"]) == 2
    assert "no pair 'huge' of trained models; there are: tiny, 1b" in capsys.readouterr().err


def test_expected_tokens_are_those_of_a_geometric_draft() -> None:
    for acceptance in (0.0, 0.3, 0.9, 1.0):
        for k in (1, 4):
            # By its definition: the i-th token of a step comes if the i - 1 before it were accepted.
            assert expected_tokens(acceptance, k) == pytest.approx(sum(acceptance**i for i in range(k + 1)))
    assert expected_speedup(0.5, 1, 0.5) == pytest.approx(1.5 / 1.5)


@pytest.mark.parametrize(
    ("accepted", "cost", "k"), [(0, 0.1, 1), (8, 0.1, 8), (8, 2.0, 1), (2, 0.0, 8), (1, 0.2, 1), (3, 0.05, 7)]
)
def test_k_follows_what_is_accepted_and_what_drafting_costs(accepted: int, cost: float, k: int) -> None:
    adaptive = AdaptiveK(8, cost)
    for _ in range(50):
        adaptive.observe([8, 0], [accepted, 0])
    judged = accepted + (accepted < 8)
    assert adaptive.acceptance == pytest.approx(accepted / judged)
    speeds = [expected_speedup(accepted / judged, other, cost) for other in range(1, 9)]
    assert adaptive.k == 1 + speeds.index(max(speeds)) == k
    for _ in range(100):
        adaptive.observe([adaptive.k], [adaptive.k])
    assert adaptive.acceptance > 0.99  # it forgets


def test_a_plot_places_values_by_their_logarithms() -> None:
    line = Line("a & b", ((10.0, 1.0), (100.0, 10.0), (1000.0, 100.0)), dashed=True)
    text = log_plot("t", "x", "y", [line])
    path = text.split('polyline points="')[1].split('"')[0]
    xs, ys = zip(*(map(float, place.split(",")) for place in path.split()), strict=True)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2) != 0
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.2)
    assert "a &amp; b" in text
    assert "stroke-dasharray" in text
    assert ticks(9, 210) == [10, 20, 50, 100, 200]
    with pytest.raises(ValueError, match="positive"):
        log_plot("t", "x", "y", [Line("a", ((0.0, 1.0),))])


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
