"""The paged attention workload on a CPU: both arms come to the same result, and say what ran."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workloads' extra is not installed")

from monitorgen.kernels import agreement  # noqa: E402
from monitorgen.kernels.attention import baseline_paged_attn, optimized_paged_attn, reference  # noqa: E402
from monitorgen.kernels.attention.paged_case import FP8, make_case, ragged_lengths  # noqa: E402
from monitorgen.kernels.attention.paged_torch import dense_sdpa, paged_torch  # noqa: E402
from monitorgen.kernels.workload import WORKLOADS, UsageError  # noqa: E402

(WORKLOAD,) = (workload for workload in WORKLOADS if workload.name == "paged_attn")
SMALL = [
    "--device",
    "cpu",
    "--batch",
    "3",
    "--context",
    "40",
    "--heads",
    "4",
    "--kv-heads",
    "2",
    "--head-dim",
    "32",
]


@pytest.mark.parametrize("kv_dtype", [None, FP8])
def test_everything_but_the_tokens_of_sequences_is_poison(kv_dtype: Any) -> None:
    lengths = [0, 16, 5, 33]
    case = make_case(lengths, heads=4, kv_heads=2, head_dim=16, page_size=16, kv_dtype=kv_dtype, width=4)
    owned = torch.zeros(case.k_pages.shape[:2], dtype=torch.bool)
    for index, length in enumerate(lengths):
        for place in range(length):
            page = int(case.table[index, place // 16])
            assert not owned[page, place % 16]  # no page is two sequences'
            owned[page, place % 16] = True
    for pages in (case.k_pages, case.v_pages):
        wide = pages.float()
        assert wide[owned].isfinite().all()
        assert wide[~owned].isnan().all()
    assert case.table.shape == (4, 4)
    assert (case.k_scale is not None) == (kv_dtype is not None)
    assert case.kv_bytes == 2 * 54 * 2 * 16 * (1 if kv_dtype else 2)
    assert case.read_bytes(10) == 2 * 25 * 2 * 16 * (1 if kv_dtype else 2)
    assert case.flops(0) == 4 * 54 * 4 * 16


def test_ragged_lengths_are_the_same_for_a_seed() -> None:
    lengths = ragged_lengths(200, 100, 250, 3)
    assert lengths == ragged_lengths(200, 100, 250, 3)
    assert 1 <= min(lengths) < 30
    assert max(lengths) == 250


@pytest.mark.parametrize("page", [16, 64])
def test_plain_torch_is_the_reference(page: int) -> None:
    case = make_case([0, 1, 54, 97], heads=6, kv_heads=2, head_dim=32, page_size=page, dtype=torch.float16)
    want = reference.paged_decode(case.q, case.k_pages, case.v_pages, case.table, case.lengths)
    out, lse = torch.full_like(case.q, torch.nan), torch.full((4, 6), torch.nan)
    paged_torch(case.q, case.k_pages, case.v_pages, case.table, case.lengths, out, lse)
    assert reference.relative_norm(out, want.out) < 5e-4
    torch.testing.assert_close(lse.double(), want.lse, rtol=1e-5, atol=1e-5)
    dense = torch.full_like(case.q, torch.nan)
    dense_sdpa(case.q, case.k_pages, case.v_pages, case.table, case.host_lengths, dense)
    assert reference.relative_norm(dense, want.out) < 1e-3


def test_the_arms_agree_and_count_their_bytes() -> None:
    runs = [WORKLOAD.prepare(arm, SMALL) for arm in ("baseline", "optimized")]
    for run in runs:
        run.step()
    one, two = (run.outcome() for run in runs)
    assert len(one.close["out"][0]) == 3 * 4 * 32
    assert agreement.differences(one, two) == []
    tokens = sum(ragged_lengths(3, 40, 320, 0))
    for run in runs:
        assert run.bytes_moved == 2 * 2 * tokens * 2 * 32 + 2 * 2 * 3 * 4 * 32
        assert run.metrics()["kv_read_bytes"] == 4 * tokens * 2 * 32
        assert run.metrics()["calls"] == 1
        run.close()
        with pytest.raises(RuntimeError, match="closed"):
            run.step()


def test_a_wrong_arm_would_be_seen() -> None:
    one, two = (WORKLOAD.prepare(arm, SMALL) for arm in ("baseline", "optimized"))
    one.step()
    two.step()
    two.out[1] *= 1.05  # type: ignore[attr-defined]
    assert agreement.differences(one.outcome(), two.outcome())


def test_without_cuda_the_command_says_what_ran(capsys: pytest.CaptureFixture[str]) -> None:
    assert optimized_paged_attn.main([*SMALL, "--calls", "3"]) == 0
    said = capsys.readouterr().out
    assert "plain torch over pages: there is no CUDA device for Triton here" in said
    assert re.search(r"us, .* GB/s .* from the float64 reference", said)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--heads", "5"], "--heads 5: not a multiple of --kv-heads 2"),
        (["--page", "48"], "'48' is not one of"),
        (["--batch", "100000000"], "the KV cache takes"),
        (["--calls", "0"], "--calls"),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_2(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert baseline_paged_attn.main([*SMALL, "--mix", "equal", *flags]) == 2
    assert said in capsys.readouterr().err
    with pytest.raises(UsageError):
        WORKLOAD.prepare("baseline", [*SMALL, "--mix", "equal", *flags])


@pytest.mark.parametrize("arm", ["baseline", "optimized"])
def test_calls_are_exported(arm: str, end_by_sigterm: Callable[..., tuple[float, str]]) -> None:
    command = [sys.executable, "-m", WORKLOAD.arms[arm], *SMALL, "--calls", "20"]
    process = subprocess.Popen(
        [*command, "--prom-port", "0", "--prom-duration", "120"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        url = process.stderr.readline().removeprefix("serving ").strip()
        while "work done" not in process.stderr.readline():
            assert process.poll() is None
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        name = f'kernel="paged_attn_{arm}"'
        assert f"monitorgen_kernel_seconds_count{{{name}}} 20.0" in text
        (moved,) = re.findall(rf"monitorgen_kernel_bytes_total{{{name}}} (\S+)", text)
        tokens = sum(ragged_lengths(3, 40, 320, 0))
        assert float(moved) == 20 * (4 * tokens * 64 + 4 * 384)
        (share,) = re.findall(rf"monitorgen_kernel_roofline_ratio{{{name}}} (\S+)", text)
        assert 0 < float(share) < 1
    finally:
        end_by_sigterm(process)
