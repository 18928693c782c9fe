"""The CUDA kernel of MLA decode: its index arithmetic on a model of the tensor core, and how it is built.

The model follows the PTX manual (matrix descriptors and fragments of wgmma, 128-byte swizzle of TMA); what it
is fed are the constants of the source.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workloads' extra is not installed")
pytest.importorskip("triton", reason="parts are joined by a Triton kernel")

import numpy as np  # noqa: E402

from monitorgen.kernels.attention import flashmla  # noqa: E402
from monitorgen.kernels.attention.flashmla_probe import LADDER, errors, rung  # noqa: E402

GPU = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
needs_gpu = pytest.mark.skipif(not GPU, reason="no Hopper GPU here")


def constants() -> dict[str, int]:
    """The integer constants of the CUDA sources, evaluated."""
    found: dict[str, int] = {}
    text = flashmla.HEADER.read_text() + flashmla.SOURCE.read_text()
    for name, value in re.findall(r"constexpr (?:int|uint64_t) (k\w+) = (.*?);", text):
        value = re.sub(r"uint64_t\((.*?)\)", r"(\1)", value.replace("1ull", "1")).replace("/", "//")
        found[name] = eval(value, {}, found)
    return found


C = constants()


def tma(matrix: np.ndarray) -> np.ndarray:
    """Columns [rows 64, n * 64] as TMA writes them: tiles of 64 x 64, 16-byte pieces swizzled by the row."""
    memory = np.zeros(matrix.size, dtype=matrix.dtype)
    for chunk in range(matrix.shape[1] // 64):
        for row in range(64):
            for piece in range(8):
                at = (chunk * C["kTileBytes"] + row * C["kRowBytes"] + (piece ^ (row & 7)) * 16) // 2
                memory[at : at + 8] = matrix[row, chunk * 64 + piece * 8 :][:8]
    return memory


def fetch(memory: np.ndarray, address: int) -> Any:
    """What the tensor core reads at a byte address: bits 4 to 6 are crossed with bits 7 to 9."""
    return memory[(address ^ (((address >> 7) & 7) << 4)) // 2]


def fields(descriptor: int) -> tuple[int, int, int]:
    """Address, leading and stride byte offsets of a matrix descriptor; the swizzle is that of 128 bytes."""
    assert descriptor >> 62 == 1
    return tuple(((descriptor >> low) & 0x3FFF) * 16 for low in (0, 16, 32))  # type: ignore[return-value]


def k_major(memory: np.ndarray, address: int) -> np.ndarray:
    """A [64, 16] operand whose rows are contiguous."""
    start, _, stride = fields(C["kSwizzle128"] | C["kStride"] | address >> 4)
    return np.array(
        [
            [fetch(memory, start + row // 8 * stride + row % 8 * 128 + 2 * k) for k in range(16)]
            for row in range(64)
        ]
    )


def mn_major(memory: np.ndarray, address: int) -> np.ndarray:
    """A [16, 256] operand whose columns are contiguous, 64 at a time."""
    start, leading, stride = fields(C["kSwizzle128"] | C["kStride"] | C["kLeading"] | address >> 4)
    return np.array(
        [
            [
                fetch(memory, start + n // 64 * leading + k // 8 * stride + k % 8 * 128 + n % 64 * 2)
                for n in range(256)
            ]
            for k in range(16)
        ]
    )


PAGE = np.arange(64 * 576, dtype=np.int32).reshape(64, 576)  # every number tells its place


def test_descriptors_of_keys_and_queries_name_their_numbers() -> None:
    memory = tma(PAGE)
    for k in (0, 1, 3, 4, 17, 35):
        offset = k // 4 * C["kTileBytes"] + k % 4 * C["kStepK"]
        assert np.array_equal(k_major(memory, offset), PAGE[:, 16 * k : 16 * k + 16]), k


def test_descriptors_of_values_name_their_numbers() -> None:
    memory = tma(PAGE)
    for consumer in (0, 1):
        values = consumer * (C["kHalf"] // C["kChunk"]) * C["kTileBytes"]
        for k in range(4):
            found = mn_major(memory, values + k * C["kStepRows"])
            columns = slice(256 * consumer, 256 * consumer + 256)
            assert np.array_equal(found, PAGE[16 * k : 16 * k + 16, columns]), (consumer, k)


def scores_of(thread: int, scores: np.ndarray) -> tuple[int, int, np.ndarray]:
    """A thread's rows, its lane, and its accumulators of [64, 64] scores (PTX: fragment D of m64nNk16)."""
    lane, row = thread % 32, 16 * (thread // 32) + thread % 32 // 4
    held = np.empty(32, dtype=scores.dtype)
    for j in range(8):
        for i in range(4):
            held[4 * j + i] = scores[row + 8 * (i // 2), 8 * j + 2 * (lane % 4) + i % 2]
    return row, lane, held


def test_weights_in_shared_memory_are_the_operand_that_the_other_consumer_reads() -> None:
    scores = np.arange(64 * 64, dtype=np.int32).reshape(64, 64)
    memory = np.full(64 * 64, -1, dtype=np.int32)
    for thread in range(128):
        row, lane, held = scores_of(thread, scores)
        for j in range(8):
            for half in range(2):
                at = row + 8 * half
                address = at * C["kRowBytes"] + (j ^ (at & 7)) * 16 + (lane & 3) * 4
                memory[address // 2 : address // 2 + 2] = held[4 * j + 2 * half :][:2]
    for k in range(4):
        assert np.array_equal(k_major(memory, k * C["kStepK"]), scores[:, 16 * k : 16 * k + 16])


def test_weights_in_registers_are_the_fragment_of_the_first_operand() -> None:
    scores = np.arange(64 * 64, dtype=np.int32).reshape(64, 64)
    for thread in range(128):
        row, lane, held = scores_of(thread, scores)
        for j in range(8):
            for half in range(2):
                k, register = j >> 1, 2 * (j & 1) + half
                # PTX, fragment A: registers 0 and 2 are of row r, 1 and 3 of r + 8; 2 and 3 of k + 8.
                column = 16 * k + 8 * (register // 2) + 2 * (lane % 4)
                wanted = scores[row + 8 * (register % 2), column : column + 2]
                assert np.array_equal(held[4 * j + 2 * half :][:2], wanted)


def test_what_is_cleaned_are_the_values_beyond_the_request_and_no_others() -> None:
    for left in (1, 37, 63):
        memory, rows = tma(PAGE).copy(), 64 - left
        for thread in range(128):
            for at in range(thread, rows * 8 * (C["kValue"] // C["kChunk"]), 128):
                piece, row, chunk = at & 7, left + (at >> 3) % rows, (at >> 3) // rows
                address = chunk * C["kTileBytes"] + row * C["kRowBytes"] + piece * 16
                memory[address // 2 : address // 2 + 8] = 0
        wanted = PAGE.copy()
        wanted[left:, :512] = 0
        assert np.array_equal(memory, tma(wanted)), left


def test_tiles_are_aligned_and_fit() -> None:
    for name in ("kQ", "kPages", "kP", "kBlockBytes", "kTileBytes"):
        assert C[name] % 1024 == 0, name
    assert C["kBarriers"] % 8 == 0
    assert C["kSharedBytes"] <= 227 * 1024


def fake_nvcc(folder: Path, script: str) -> Path:
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(f"#!/bin/sh\n{script}\n")
    nvcc.chmod(nvcc.stat().st_mode | stat.S_IEXEC)
    return nvcc


def test_without_nvcc_one_line_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(flashmla, "USUAL_NVCC", tmp_path / "nvcc")
    with pytest.raises(
        flashmla.UnavailableError, match="install the CUDA toolkit, or take the Triton kernel"
    ):
        flashmla.find_nvcc()


def test_nvcc_of_cuda_home_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvcc = fake_nvcc(tmp_path, "exit 0")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert flashmla.find_nvcc() == nvcc


def test_a_build_that_fails_is_told_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    nvcc = fake_nvcc(tmp_path, '[ "$1" = --version ] || { echo "fatal: unsupported gpu" >&2; exit 3; }')
    with pytest.raises(flashmla.UnavailableError, match=r"exit code 3\): fatal: unsupported gpu"):
        flashmla.build(nvcc, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_library_is_built_once_and_again_for_another_compiler(tmp_path: Path) -> None:
    count = tmp_path / "count"
    script = (
        'if [ "$1" = --version ]; then cat {0}/version; else echo x >>{0}/count; shift 7; echo lib >"$2"; fi'
    )
    (tmp_path / "version").write_text("13.0")
    nvcc = fake_nvcc(tmp_path, script.format(tmp_path).replace("shift 7", f"shift {len(flashmla.FLAGS)}"))
    first = flashmla.build(nvcc, tmp_path / "cache")
    assert first.read_text() == "lib\n"
    assert flashmla.build(nvcc, tmp_path / "cache") == first
    assert count.read_text() == "x\n"
    (tmp_path / "version").write_text("13.1")
    assert flashmla.build(nvcc, tmp_path / "cache") != first
    assert count.read_text() == "x\nx\n"


def test_another_architecture_is_refused_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (10, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "NVIDIA B200")
    with pytest.raises(flashmla.UnavailableError, match=r"NVIDIA B200 has 10\.0: take the Triton kernel"):
        flashmla.check_device(torch.device("cuda"))


@pytest.mark.parametrize(
    ("page", "dtype", "kind", "said"),
    [
        (32, torch.bfloat16, ValueError, "page is 32 tokens: 64 is supported by the CUDA kernel"),
        (64, torch.float16, ValueError, "dtype is torch.float16: torch.bfloat16 is supported"),
        (64, torch.bfloat16, flashmla.UnavailableError, "needs a Hopper GPU, and device is cpu"),
    ],
)
def test_what_the_kernel_does_not_take_is_refused(page: int, dtype: Any, kind: Any, said: str) -> None:
    with pytest.raises(kind, match=said):
        flashmla.plan(2, 128, page, 4, dtype=dtype, device="cpu", programs=2)


def test_the_source_builds_for_hopper_and_for_others(tmp_path: Path) -> None:
    try:
        nvcc = flashmla.find_nvcc()
    except flashmla.UnavailableError as error:
        pytest.skip(str(error))
    for arch in ("90a", "100"):
        command = [nvcc, "-std=c++17", f"-gencode=arch=compute_{arch},code=sm_{arch}", "-cubin"]
        done = subprocess.run(
            [*command, "-o", tmp_path / arch, flashmla.SOURCE], capture_output=True, text=True, check=False,
            env=os.environ,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]


def test_the_probe_tells_the_errors_of_each_half_and_of_lse() -> None:
    wanted, sums = torch.ones(3, 2, 512, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
    wanted[1], sums[1] = 0.0, -torch.inf
    out, lse = wanted.bfloat16(), sums.float()
    assert errors(out, lse, wanted, sums) == {"left": 0.0, "right": 0.0, "lse": 0.0}
    out[0, 1, :4], out[2, 0, 256:272] = 3.0, 3.0  # off by 2 in 4 and in 16 of 2,048 numbers that are 1
    lse[2, 1] = -0.5
    found = errors(out, lse, wanted, sums)
    assert found == pytest.approx({"left": 4 / 2048**0.5, "right": 8 / 2048**0.5, "lse": 0.5})
    out[1, 0, 300], lse[1, 0] = torch.nan, 0.0
    found = errors(out, lse, wanted, sums)
    assert found["right"] != found["right"]  # nan is not less than any bound
    assert found["lse"] == float("inf")


@needs_gpu
@pytest.mark.parametrize(("name", "lengths", "heads", "programs"), LADDER)
def test_the_kernel_agrees_with_the_reference(
    name: str, lengths: list[int], heads: int, programs: int
) -> None:
    found = rung(lengths, heads, programs)
    assert max(found["left"], found["right"]) < 4e-3, (name, found)
    assert found["lse"] < 1e-3, (name, found)
