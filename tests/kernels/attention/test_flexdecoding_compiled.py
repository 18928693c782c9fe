"""FlexAttention compiled: one compilation serves all steps, and only the listed blocks are read."""

from __future__ import annotations

import shutil

import pytest

torch = pytest.importorskip("torch", reason="the workloads' extra is not installed")

from monitorgen.kernels.attention.flexdecoding_blocks import BlockIndex  # noqa: E402
from monitorgen.kernels.attention.flexdecoding_ops import FlexOps  # noqa: E402
from monitorgen.kernels.attention.flexdecoding_reference import attention_reference  # noqa: E402
from monitorgen.kernels.decode.config import SHAPES  # noqa: E402
from monitorgen.kernels.decode.torch_ops import TorchOps  # noqa: E402
from monitorgen.kernels.decode.weights import random_weights  # noqa: E402

ROWS, HEADS, KV_HEADS, DIM, CONTEXT = 3, 8, 4, 32, 256
CPU = pytest.param(
    "cpu",
    16,
    40,
    marks=pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for a CPU with g++"),
)
CUDA = pytest.param(
    "cuda",
    32,
    70,
    marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
)


@pytest.mark.parametrize(("device", "block", "window"), [CPU, CUDA])
def test_blocks_move_under_a_compiled_mask(device: str, block: int, window: int) -> None:
    """NaN lies in every block that a row does not visit: a kernel that read one would give NaN."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(ROWS, HEADS, DIM, generator=generator)
    keys, values = (torch.randn(ROWS, KV_HEADS, CONTEXT, DIM, generator=generator) for _ in range(2))
    weights = random_weights(SHAPES["tiny"], device=device, dtype=torch.float32)
    blocks = BlockIndex(ROWS, CONTEXT, window, block, device)
    ops = FlexOps(TorchOps(weights), weights, blocks, compiled=True)
    torch._dynamo.utils.counters.clear()
    for positions in ([0, 54, 97], [1, 15, 255], [16, 39, 40], [31, 200, 128]):
        ops.place(torch.tensor(positions, device=device))
        poisoned = [tensor.to(device, copy=True) for tensor in (keys, values)]
        for row in range(ROWS):
            visited = blocks.indices[row, 0, 0, : int(blocks.counts[row])].tolist()
            assert len(visited) <= blocks.visited == 4 == -(-window // block) + 1
            for other in set(range(CONTEXT // block)) - set(visited):
                for tensor in poisoned:
                    tensor[row, :, other * block : (other + 1) * block] = torch.nan
        out = torch.full((ROWS, HEADS * DIM), torch.nan, device=device)
        ops.attention(q.to(device), *poisoned, out)
        want = attention_reference(q, keys, values, torch.tensor(positions), window)
        assert (out.cpu().view_as(want) - want).abs().max() < 1e-5
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
