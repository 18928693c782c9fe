"""Public kernels for paged GQA decode that may be on a machine: FlashAttention-3 and FlashInfer.

Each is a function from a batch to a callable that does its attention, [B, Hq, D]. Lengths are read on the
host while it is made, never while it is timed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monitorgen.kernels.attention.paged_case import Case

Call = Callable[[], Tensor]


def flash_attention_3(case: Case) -> Call:
    """FlashAttention-3 as vLLM 0.33 builds it: `_vllm_fa3_C.abi3.so` in the folder `fa3` of $PEERS."""
    library = Path(os.environ.get("PEERS", "peers")) / "fa3" / "_vllm_fa3_C.abi3.so"
    load: Any = torch.ops.load_library
    load(str(library.resolve()))
    batch, _, dim = case.q.shape
    cu = torch.arange(batch + 1, device=case.q.device, dtype=torch.int32)
    longest = max(case.host_lengths)
    operator: Any = torch.ops._vllm_fa3_C.fwd

    def call() -> Tensor:
        found: Tensor = operator(
            case.q, case.k_pages, case.v_pages, None, None, None, None, cu, None, None, None, case.lengths, 1,
            longest, case.table, None, None, None, None, None, None, None, None, dim**-0.5, True, -1, -1, 0.0,
            True, None, 0, None, 0, None, 1, 0, None,
        )[0]  # fmt: skip
        return found

    return call


def flashinfer(case: Case) -> Call:
    """FlashInfer's BatchDecodeWithPagedKVCacheWrapper with tensor cores, planned once."""
    import flashinfer as library

    batch, heads, dim = case.q.shape
    page, kv_heads = case.k_pages.shape[1:3]
    device = case.q.device
    used = (case.lengths + page - 1) // page
    indptr = torch.zeros(batch + 1, device=device, dtype=torch.int32)
    indptr[1:] = used.cumsum(0)
    indices = torch.cat([case.table[index, :count] for index, count in enumerate(used.tolist())])
    work = torch.empty(512 << 20, dtype=torch.uint8, device=device)
    wrapper: Any = library.BatchDecodeWithPagedKVCacheWrapper(work, "NHD", use_tensor_cores=True)
    wrapper.plan(
        indptr, indices, ((case.lengths - 1) % page + 1).int(), heads, kv_heads, dim, page,
        q_data_type=case.q.dtype, kv_data_type=case.k_pages.dtype,
    )  # fmt: skip

    def call() -> Tensor:
        found: Tensor = wrapper.run(case.q, (case.k_pages, case.v_pages))
        return found

    return call


PEERS: Mapping[str, Callable[[Case], Call]] = {"fa3": flash_attention_3, "flashinfer": flashinfer}
"""The peers by name."""
