"""How the work is cut, what the tuner makes of its times, and the bench's grid and lines."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workloads' extra is not installed")
pytest.importorskip("triton", reason="the cuts are of Triton kernels")

from monitorgen.kernels.attention import bench_paged, paged_tuner  # noqa: E402
from monitorgen.kernels.attention.paged_gqa_tuning import (  # noqa: E402
    TABLE,
    Tuning,
    choose,
    default_tuning,
    entry,
    load_table,
    size_class,
)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"block": 48}, "tuning.block is 48; supported: powers of two from 16"),
        ({"unit": 8}, "tuning.unit is 8"),
        ({"warps": 3}, "tuning.warps is 3"),
        ({"stages": 0}, "tuning.stages is 0"),
        ({"per_sm": 0}, "tuning.per_sm is 0"),
        ({"least": 0}, "tuning.least is 0"),
        ({"toll": -1}, "tuning.toll is -1"),
    ],
)
def test_cuts_that_cannot_be(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Tuning(**changed)


@pytest.mark.parametrize(("number", "bound"), [(1, 1), (4, 4), (5, 16), (64, 64), (70000, 262144)])
def test_classes_of_sizes(number: int, bound: int) -> None:
    assert size_class(number) == bound


@pytest.mark.parametrize("kv_bytes", [1, 2])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_tiles_fit_shared_memory(head_dim: int, kv_bytes: int) -> None:
    for segments, context in ((8, 100), (8, 10**5), (2048, 500), (2048, 10**5)):
        cut = default_tuning(head_dim, kv_bytes, segments, context, 132)
        tile = 2 * cut.block * head_dim * kv_bytes
        assert tile * (cut.stages - 1) * cut.per_sm <= 220_000  # keys and values in flight; an SM has 227 KiB


def test_small_work_is_cut_finer_and_few_segments_into_fewer_parts() -> None:
    small, few, many = (default_tuning(128, 2, *size, 132) for size in ((8, 512), (8, 32768), (512, 4096)))
    assert small.least < many.least
    assert few.per_sm < many.per_sm


def test_a_table_decides_for_its_class_and_no_other(tmp_path: Path) -> None:
    path, cut = tmp_path / "table.json", Tuning(block=128, warps=8, per_sm=1)
    path.write_text(json.dumps({"tunings": [entry(128, 2, 64, 16384, cut, over_best=1.0)]}))
    assert choose(128, 2, 20, 5000, 132, path) == cut
    for shape in ((128, 2, 20, 4000), (128, 2, 16, 5000), (64, 2, 20, 5000), (128, 1, 20, 5000)):
        assert choose(*shape, 132, path) == default_tuning(*shape, 132)


@pytest.mark.parametrize("text", ["{}", "[]", '{"tunings": [{"head_dim": 1}]}', "no"])
def test_a_file_that_is_no_table(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="cannot be read"):
        choose(128, 2, 8, 5000, 132, path)


def test_the_bundled_table_can_be_read() -> None:
    for context in (10, 10**4, 10**6):
        assert choose(128, 2, 8, context, 132).block >= 16


def test_the_table_takes_the_cut_that_is_best_on_average(tmp_path: Path) -> None:
    one, two, three = Tuning(block=32), Tuning(block=64), Tuning(block=128)

    def row(shape: str, *times: tuple[Tuning, float]) -> dict[str, Any]:
        return {"shape": shape, "times": [{**asdict(cut), "us": us} for cut, us in times]}

    data = {
        "gpu": "a GPU", "torch": "2", "kv_heads": 8, "head_dim": 128,
        "tuned": [
            row("first", (three, 8.0), (one, 10.0), (two, 11.0)),  # `three` was not tried at the second
            row("second", (two, 10.0), (one, 30.0)),
            row("long", (one, 5.0), (two, 6.0)),
        ],
    }  # fmt: skip
    path = tmp_path / "table.json"
    paged_tuner.write_table(path, data, {"first": [500, 7], "second": [400, 400], "long": [9000, 9]})
    assert choose(128, 2, 16, 512, 132, path) == two
    assert choose(128, 2, 16, 9000, 132, path) == one
    lines = json.loads(path.read_text())["tunings"]
    assert [(line["segments"], line["context"]) for line in lines] == [(16, 1024), (16, 16384)]


def test_a_cut_is_judged_by_the_worse_of_launched_and_replayed(tmp_path: Path) -> None:
    host_bound, even = Tuning(pdl=True, fused=False), Tuning()
    times = [{"us": 60.0, "graph_us": 12.0}, {"us": 15.0, "graph_us": 14.0}]
    assert paged_tuner.worst_ratios(times) == pytest.approx([4.0, 14 / 12])
    assert paged_tuner.worst_ratios([{"us": 12.0}, {"us": 15.0, "graph_us": 1.0}]) == [1.0, 1.25]
    assert paged_tuner.worst_ratios([]) == []
    cuts = [{**asdict(cut), **us} for cut, us in zip((host_bound, even), times, strict=True)]
    data = {"gpu": "a GPU", "torch": "2", "kv_heads": 8, "head_dim": 128}
    path = tmp_path / "table.json"
    paged_tuner.write_table(path, {**data, "tuned": [{"shape": "one", "times": cuts}]}, {"one": [512]})
    assert choose(128, 2, 8, 512, 132, path) == even


def test_the_bundled_table_decides_and_says_where_it_is_from() -> None:
    text = json.loads(TABLE.read_text("utf-8"))
    assert {"gpu", "torch", "triton", "how"} <= text.keys()
    assert len(load_table(TABLE)) == len(text["tunings"]) > 0
    for line in text["tunings"]:
        assert choose(128, 2, line["segments"], line["context"], 132) == Tuning(**line["tuning"])
        assert not line["tuning"]["pdl"]  # two launches cost the host too much at batch 1


def test_candidates_are_compiled_beforehand() -> None:
    compiled = {replace(cut, least=1, per_sm=1) for cut in paged_tuner.compiled_cuts()}
    for even, shape in ((True, (8, 512)), (True, (2048, 32768)), (False, (64, 2000))):
        tried = list(paged_tuner.candidates(*shape, 132, even))
        assert len(tried) == len(set(tried))
        assert {replace(cut, least=1, per_sm=1, toll=64) for cut in tried} == compiled


def test_the_grid_is_the_one_that_peers_were_measured_on() -> None:
    shapes = {shape.name: shape for shape in bench_paged.grid()}
    assert len(shapes) == 34
    # MB of keys and values of the ragged mixes, as the peers' record of them has it.
    mixes = {"b8 ~2000": 130.5, "b32 ~1000": 210.4, "b64 ~4000": 1543.4, "b128 ~500": 338.3}
    for name, megabytes in mixes.items():
        assert round(4096 * sum(shapes[f"p16 ragged {name}"].lengths) / 1e6, 1) == megabytes
    assert shapes["p64 b16 s4096"].lengths == (4096,) * 16


def times(us: float) -> dict[str, float]:
    return {"dirty": us, "dirty_graph": us / 2}


def test_ratios_are_summed_up_by_geometric_mean() -> None:
    rows = [{"shape": "p16 ragged", "ratio": times(2.0)}, {"shape": "p16 b1", "ratio": times(0.5)}]
    rows.append({"shape": "p64 b1", "ratio": {}})
    found = bench_paged.summary(rows)
    assert found["all dirty"] == {"mean": pytest.approx(1.0), "least": 0.5, "shapes": 2}
    assert found["ragged dirty_graph"] == {"mean": pytest.approx(1.0), "least": 1.0, "shapes": 1}


def test_a_line_says_what_failed() -> None:
    row = {
        "shape": "p16 b1 s512", "kv_bytes": 2e6, "tuning": asdict(Tuning()), "ours": times(8.0),
        "peers": {"fa3": times(16.0)}, "failed": {"flashinfer": "gone"}, "ratio": times(2.0), "differ": {},
    }  # fmt: skip
    said = bench_paged.line(row, 1e12)
    assert "ours 8.0/4.0 25% b64" in said
    assert "flashinfer FAILED gone" in said
    assert "x 2.00 1.00" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_the_bench_needs_cuda(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_paged.main(["--out", "nowhere.json"]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err


def test_shapes_that_are_not() -> None:
    assert [shape.name for shape in bench_paged.chosen("p64 b4 ")] == [
        f"p64 b4 s{n}" for n in (512, 4096, 32768)
    ]
    with pytest.raises(ValueError, match="--only nothing: no shape has such a name"):
        bench_paged.chosen("nothing")
