"""Masks and score mods mean what they say, and every FlexAttention path gives what float64 gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workloads' extra is not installed")

from monitorgen.kernels.attention import (  # noqa: E402
    bench_flex,
    masks,
    score_mods,
)
from monitorgen.kernels.attention.flex_attention_native import (  # noqa: E402
    backward_block,
    check_backward,
    dense_attention,
    kernel_options,
    plan,
    random_inputs,
    relative_error,
    visible_pairs,
)
from monitorgen.kernels.attention.flex_reference import dense_mask, reference  # noqa: E402
from monitorgen.kernels.attention.shapes import Shape  # noqa: E402

SHAPE = Shape(2, 4, 2, 83, 16, 16, window=19, doc_span=20, prefix=21)
IDS = masks.document_ids(2, SHAPE.length, SHAPE.doc_span)
PREFIXES = torch.tensor([5, 40])
CPU = torch.device("cpu")

Seen = Callable[[int, int, int], bool]


def same(batch: int, query: int, key: int) -> bool:
    return bool(IDS[batch, query] == IDS[batch, key])


# What each mask lets a query see, in plain Python.
MASKS: dict[str, tuple[Any, Seen]] = {
    "full": (masks.full(), lambda b, q, k: True),
    "causal": (masks.causal(), lambda b, q, k: k <= q),
    "window": (masks.sliding_window(19), lambda b, q, k: q - 19 < k <= q),
    "window 1": (masks.sliding_window(1), lambda b, q, k: k == q),
    "document": (masks.document(IDS), same),
    "document of one row": (masks.document(IDS[1]), lambda b, q, k: same(1, q, k)),
    "prefix": (masks.prefix_lm(21), lambda b, q, k: k < 21 or k <= q),
    "prefixes": (masks.prefix_lm(PREFIXES), lambda b, q, k: k < (5, 40)[b] or k <= q),
    "no prefix": (masks.prefix_lm(0), lambda b, q, k: k <= q),
    "and": (masks.all_of(masks.causal(), masks.document(IDS)), lambda b, q, k: k <= q and same(b, q, k)),
    "or": (
        masks.any_of(masks.sliding_window(3), masks.document(IDS)),
        lambda b, q, k: q - 3 < k <= q or same(b, q, k),
    ),
    "and of or": (
        masks.all_of(masks.any_of(masks.prefix_lm(30), masks.document(IDS)), masks.sliding_window(50)),
        lambda b, q, k: (k < 30 or k <= q or same(b, q, k)) and q - 50 < k <= q,
    ),
    "a head of its own": (lambda b, h, q, k: (q >= k) & (q - k < 9 * (h + 1)), None),
    "some see nothing": (masks.all_of(masks.sliding_window(19), lambda b, h, q, k: k > 40), None),
}
SLOPES = score_mods.alibi_slopes(4)
MODS: dict[str, tuple[Any, Callable[[float, int, int, int], float]]] = {
    "alibi": (score_mods.alibi(SLOPES), lambda s, h, q, k: s - 2.0 ** (-2 * (h + 1)) * abs(q - k)),
    "soft_cap": (score_mods.soft_cap(2.0), lambda s, h, q, k: 2 * math.tanh(s / 2)),
    "tanh": (score_mods.tanh(1.5), lambda s, h, q, k: 1.5 * math.tanh(s)),
    "chain": (
        score_mods.chain(score_mods.soft_cap(2.0), score_mods.alibi(SLOPES)),
        lambda s, h, q, k: 2 * math.tanh(s / 2) - 2.0 ** (-2 * (h + 1)) * abs(q - k),
    ),
}
PYTHON_MASKS = {name: both for name, both in MASKS.items() if both[1] is not None}


@pytest.mark.parametrize("name", PYTHON_MASKS)
def test_a_mask_sees_what_it_says(name: str) -> None:
    mask, seen = PYTHON_MASKS[name]
    found = dense_mask(mask, 2, 1, SHAPE.length, SHAPE.length).expand(2, 1, -1, -1)[:, 0].tolist()
    length = range(SHAPE.length)
    assert found == [[[seen(b, q, k) for k in length] for q in length] for b in range(2)]
    pairs = sum(seen(b, q, k) for b in range(2) for q in length for k in length)
    assert visible_pairs(mask, 2, 3, SHAPE.length, SHAPE.length, CPU) == 3 * pairs


@pytest.mark.parametrize("name", PYTHON_MASKS)
def test_live_blocks_are_those_with_a_visible_key(name: str) -> None:
    mask, seen = PYTHON_MASKS[name]
    planned = plan(mask, batch=2, heads=4, queries=SHAPE.length, block=16)
    edges = [range(start, min(start + 16, SHAPE.length)) for start in range(0, SHAPE.length, 16)]
    counts = [
        sum(seen(b, q, k) for q in rows for k in keys) for b in range(2) for rows in edges for keys in edges
    ]
    found = planned.sparsity
    # A mask that does not read the batch is planned once for both.
    times = 2 if found.total == len(edges) ** 2 else 1
    assert found.total * times == len(counts)
    assert found.live * times == sum(count > 0 for count in counts)
    assert found.whole * times == sum(count == 256 for count in counts)
    assert found.share == found.live / found.total


@pytest.mark.parametrize("name", MODS)
def test_a_score_mod_does_what_it_says(name: str) -> None:
    mod, expected = MODS[name]
    for score, head, query, key in ((0.7, 0, 3, 9), (-5.0, 3, 20, 2), (80.0, 1, 0, 0)):
        found = mod(torch.tensor(score, dtype=torch.float64), *map(torch.tensor, (1, head, query, key)))
        assert float(found) == pytest.approx(expected(score, head, query, key), rel=1e-7)


@pytest.mark.parametrize(
    ("heads", "slopes"),
    [
        (1, [2**-8]),
        (2, [2**-4, 2**-8]),
        (3, [2**-4, 2**-8, 2**-2]),
        (6, [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]),
    ],
)
def test_alibi_slopes(heads: int, slopes: list[float]) -> None:
    assert score_mods.alibi_slopes(heads).tolist() == slopes


def test_the_reference_is_attention() -> None:
    q, k, v = random_inputs(Shape(2, 4, 2, 7, 3, 16, 1, 1, 1), CPU, torch.float64)
    mask, seen = MASKS["causal"]
    mod, changed = MODS["chain"]
    out, lse = reference(q, k, v, mask, mod, scale=0.3)
    rows, _ = reference(q, k, v, mask, mod, scale=0.3, rows=torch.tensor([6, 2]))
    for b, h, i in ((0, 0, 0), (1, 3, 6), (1, 2, 4), (0, 1, 2)):
        keys = [j for j in range(7) if seen(b, i, j)]
        scores = [
            changed(0.3 * sum(float(q[b, h, i, d] * k[b, h // 2, j, d]) for d in range(3)), h, i, j)
            for j in keys
        ]
        total = sum(math.exp(score) for score in scores)
        assert float(lse[b, h, i]) == pytest.approx(math.log(total))
        for d in range(3):
            wanted = (
                sum(math.exp(s) * float(v[b, h // 2, j, d]) for s, j in zip(scores, keys, strict=True))
                / total
            )
            assert float(out[b, h, i, d]) == pytest.approx(wanted)
    assert torch.equal(rows, out[:, :, [6, 2]])


@pytest.mark.parametrize(
    ("name", "kv_heads"), [*((name, 2) for name in MASKS), ("causal", 1), ("causal", 4), ("and", 1)]
)
def test_every_mask_gives_what_float64_gives(name: str, kv_heads: int) -> None:
    inputs = random_inputs(replace(SHAPE, kv_heads=kv_heads), CPU, torch.float32)
    mask = MASKS[name][0]
    expected, lse = reference(*inputs, mask)
    assert (
        relative_error(plan(mask, batch=2, heads=4, queries=SHAPE.length, block=16)(*inputs), expected) < 1e-6
    )
    blind = lse == -math.inf
    assert bool(blind.any()) == (name == "some see nothing")
    assert bool((expected[blind] == 0).all())


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, torch.float32) for name in MODS), ("chain", torch.float64), ("chain", torch.bfloat16)],
)
def test_every_mod_gives_what_float64_gives(name: str, dtype: Any) -> None:
    inputs = random_inputs(SHAPE, CPU, dtype)
    mask = masks.all_of(masks.causal(), masks.document(IDS))
    mod = MODS[name][0]
    expected, _ = reference(*inputs, mask, mod, scale=0.5)
    planned = plan(mask, mod, batch=2, heads=4, queries=SHAPE.length, block=16, scale=0.5)
    error = relative_error(planned(*inputs), expected)
    assert error < {torch.float32: 1e-6, torch.float64: 1e-6, torch.bfloat16: 4e-3}[dtype]


@pytest.mark.parametrize("mod_name", [None, *MODS])
@pytest.mark.parametrize("name", ["causal", "document", "some see nothing"])
def test_gradients_are_those_of_float64(name: str, mod_name: str | None) -> None:
    mask, mod = MASKS[name][0], MODS[mod_name][0] if mod_name else None
    inputs = [tensor.requires_grad_() for tensor in random_inputs(SHAPE, CPU, torch.float32)]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    out = plan(mask, mod, batch=2, heads=4, queries=SHAPE.length, block=16)(*inputs)
    expected, _ = reference(*(tensor.detach().double() for tensor in inputs), mask, mod)
    assert relative_error(out.detach(), expected) < 1e-6
    seed = torch.randn(out.shape, generator=torch.Generator().manual_seed(3))
    # Where a query sees nothing, the reference's logsumexp has no gradient: the dense path in float64.
    wanted = torch.autograd.grad(dense_attention(*exact, mask, mod), exact, seed.double())
    found = torch.autograd.grad(out, inputs, seed)
    for one, other in zip(found, wanted, strict=True):
        assert relative_error(one, other) < 2e-6
    if name != "some see nothing":
        again = torch.autograd.grad(reference(*exact, mask, mod)[0], exact, seed.double())
        assert all(relative_error(one, other) < 1e-12 for one, other in zip(wanted, again, strict=True))


def test_gradients_are_slopes() -> None:
    inputs = random_inputs(Shape(1, 2, 1, 4, 2, 16, 1, 1, 1), CPU, torch.float64)
    leaves = [tensor.requires_grad_() for tensor in inputs]

    def attend(*tensors: Any) -> Any:
        return dense_attention(*tensors, masks.sliding_window(2), score_mods.soft_cap(2.0))

    assert torch.autograd.gradcheck(attend, leaves)


def test_compiled_on_a_cpu_it_is_the_same() -> None:
    """Slow (g++ runs for most of a minute), and kept: nothing else compiles a plan without a GPU."""
    shape = Shape(1, 2, 1, 40, 16, 16, 9, 9, 9)
    inputs = random_inputs(shape, CPU, torch.float32)
    mask, mod = masks.all_of(masks.causal(), masks.document(IDS[:1, :40])), score_mods.soft_cap(2.0)
    planned = plan(mask, mod, batch=1, heads=2, queries=40, block=16, compiled=True)
    assert relative_error(planned(*inputs), reference(*inputs, mask, mod)[0]) < 1e-6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", bench_flex.CHECKED)
def test_compiled_on_cuda_it_is_the_same(case: Any) -> None:
    bench = bench_flex.Bench(torch.device("cuda"), math.inf, 1, print)
    assert bench_flex.check_case(bench, *case)["ok"]


CAPABILITIES = [(7, 5), (8, 0), (8, 9), (9, 0), (10, 0), (10, 3), (11, 0), (12, 0)]


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_backward_pass_takes_blocks_that_torchs_tiles_divide(
    capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    heuristics = pytest.importorskip("torch._inductor.template_heuristics.triton").CUDAConfigHeuristic()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: capability)
    for head in (16, 32, 63, 64, 96, 128, 192, 256, 512):
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            (tiles,) = heuristics.get_flex_attn_bwd_configs(head, dtype)
            largest = max(tiles.block_m1, tiles.block_n1, tiles.block_m2, tiles.block_n2)
            assert backward_block(head, dtype, capability) == largest, (head, dtype)


@pytest.mark.parametrize(
    ("block", "head", "dtype", "capability", "least"),
    [
        (64, 64, "bfloat16", (9, 0), 128),  # as an H100 refused it
        (64, 128, "float16", (9, 0), 128),
        (32, 32, "bfloat16", (9, 0), 64),
        (32, 256, "bfloat16", (9, 0), 64),
        (64, 32, "bfloat16", (8, 0), 128),
        (32, 128, "bfloat16", (8, 9), 64),
        (64, 128, "bfloat16", (10, 0), 128),
    ],
)
def test_blocks_without_a_backward_pass_are_refused(
    block: int, head: int, dtype: str, capability: tuple[int, int], least: int
) -> None:
    said = f"block: {block}; gradients with heads of {head} in {dtype} .* take a power of two from {least}"
    with pytest.raises(ValueError, match=said):
        check_backward(block, head, getattr(torch, dtype), capability)
    for taken in (least, 2 * least):
        check_backward(taken, head, getattr(torch, dtype), capability)
    check_backward(16, head, torch.float32, capability)


def test_forward_tiles_divide_small_blocks() -> None:
    cuda = torch.device("cuda")
    assert kernel_options(64, CPU) is None
    assert kernel_options(128, cuda) is None
    for block in (16, 32, 64):
        options = kernel_options(block, cuda)
        assert options is not None
        assert block % options["BLOCK_M"] == block % options["BLOCK_N"] == 0
        # The backward pass is left to torch: it drops its tiles before it looks at options.
        assert {"BLOCK_M1", "BLOCK_N1", "BLOCK_M2", "BLOCK_N2"}.isdisjoint(options)


def test_names_compose_with_and_before_or() -> None:
    made = masks.parse("prefix_lm | causal&document", window=5, ids=IDS, prefix=21)
    assert made.__name__ == "prefix_lm(21)|causal&document"
    of_or = masks.all_of(masks.any_of(masks.causal(), masks.full()), masks.sliding_window(4))
    assert of_or.__name__ == "(causal|full)&sliding_window(4)"
    expected = masks.any_of(masks.prefix_lm(21), masks.all_of(masks.causal(), masks.document(IDS)))
    assert torch.equal(dense_mask(made, 2, 1, 83, 83), dense_mask(expected, 2, 1, 83, 83))
    mod = score_mods.parse("soft_cap+alibi", heads=4, cap=2.0, gain=1.0, device="cpu")
    assert mod is not None
    assert mod.__name__ == "soft_cap(2)+alibi"
    assert score_mods.parse("none", heads=4, cap=2.0, gain=1.0, device="cpu") is None


def test_documents_fill_their_rows_and_have_the_length_asked_for() -> None:
    ids = masks.document_ids(16, 4096, 32, seed=7)
    steps = ids.diff(dim=1)
    assert (ids.shape, ids.dtype) == ((16, 4096), torch.int32)
    assert set(steps.unique().tolist()) == {0, 1}
    assert 16 * 4096 / int(steps.sum()) == pytest.approx(32, rel=0.1)
    assert torch.equal(ids, masks.document_ids(16, 4096, 32, seed=7))
    assert not torch.equal(ids, masks.document_ids(16, 4096, 32, seed=8))


GOOD = {"q": (2, 4, 83, 16), "k": (2, 2, 83, 16), "v": (2, 2, 83, 16)}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"q": (4, 83, 16)}, r"q: shape \(4, 83, 16\); 4 dimensions"),
        ({"v": (2, 2, 80, 16)}, r"v: shape \(2, 2, 80, 16\), k"),
        ({"k": (2, 2, 83, 8)}, r"k: shape \(2, 2, 83, 8\), q"),
        ({"k": (1, 2, 83, 16), "v": (1, 2, 83, 16)}, r"k: shape \(1, 2, 83, 16\), q"),
        ({"k": (2, 3, 83, 16), "v": (2, 3, 83, 16)}, "k: 3 heads, q 4"),
        ({"q": (2, 4, 82, 16)}, "the plan is for 2 sequences, 4 heads, 83 queries"),
        ({"q": (2, 8, 83, 16)}, "the plan is for 2 sequences, 4 heads"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(changed: dict[str, Any], said: str) -> None:
    planned = plan(masks.causal(), batch=2, heads=4, queries=83, block=16)
    with pytest.raises(ValueError, match=said):
        planned(*(torch.zeros(size) for size in (GOOD | changed).values()))


def test_types_and_strides_that_do_not_fit_are_refused() -> None:
    planned = plan(masks.causal(), batch=2, heads=4, queries=83, block=16)
    q, k, v = (torch.zeros(size) for size in GOOD.values())
    with pytest.raises(ValueError, match=r"k: torch.float16, q torch.float32; .* of one type of float64"):
        planned(q, k.half(), v)
    with pytest.raises(ValueError, match=r"q: torch\.int32"):
        planned(q.int(), k.int(), v.int())
    with pytest.raises(ValueError, match="v: stride 83 in its last dimension"):
        planned(q, k, v.transpose(2, 3).contiguous().transpose(2, 3))


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda: plan(masks.causal(), batch=1, heads=1, queries=9, block=48), "block: 48; a power of two"),
        (lambda: plan(masks.causal(), batch=1, heads=1, queries=9, block=8), "block: 8; a power of two"),
        (lambda: plan(masks.causal(), batch=1, heads=0, queries=9), "heads: 0; at least 1"),
        (lambda: masks.sliding_window(0), "window: 0; at least 1"),
        (lambda: masks.prefix_lm(-1), "prefix: -1; at least 0"),
        (lambda: masks.prefix_lm(torch.zeros(2, 2, dtype=torch.int32)), r"prefix: shape \(2, 2\)"),
        (lambda: masks.document(torch.zeros(3)), r"ids: shape \(3,\) of torch.float32"),
        (lambda: masks.document_ids(1, 9, 0), "span: 0; at least 1"),
        (lambda: masks.all_of(), "masks: none given"),
        (lambda: masks.any_of(), "masks: none given"),
        (lambda: score_mods.chain(), "mods: none given"),
        (lambda: score_mods.soft_cap(0.0), "cap: 0.0; a positive number"),
        (lambda: score_mods.tanh(math.inf), "gain: inf; a positive number"),
        (lambda: score_mods.alibi(torch.zeros(2, 2)), r"slopes: shape \(2, 2\)"),
        (lambda: score_mods.alibi_slopes(0), "heads: 0"),
        (lambda: masks.parse("causal&", window=1, ids=IDS, prefix=1), "mask 'causal&': no mask ''"),
        (lambda: score_mods.parse("none+tanh", heads=1, cap=1, gain=1, device="cpu"), "no mod 'none'"),
    ],
)
def test_what_cannot_be_made_is_refused(work: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        work()
