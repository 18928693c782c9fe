"""The workload on a trained tiny pair: acceptance is real, arms agree, what is exported was counted."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workloads' extra is not installed")

from monitorgen.catalog import exposition  # noqa: E402
from monitorgen.kernels import agreement  # noqa: E402
from monitorgen.kernels.speculative import corpus, models, sweep  # noqa: E402
from monitorgen.kernels.speculative.models import PAIRS, load, pair_of  # noqa: E402
from monitorgen.kernels.speculative.ngram import NgramDrafter  # noqa: E402
from monitorgen.kernels.speculative.train import train_target, trained  # noqa: E402
from monitorgen.kernels.workload import WORKLOADS, UsageError  # noqa: E402

(WORKLOAD,) = (workload for workload in WORKLOADS if workload.name == "speculative_decoding")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the trained tiny pair."""
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    found = tmp_path_factory.mktemp("models")
    pair, draft = pair_of("tiny", "")
    trained(pair, draft, device=CPU, dtype=torch.float32, folder=found)
    return found


def flags(folder: Path, *more: str) -> list[str]:
    return ["--device", "cpu", "--models", str(folder), "--batch", "6", "--tokens", "40", *more]


def test_training_learns_and_keeps_its_curve(folder: Path) -> None:
    told = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    assert {one["model"] for one in told} == {"spec-tiny", "spec-tiny-medium"}
    for one in told:
        assert one["seed"] == 0
        assert len(one["curve"]) >= one["course"]["steps"] // one["curve_every"]
        assert one["curve"][-1] < one["curve"][0] / 5


def test_arms_agree_and_more_than_half_of_the_draft_is_accepted(folder: Path) -> None:
    outcomes = {}
    for arm in WORKLOAD.arms:
        run: Any = WORKLOAD.prepare(arm, flags(folder))
        run.step()
        outcomes[arm] = run.outcome()
        found = run.metrics()
        assert found["tokens_not_first"] == 0
        assert found["allocator_bytes"] > 4 * PAIRS["tiny"].target.parameters
        if arm != "plain":
            assert found["acceptance_rate"] > 0.5
            assert found["mean_accepted_length"] > 3
            assert found["steps"] < 20 < 39  # of a step a token
        run.close()
    plain = outcomes.pop("plain")
    assert [len(tokens) for tokens in plain.exact["tokens"]] == [40] * 6
    for outcome in outcomes.values():
        assert agreement.differences(plain, outcome) == []


def test_a_head_is_trained_on_the_target_and_drafts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = models.Course(steps=45, batch=12, length=64, rate=8e-3)
    monkeypatch.setitem(PAIRS, "tiny", replace(PAIRS["tiny"], draft_course=short))
    run: Any = WORKLOAD.prepare("optimized", flags(folder, "--method", "head", "--k", "2"))
    run.step()
    plain: Any = WORKLOAD.prepare("plain", flags(folder))
    plain.step()
    assert agreement.differences(plain.outcome(), run.outcome()) == []
    # It learnt something in these few steps: more than one word in four is right, of some seventy.
    assert run.metrics()["acceptance_rate"] > 0.25
    (told,) = [json.loads(path.read_text()) for path in folder.glob("spec-tiny-head-*.json")]
    assert told["learns"] == "spec-tiny"
    assert told["curve"][-1] < told["curve"][0] / 2


def test_what_is_counted_follows_from_the_tokens(folder: Path) -> None:
    """Lookup can be done again from the tokens alone: the same drafts, and of each what is confirmed."""
    run: Any = WORKLOAD.prepare("baseline", flags(folder, "--method", "ngram", "--k", "5"))
    run.step()
    longer: Any = WORKLOAD.prepare("plain", flags(folder, "--tokens", "50"))
    longer.loop.end = -1  # what the target would have said after its end
    longer.step()
    drafts = tokens = accepted = 0
    at = [0] * 5
    for prompt, answer, after in zip(
        run.models.prompts, run.answers.tokens, longer.answers.tokens, strict=True
    ):
        done = 1
        while done < len(answer):
            draft = _searched([*prompt, *answer[:done]], 2, 4, 5)
            same = [one == other for one, other in zip(draft, after[done:], strict=False)]
            right = same.index(False) if False in same else len(draft)
            drafts += bool(draft)
            tokens += len(draft)
            accepted += right
            for place in range(right):
                at[place] += 1
            done += right + 1
    counted = run.speculation
    assert (counted.drafts, counted.draft_tokens, counted.accepted_tokens) == (drafts, tokens, accepted)
    assert counted.accepted_at == at
    assert drafts > 10
    assert run.counters.tokens == sum(len(answer) - 1 for answer in run.answers.tokens)
    assert isinstance(run.loop.drafter, NgramDrafter)


