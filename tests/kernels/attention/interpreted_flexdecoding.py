"""Runs the rotating and writing kernel in Triton's interpreter beside the torch one; prints one JSON object.

Run as a program, because the interpreter must be chosen before Triton is imported.
"""

from __future__ import annotations

import json
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import torch

from monitorgen.kernels.attention import flexdecoding_kernels, flexdecoding_ops
from monitorgen.kernels.attention.static_decoder import make_decoder
from monitorgen.kernels.decode.config import Config
from monitorgen.kernels.decode.weights import random_weights

# A head of 24 and three query heads a KV head: nothing is a power of two.
SHAPE = Config(
    "odd", 31, hidden=48, layers=2, heads=6, kv_heads=2, head_dim=24, intermediate=40, positions=128
)


def main() -> int:
    """Both kernels on the same numbers: the largest distance of queries, keys and values."""
    weights = random_weights(SHAPE, device="cpu", dtype=torch.float32, seed=3)
    generator = torch.Generator().manual_seed(1)
    qkv = torch.randn(5, SHAPE.qkv_rows, generator=generator)
    found = []
    for kernel in (flexdecoding_ops.rotate_and_write, flexdecoding_kernels.rotate_and_write):
        decoder = make_decoder(weights, "eager", 5, context=128, block=16)
        decoder.rows.copy_(torch.tensor([0, 1, 5, 3, 4]))  # the third idles on scratch
        decoder.state.positions.copy_(torch.tensor([0, 127, 54, 97, 16, 0]))
        decoder.work.qkv.copy_(qkv)
        q = kernel(weights, 1, decoder.cache, decoder.state, decoder.rows, decoder.work)
        found.append((q, decoder.cache.k.clone(), decoder.cache.v.clone()))
    apart = [(mine - theirs).abs().max().item() for mine, theirs in zip(*found, strict=True)]
    written = [int((t != 0).any(-1).sum()) for t in found[1][1:]]
    json.dump({"apart": apart, "written": written}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
