"""The float64 reference is compared with torch's own attention, and by hand where that has no such option."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workloads' extra is not installed")

from torch.nn import functional  # noqa: E402

from monitorgen.kernels.attention import reference  # noqa: E402
from monitorgen.kernels.attention.paged_case import make_case  # noqa: E402


def made(queries: int, keys: int, heads: int = 4, kv_heads: int = 2, dim: int = 16) -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(3)
    shapes = ((heads, queries, dim), (kv_heads, keys, dim), (kv_heads, keys, dim + 8))
    q, k, v = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return q, k, v


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 54), (7, 7), (5, 31)])
@pytest.mark.parametrize("causal", [False, True])
def test_it_is_torchs_attention(queries: int, keys: int, causal: bool) -> None:
    q, k, v = made(queries, keys)
    mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries) if causal else None
    want = functional.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask, enable_gqa=True)
    found = reference.attention(q, k, v, causal=causal)
    torch.testing.assert_close(found.out, want[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("window", [1, 4, 100])
@pytest.mark.parametrize("softcap", [0.0, 2.5])
def test_windows_caps_and_log_sum_exp_term_by_term(window: int, softcap: float) -> None:
    q, k, v = made(3, 9)
    found = reference.attention(q, k, v, causal=True, window=window, softcap=softcap, scale=0.4)
    for head in range(4):
        for row in range(3):
            place = 6 + row
            seen = [key for key in range(9) if place - window < key <= place]
            scores = []
            for key in seen:
                score = 0.4 * float(q[head, row] @ k[head // 2, key])
                scores.append(softcap * math.tanh(score / softcap) if softcap else score)
            weights = [math.exp(score) for score in scores]
            want = sum(w * v[head // 2, key] for w, key in zip(weights, seen, strict=True)) / sum(weights)
            torch.testing.assert_close(found.out[head, row], want)
            assert float(found.lse[head, row]) == pytest.approx(math.log(sum(weights)))


def test_no_key_is_zeros_and_minus_infinity() -> None:
    q, k, v = made(2, 0)
    found = reference.attention(q, k, v)
    assert not found.out.any()
    assert (found.lse == -math.inf).all()


def test_pages_are_put_together_by_the_table() -> None:
    case = make_case([0, 5, 40], heads=4, kv_heads=2, head_dim=16, page_size=16, dtype=torch.float16)
    found = reference.paged_decode(case.q, case.k_pages, case.v_pages, case.table, case.lengths)
    assert found.out.isfinite().all()  # no poison
    pages = case.table[2].tolist()
    k = torch.cat([case.k_pages[page] for page in pages])[:40].double()
    v = torch.cat([case.v_pages[page] for page in pages])[:40].double()
    for head in range(4):
        weights = torch.softmax(k[:, head // 2] @ case.q[2, head].double() / 4.0, 0)
        torch.testing.assert_close(found.out[2, head], weights @ v[:, head // 2])
    assert not found.out[0].any()


def test_relative_norm() -> None:
    one = torch.tensor([3.0, 4.0])
    assert reference.relative_norm(one, one) == 0.0
    assert reference.relative_norm(one + torch.tensor([0.0, 0.5]), one) == pytest.approx(0.1)
    assert reference.relative_norm(one, torch.zeros(2)) == pytest.approx(5.0)