def _searched(tokens: list[int], least: int, longest: int, k: int) -> list[int]:
    for size in range(min(longest, len(tokens) - 1), least - 1, -1):
        for start in range(len(tokens) - size - 1, -1, -1):
            if tokens[start : start + size] == tokens[-size:]:
                return tokens[start + size : start + size + k]
    return []


def test_sampling_is_reproducible_and_reports_nothing_to_compare(folder: Path) -> None:
    found = []
    for _ in range(2):
        run: Any = WORKLOAD.prepare("optimized", flags(folder, "--temperature", "1", "--seed", "0"))
        run.step()
        found.append(run.answers.tokens)
        assert run.outcome().exact == {"requests": 6}
    assert found[0] == found[1]
    greedy: Any = WORKLOAD.prepare("plain", flags(folder))
    greedy.step()
    assert found[0] != greedy.answers.tokens


def test_a_served_run_exports_what_vllm_exports(folder: Path, end_by_sigterm: Any) -> None:
    command = [sys.executable, "-m", WORKLOAD.arms["optimized"], *flags(folder), "--prom-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        url = line.split()[-1]
        while "decoding goes on" not in process.stderr.readline():
            assert process.poll() is None
        with urllib.request.urlopen(url, timeout=10) as answer:
            families = {family.name: family for family in exposition.parse(answer.read().decode())}
        said = end_by_sigterm(process)
    assert process.returncode == 0, said
    numbers = {
        name.removeprefix("vllm:spec_decode_num_").removesuffix("_total"): [s.value for s in family.samples]
        for name, family in families.items()
        if name.startswith("vllm:spec_decode")
    }
    assert set(numbers) == {"drafts", "draft_tokens", "accepted_tokens", "accepted_tokens_per_pos"}
    assert numbers["draft_tokens"] == [4 * numbers["drafts"][0]]
    assert sum(numbers["accepted_tokens_per_pos"]) == numbers["accepted_tokens"][0] > 0
    per_position = families["vllm:spec_decode_num_accepted_tokens_per_pos_total"].samples
    assert [sample.labels for sample in per_position] == [
        {"model_name": "spec-tiny", "position": str(place)} for place in range(4)
    ]


def test_a_sweep_measures_every_way_at_every_batch_size(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ways = tmp_path / "ways.yaml"
    ways.write_text("- {method: [ngram, draft-model], k: [1, 3]}\n")
    report, picture = tmp_path / "report.json", tmp_path / "plot.svg"
    code = sweep.main([
        "--sweep", str(ways), "--batches", "2,1", "--repeats", "1", "--tokens", "12", "--device", "cpu",
        "--models", str(folder), "--load", "1", "--json", str(report), "--plot", str(picture),
    ])  # fmt: skip
    assert code == 0
    told = json.loads(report.read_text())
    names = ["plain", "ngram, k=1", "ngram, k=3", "draft-model, k=1", "draft-model, k=3"]
    assert [(point["batch"], point["name"]) for point in told["points"]] == [
        (batch, name) for batch in (1, 2) for name in names
    ]
    for point in told["points"]:
        rate, latency = point["tokens_per_second"], point["latency_seconds"]
        assert rate * latency == pytest.approx(point["batch"])
        plain = next(one for one in told["points"] if one["batch"] == point["batch"])
        assert point["speedup"] == pytest.approx(rate / plain["tokens_per_second"])
    best = min(told["points"], key=lambda point: point["latency_seconds"])
    assert told["best"] == best
    assert f"best for 1 tokens/s: {best['name']}, batch {best['batch']}" in capsys.readouterr().out
    assert picture.read_text().count("<polyline") == 5


def test_a_broken_file_of_weights_is_told(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "x.pt"
    broken.write_bytes(b"no weights")
    with pytest.raises(UsageError, match=r"x\.pt cannot be read as trained weights"):
        load(broken)
    tensors = {
        name: t
        for name, t in load(next(folder.glob("spec-tiny-????????????.pt"))).items()
        if name != "layer0.qkv"
    }
    with pytest.raises(UsageError, match=r"lack layer0\.qkv"):
        models.from_tensors(PAIRS["tiny"].target, tensors, CPU, torch.float32)


def test_documents_and_training_are_seeded() -> None:
    assert corpus.prompts(3, 5) == corpus.prompts(3, 5) != corpus.prompts(3, 6)
    first = next(corpus.documents(5))
    assert corpus.text(first).startswith("<start> a page from the book of ")
    assert corpus.text(first).endswith("<end>")
    pair = PAIRS["tiny"]
    course = models.Course(steps=2, batch=2, length=8, rate=1e-3)
    curves = [train_target(pair.drafts["small"], course, seed, CPU)[1] for seed in (0, 0, 1)]
    assert curves[0] == curves[1] != curves[2]
