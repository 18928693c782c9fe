"""The CUDA kernel of MLA decode runs, thread by thread, on an emulated multiprocessor, and is right.

What this shows: indices, fragments, descriptors, barriers and their phases, the split over programs. What it
cannot show: ordering between the asynchronous units, registers, speed. For that there are GPU tests.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workloads' extra is not installed")
pytest.importorskip("triton", reason="parts are joined by a Triton kernel")

sys.path.insert(0, str(Path(__file__).parent))
from mla_cases import distance, lse_distance, made  # noqa: E402

from monitorgen.kernels.attention import flashmla  # noqa: E402
from monitorgen.kernels.attention.mla_reference import mla_reference  # noqa: E402

DRIVER = """
extern "C" void emulate(const uint16_t* q, const uint16_t* cache, const int* table, const int* lengths,
    uint16_t* out, float* lse, float* parts, float* part_lse, float scale, int batch, int heads,
    int64_t pages, int width, int programs, int least) {
  const CUtensorMap q_map{q, int64_t(batch) * heads}, cache_map{cache, pages * kTokens};
  const Params params{table, lengths, out, lse, parts, part_lse, scale, batch, heads, width, programs, least};
  for (int y = 0; y < programs; ++y) {
    for (int x = 0; x < (heads + kHeads - 1) / kHeads; ++x) {
      emulator::Block block;
      for (int i = 0; i < kThreads / 32; ++i) block.warps.push_back(std::make_unique<emulator::Warp>());
      emulator::block = &block;
      std::memset(emulator::shared, 0xFF, sizeof emulator::shared);  // NaN
      std::vector<std::thread> threads;
      for (int t = 0; t < kThreads; ++t) {
        threads.emplace_back([=] {
          threadIdx.x = t, blockIdx.x = x, blockIdx.y = y;
          mla_decode_kernel(q_map, cache_map, params);
        });
      }
      for (auto& thread : threads) thread.join();
    }
  }
}
"""


@pytest.fixture(scope="module")
def emulate(tmp_path_factory: pytest.TempPathFactory) -> Any:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    folder = tmp_path_factory.mktemp("emulated")
    header, source = flashmla.HEADER.read_text(), flashmla.SOURCE.read_text()
    constants = re.search(r"constexpr int kChunk.*?(?=#if)", header, re.DOTALL)
    makers = re.search(r"__device__ __forceinline__ uint64_t k_major.*?(?=// d \[64, N\])", header, re.DOTALL)
    assert constants
    assert makers
    (folder / "descriptors.inc").write_text(constants[0] + makers[0])
    (folder / "flashmla_ptx.cuh").write_text('#include "emulated_hopper.h"\n')
    kernel = source[: source.index("using Encode = ")] + "}  // namespace\n" + DRIVER
    # Shared memory starts where it is not aligned, as it may on a device.
    kernel = kernel.replace("extern __shared__ unsigned char raw[];", "auto* raw = emulator::shared + 16;")
    assert "emulator::shared + 16" in kernel
    (folder / "kernel.cpp").write_text(kernel)
    library = folder / "kernel.so"
    command = [compiler, "-std=c++20", "-O2", "-w", "-pthread", "-shared", "-fPIC"]
    command += [f"-I{Path(__file__).parent}", f"-I{folder}"]
    done = subprocess.run(
        [*command, "-o", library, folder / "kernel.cpp"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    function = ctypes.CDLL(str(library)).emulate
    pointer, number = ctypes.c_void_p, ctypes.c_int
    function.argtypes = [
        *[pointer] * 8,
        ctypes.c_float,
        number,
        number,
        ctypes.c_int64,
        number,
        number,
        number,
    ]
    return function


def joined(out: Any, lse: Any, parts: Any, part_lse: Any, lengths: list[int], programs: int) -> None:
    """What the combination does, in torch: see mla_combine_kernel."""
    blocks = [-(-length // 64) for length in lengths]
    run, before = max(1, -(-sum(blocks) // programs)), 0
    for row, count in enumerate(blocks):
        first, last = before // run, (before + count - 1) // run
        before += count
        if count == 0:
            out[row], lse[row] = 0.0, -torch.inf
        elif first < last:
            of = slice(first + row, last + row + 1)
            weights = torch.softmax(part_lse[of] * 0.6931471805599453, 0)
            out[row] = (parts[of] * weights[..., None]).sum(0).to(out.dtype)
            lse[row] = (part_lse[of] * 0.6931471805599453).logsumexp(0)


@pytest.mark.parametrize(
    ("lengths", "heads", "programs"),
    [
        ([64], 64, 1),  # one page
        ([1], 16, 1),  # rows to be cleaned, heads that are not there
        ([128, 0, 97], 24, 1),  # both consumers, no tokens, a new q
        ([300, 54, 193], 64, 3),  # stages used again, parts
        ([65] * 40, 16, 14),  # more requests than a warp has lanes, the last run starts beyond them
        ([0, 0], 16, 2),
        ([97, 130], 70, 2),  # two groups of heads
    ],
)
def test_the_kernel_is_right(emulate: Any, lengths: list[int], heads: int, programs: int) -> None:
    q, cache, table, held = made(lengths, heads, 64)
    batch = len(lengths)
    out = torch.full((batch, heads, 512), torch.nan, dtype=torch.bfloat16)
    lse = torch.full((batch, heads), torch.nan)
    parts = torch.full((programs + batch, heads, 512), torch.nan)
    part_lse = torch.full((programs + batch, heads), torch.nan)
    emulate(
        q.data_ptr(), cache.data_ptr(), table.data_ptr(), held.data_ptr(), out.data_ptr(), lse.data_ptr(),
        parts.data_ptr(), part_lse.data_ptr(), 0.05 * 1.4426950408889634, batch, heads, cache.shape[0],
        table.shape[1], programs, 1,
    )  # fmt: skip
    joined(out, lse, parts, part_lse, lengths, programs)
    wanted, sums = mla_reference(q, cache, table, held, 0.05)
    assert distance(out, wanted) < 4e-3
    assert lse_distance(lse, sums) < 1e-3
