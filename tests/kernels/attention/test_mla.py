"""MLA decode computes what the float64 reference computes, and refuses what it does not support."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workloads' extra is not installed")

from monitorgen.kernels.attention.mla_check import check_call, check_outputs, check_values  # noqa: E402
from monitorgen.kernels.attention.mla_reference import mla_reference  # noqa: E402


@pytest.fixture(scope="module")
def found() -> Any:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed; the extra `dev` has it on Linux")
    program = Path(__file__).with_name("interpreted_mla.py")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_output_and_lse_are_those_of_the_reference(found: Any) -> None:
    assert len(found["cases"]) == 15
    for name, case in found["cases"].items():
        assert case["out"] < 4e-3, name  # nan, from a token that no request holds, is not
        assert case["lse"] < 1e-4, name
        assert case["zero"], name
    again = {name: case["same"] for name, case in found["cases"].items() if case["same"] is not None}
    assert len(again) == 3
    assert all(again.values()), again


def test_descriptors_serve_blocks_of_a_page_only(found: Any) -> None:
    tma = {name for name, case in found["cases"].items() if case["tma"]}
    assert "one token" in tma
    assert tma.isdisjoint({name for name in found["cases"] if "pages of" in name})


def test_lengths_outside_the_table_are_clamped(found: Any) -> None:
    assert found["clamped"]


def tensors(**changed: Any) -> dict[str, Any]:
    return {
        "q": torch.zeros(2, 16, 576, dtype=torch.bfloat16),
        "cache": torch.zeros(5, 64, 576, dtype=torch.bfloat16),
        "table": torch.zeros(2, 3, dtype=torch.int32),
        "lengths": torch.zeros(2, dtype=torch.int32),
        "scale": None,
    } | changed


BAD: list[tuple[dict[str, Any], str]] = [
    ({"q": torch.zeros(2, 576, dtype=torch.bfloat16)}, r"q has shape \[2, 576\]"),
    ({"q": torch.zeros(2, 16, 512, dtype=torch.bfloat16)}, "q has 512 numbers a token: 576"),
    ({"q": torch.zeros(2, 2000, 576, dtype=torch.bfloat16)}, "heads is 2000: 1 to 1024"),
    ({"q": torch.zeros(2, 0, 576, dtype=torch.bfloat16)}, "heads is 0"),
    ({"q": torch.zeros(2, 16, 576)}, "cache has dtype torch.bfloat16, q torch.float32"),
    ({"cache": torch.zeros(5, 64, 577, dtype=torch.bfloat16)}, "cache has 577 numbers a token"),
    ({"cache": torch.zeros(5, 64, 1, 576, dtype=torch.bfloat16)}, "cache has shape"),
    ({"cache": torch.zeros(5, 128, 576, dtype=torch.bfloat16)}, "page is 128 tokens: 16, 32, 64"),
    ({"cache": torch.zeros(0, 64, 576, dtype=torch.bfloat16)}, "cache has 0 pages"),
    ({"cache": torch.zeros(5, 576, 64, dtype=torch.bfloat16).mT}, "cache has strides"),
    ({"table": torch.zeros(2, 3, dtype=torch.int64)}, "table has dtype torch.int64: torch.int32"),
    ({"table": torch.zeros(3, 3, dtype=torch.int32)}, "table has 3 rows, q 2"),
    ({"table": torch.zeros(2, 0, dtype=torch.int32)}, "table_width is 0"),
    ({"lengths": torch.zeros(2)}, "lengths has dtype torch.float32"),
    ({"lengths": torch.zeros(1, dtype=torch.int32)}, "lengths has 1 rows"),
    ({"lengths": torch.zeros(2, dtype=torch.int32, device="meta")}, "lengths is on meta, q on cpu"),
    ({"scale": float("nan")}, "scale is nan"),
    ({"scale": 0.0}, "scale is 0.0"),
]


@pytest.mark.parametrize(("changed", "said"), BAD)
def test_bad_tensors_are_named_with_what_is_supported(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_call(**tensors(**changed))


def test_good_tensors_pass() -> None:
    assert check_call(**tensors()).longest == 192


@pytest.mark.parametrize(
    ("out", "lse", "said"),
    [
        (
            torch.zeros(2, 16, 576, dtype=torch.bfloat16),
            None,
            r"out has shape \[2, 16, 576\]: \[2, 16, 512\]",
        ),
        (torch.zeros(2, 16, 512), None, "out has dtype torch.float32"),
        (torch.zeros(2, 512, 16, dtype=torch.bfloat16).mT, None, "out has strides"),
        (None, torch.zeros(16, 2), "lse has shape"),
        (None, torch.zeros(2, 16, dtype=torch.bfloat16), "lse has dtype torch.bfloat16"),
        (None, torch.zeros(2, 16, device="meta"), "lse is on meta"),
    ],
)
def test_bad_outputs_are_named(out: Any, lse: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_outputs(tensors()["q"], out, lse)


@pytest.mark.parametrize(
    ("lengths", "pages", "said"),
    [
        ([0, 193], [[0, 1, 2], [0, 1, 2]], r"lengths\[1\] is 193: 0 to 192"),
        ([-1, 0], [[0, 1, 2], [0, 1, 2]], r"lengths\[0\] is -1"),
        ([65, 0], [[0, 5, 2], [0, 1, 2]], r"table\[0, 1\] is 5: the cache has pages 0 to 4"),
        ([0, 1], [[0, 1, 2], [-1, 1, 2]], r"table\[1, 0\] is -1"),
    ],
)
def test_bad_values_are_found_when_asked(lengths: list[int], pages: list[list[int]], said: str) -> None:
    table, held = torch.tensor(pages, dtype=torch.int32), torch.tensor(lengths, dtype=torch.int32)
    with pytest.raises(ValueError, match=said):
        check_values(tensors()["cache"], table, held)


def test_pages_beyond_a_length_are_not_looked_at() -> None:
    table = torch.tensor([[0, -7, 99], [-1, -1, -1]], dtype=torch.int32)
    check_values(tensors()["cache"], table, torch.tensor([64, 0], dtype=torch.int32))


def test_the_reference_is_softmax_over_the_tokens_of_a_request() -> None:
    generator = torch.Generator().manual_seed(1)
    cache = torch.randn(3, 16, 576, generator=generator).half()
    q = torch.randn(2, 3, 576, generator=generator).half()
    table = torch.tensor([[2, 0], [1, 0]], dtype=torch.int32)
    out, lse = mla_reference(q, cache, table, torch.tensor([18, 1], dtype=torch.int32), 0.1)
    tokens = [cache[2, at].tolist() for at in range(16)] + [cache[0, at].tolist() for at in range(2)]
    scores = [0.1 * sum(a * b for a, b in zip(q[0, 1].tolist(), token, strict=True)) for token in tokens]
    weights = torch.tensor(scores, dtype=torch.float64).exp()
    wanted = sum(w * torch.tensor(t[:512], dtype=torch.float64) for w, t in zip(weights, tokens, strict=True))
    assert torch.allclose(out[0, 1], wanted / weights.sum())
    assert float(lse[0, 1]) == pytest.approx(float(weights.sum().log()))
    assert torch.equal(out[1, 2], cache[1, 0, :512].double())  # one token: its own value
