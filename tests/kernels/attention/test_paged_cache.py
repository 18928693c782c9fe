"""The books of the paged KV cache under any sequence of operations, and attention over its pages."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from monitorgen.kernels.attention.paged_attn_common import ROOT, OutOfBlocks, PagedCache, block_hash

BLOCKS, SIZE = 7, 3


class Books(RuleBasedStateMachine):
    """A cache beside a model of it: what each block holds, as its writers wrote it."""

    @initialize()
    def start(self) -> None:
        self.cache = PagedCache(BLOCKS, SIZE)
        self.written: dict[int, list[int]] = {block: [] for block in range(BLOCKS)}
        self.sequences: dict[int, list[int]] = {}
        self.last_used: dict[int, int] = {}
        self.clock = self.queries = self.hits = 0
        self.next = 0

    def name(self, pick: int) -> int:
        return sorted(self.sequences)[pick % len(self.sequences)]

    def before(self) -> tuple[Any, ...]:
        cache = self.cache
        return (
            list(cache.users), list(cache.filled), cache.evictable, cache.empty, cache.counters.summary(),
            {name: (cache.table(name), cache.tokens(name)) for name in cache.names},
        )  # fmt: skip

    # Two tokens and short lists, so that prefixes meet often.
    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=11))
    def add(self, tokens: list[int]) -> None:
        cache, expected, before = self.cache, [], ROOT
        for start in range(0, (len(tokens) - 1) // SIZE * SIZE, SIZE):
            before = block_hash(before, tokens[start : start + SIZE])
            candidates = {block for block in range(BLOCKS) if cache.known(block) == before}
            if not candidates:
                break
            expected.append(candidates)
        fresh = math.ceil(len(tokens) / SIZE) - len(expected)
        unused, empty, state = cache.evictable, len(cache.empty), self.before()
        woken = sum(not any(cache.users[block] for block in blocks) for blocks in expected)
        if fresh > empty + len(unused) - woken:
            with pytest.raises(OutOfBlocks):
                cache.add(self.next, tokens)
            assert self.before() == state
            return
        evictions = cache.counters.evictions
        assert cache.add(self.next, tokens) == len(expected) * SIZE
        table = cache.table(self.next)
        found, taken = table[: len(expected)], table[len(expected) :]
        assert all(block in blocks for block, blocks in zip(found, expected, strict=True))
        # What was used last longest ago made room, and nothing else.
        gone = [block for block in sorted(unused, key=self.last_used.__getitem__) if block not in found]
        gone = gone[: max(0, fresh - empty)]
        assert list(taken[min(empty, fresh) :]) == gone
        assert cache.counters.evictions - evictions == len(gone)
        for index, block in enumerate(table):
            part = tokens[index * SIZE : (index + 1) * SIZE]
            if index < len(expected):
                assert self.written[block] == part
            else:
                assert cache.users[block] == 1
                self.written[block] = part
        self.sequences[self.next] = tokens
        self.queries += len(tokens)
        self.hits += len(expected) * SIZE
        self.next += 1

    @precondition(lambda self: self.sequences)
    @rule(pick=st.integers(0, 5), token=st.integers(0, 1))
    def append(self, pick: int, token: int) -> None:
        name = self.name(pick)
        tokens, table = self.sequences[name], self.cache.table(name)
        shared = len(tokens) % SIZE > 0 and self.cache.users[table[-1]] > 1
        needs = shared or len(tokens) % SIZE == 0
        state = self.before()
        if needs and not self.cache.empty and not self.cache.evictable:
            with pytest.raises(OutOfBlocks):
                self.cache.append(name, token)
            assert self.before() == state
            return
        slot = self.cache.append(name, token)
        assert slot.copied == (table[-1] if shared else None)
        if shared:
            self.written[slot.block] = self.written[table[-1]][: slot.offset]
        elif needs:
            self.written[slot.block] = []
        # Nobody else may see what is written now.
        assert self.cache.users[slot.block] == 1
        assert sum(slot.block in self.cache.table(other) for other in self.cache.names) == 1
        assert slot.offset == len(self.written[slot.block]) == len(tokens) % SIZE
        self.written[slot.block] = [*self.written[slot.block], token]
        self.sequences[name] = [*tokens, token]

    @precondition(lambda self: 0 < len(self.sequences) < 5)
    @rule(pick=st.integers(0, 5))
    def fork(self, pick: int) -> None:
        name = self.name(pick)
        self.cache.fork(name, self.next)
        self.sequences[self.next] = self.sequences[name]
        self.next += 1

    @precondition(lambda self: self.sequences)
    @rule(pick=st.integers(0, 5))
    def free(self, pick: int) -> None:
        name = self.name(pick)
        for block in reversed(self.cache.table(name)):
            self.clock += 1
            self.last_used[block] = self.clock
        self.cache.free(name)
        del self.sequences[name]

    @invariant()
    def every_sequence_reads_its_own_tokens(self) -> None:
        for name, tokens in self.sequences.items():
            read = [token for block in self.cache.table(name) for token in self.written[block]]
            assert read == tokens == list(self.cache.tokens(name))

    @invariant()
    def no_block_leaks(self) -> None:
        cache = self.cache
        users = Counter(block for name in self.sequences for block in cache.table(name))
        assert cache.users == [users[block] for block in range(BLOCKS)]
        held, unused, empty = set(users), set(cache.evictable), set(cache.empty)
        assert len(cache.empty) == len(empty)
        assert len(held) + len(unused) + len(empty) == BLOCKS
        assert held | unused | empty == set(range(BLOCKS))
        assert all(cache.known(block) is None for block in empty)
        assert all(cache.known(block) is not None for block in unused)

    @invariant()
    def the_longest_unused_goes_first(self) -> None:
        order = self.cache.evictable
        assert list(order) == sorted(order, key=lambda block: self.last_used[block])

    @invariant()
    def hashes_chain(self) -> None:
        for name, tokens in self.sequences.items():
            before = ROOT
            for index, block in enumerate(self.cache.table(name)[: len(tokens) // SIZE]):
                before = block_hash(before, tokens[index * SIZE : (index + 1) * SIZE])
                assert self.cache.known(block) == before
            assert all(
                self.cache.known(block) is None for block in self.cache.table(name)[len(tokens) // SIZE :]
            )

    @invariant()
    def numbers_are_those_of_a_count(self) -> None:
        counted, used = self.cache.counters, [b for b in range(BLOCKS) if self.cache.users[b]]
        tokens = sum(len(self.written[block]) for block in used)
        assert (counted.blocks, counted.blocks_in_use, counted.tokens) == (BLOCKS, len(used), tokens)
        assert counted.fragmentation == (1 - tokens / (len(used) * SIZE) if used else 0.0)
        assert (counted.queries, counted.hits) == (self.queries, self.hits)


TestBooks = Books.TestCase
TestBooks.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_equal_blocks_behind_different_ones_are_different() -> None:
    cache = PagedCache(8, 2)
    cache.add("a", [1, 1, 5, 5, 0])
    assert cache.add("b", [2, 2, 0]) == 0
    assert cache.add("c", [2, 2, 5, 5, 0]) == 2
    cache.free("c")
    assert cache.add("d", [1, 1, 5, 5, 9]) == 4
    assert block_hash(ROOT, [1, 23]) != block_hash(ROOT, [12, 3])


def test_a_prefix_that_is_found_makes_no_room_for_what_follows() -> None:
    cache = PagedCache(3, 2)
    cache.add("a", [1, 1, 2])
    cache.add("b", [3])
    cache.free("a")
    before = (cache.empty, cache.evictable, list(cache.users), cache.counters.summary())
    with pytest.raises(OutOfBlocks, match="5 tokens need 2 more blocks of 2, 1 can be had"):
        cache.add("c", [1, 1, 5, 5, 6])
    assert (cache.empty, cache.evictable, list(cache.users), cache.counters.summary()) == before
    assert cache.names == ("b",)
    assert cache.add("c", [1, 1, 5]) == 2


def test_the_last_token_is_always_computed() -> None:
    cache = PagedCache(8, 2)
    cache.add("a", [1, 2, 3, 4])
    assert cache.add("b", [1, 2, 3, 4]) == 2
    assert cache.table("a")[0] == cache.table("b")[0]
    assert cache.table("a")[1] != cache.table("b")[1]
    assert (cache.counters.queries, cache.counters.hits) == (8, 2)


def test_the_end_of_a_prefix_goes_before_its_start_and_a_hit_saves_it() -> None:
    cache = PagedCache(4, 2)
    cache.add("a", [1, 1, 2, 2])
    cache.add("b", [3, 3, 4, 4])
    first, second = cache.table("a"), cache.table("b")
    cache.free("a")
    cache.free("b")
    assert cache.evictable == (first[1], first[0], second[1], second[0])
    assert cache.add("c", [1, 1, 7]) == 2
    assert cache.table("c") == (first[0], first[1])
    assert cache.counters.evictions == 1
    assert cache.evictable == (second[1], second[0])


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda cache: PagedCache(0, 2), "blocks: 0; at least 1"),
        (lambda cache: PagedCache(2, 0), "block_size: 0; at least 1"),
        (lambda cache: cache.add("a", [1]), "name: 'a' is in use"),
        (lambda cache: cache.add("b", []), "tokens: none"),
        (lambda cache: cache.append("b", 1), "name: no sequence 'b'"),
        (lambda cache: cache.free("b"), "name: no sequence 'b'"),
        (lambda cache: cache.fork("b", "c"), "name: no sequence 'b'"),
        (lambda cache: cache.fork("a", "a"), "other: 'a' is in use"),
    ],
)
def test_wrong_calls_are_refused(work: Any, said: str) -> None:
    cache = PagedCache(4, 2)
    cache.add("a", [1, 2, 3])
    with pytest.raises(ValueError, match=said):
        work(cache)


torch = pytest.importorskip("torch", reason="the workloads' extra is not installed")

from monitorgen.kernels.attention import masks, score_mods  # noqa: E402
from monitorgen.kernels.attention.flex_attention_native import relative_error  # noqa: E402
from monitorgen.kernels.attention.flex_reference import reference  # noqa: E402
from monitorgen.kernels.attention.paged_kv import PagedKV, PagedView, attend  # noqa: E402

CPU = torch.device("cpu")
LENGTHS = (1, 16, 17, 54, 97)


def filled(size: int) -> tuple[PagedCache, PagedKV, list[Any]]:
    """Sequences whose blocks interleave, garbage wherever no token lies; keys and values [2, T, H, D]."""
    cache = PagedCache(sum(-(-n // size) for n in LENGTHS) + 2, size)
    pages = PagedKV.empty(cache, 2, 8, CPU, torch.float32)
    pages.k.fill_(1e4)
    pages.v.fill_(1e4)
    generator = torch.Generator().manual_seed(0)
    held = [torch.randn(2, n, 2, 8, generator=generator) for n in LENGTHS]
    slots: list[list[int]] = [[] for _ in LENGTHS]
    for position in range(max(LENGTHS)):
        for row, length in enumerate(LENGTHS):
            if position == 0:
                cache.add(row, [row])
                slots[row].append(cache.table(row)[0] * size)
            elif position < length:
                slot = cache.append(row, position)
                slots[row].append(slot.block * size + slot.offset)
    for places, (k, v) in zip(slots, held, strict=True):
        pages.write(torch.tensor(places), k, v)
    return cache, pages, held


def near_or_first(count: int) -> Any:
    """A query sees 20 keys up to itself, and the first ones, even those that are later or do not exist."""
    return masks.any_of(masks.sliding_window(20), lambda b, h, q, k: k < count)


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("queries", [1, 3])
def test_attention_over_pages_is_attention(size: int, queries: int) -> None:
    cache, pages, held = filled(size)
    width = -(-max(LENGTHS) // size)
    mask = near_or_first(30)
    mod = score_mods.alibi(score_mods.alibi_slopes(4))
    view = PagedView(cache, len(LENGTHS) + 1, queries, width, mask, CPU)
    rows = [row for row, length in enumerate(LENGTHS) if length >= queries]
    view.update(rows, [LENGTHS[row] - queries for row in rows], [LENGTHS[row] for row in rows])
    q = torch.randn(len(LENGTHS) + 1, 4, queries, 8, generator=torch.Generator().manual_seed(1))
    out = attend(q, pages, view, view.block_mask, view.score_mod(mod))
    for place, row in enumerate(rows):
        k, v = (part.transpose(0, 1).unsqueeze(0) for part in held[row])
        offset = torch.tensor([LENGTHS[row] - queries])
        expected, _ = reference(
            q[place : place + 1], k, v, masks.shifted(mask, offset), score_mods.shifted(mod, offset)
        )
        assert relative_error(out[place : place + 1], expected) < 1e-6
    assert bool((out[len(rows) :] == 0).all())


def test_only_pages_with_a_visible_key_are_listed() -> None:
    cache, _, _ = filled(16)
    mask = near_or_first(14)
    view = PagedView(cache, len(LENGTHS) + 1, 1, 7, mask, CPU)
    view.update(range(len(LENGTHS)), [n - 1 for n in LENGTHS], LENGTHS)
    made = view.block_mask
    for row, length in enumerate(LENGTHS):
        keys = [key for key in range(length) if key > length - 1 - 20 or key < 14]
        live = [cache.table(row)[index] for index in sorted({key // 16 for key in keys})]
        count = int(made.kv_num_blocks[row, 0, 0])
        assert made.kv_indices[row, 0, 0, :count].tolist() == live
    # The last row has no sequence.
    assert made.kv_num_blocks.flatten().tolist() == [1, 1, 2, 3, 4, 0]


def test_a_copied_block_holds_what_the_shared_one_does() -> None:
    cache, pages, held = filled(16)
    cache.fork(3, "fork")
    slot = cache.append("fork", 7)
    assert slot.copied == cache.table(3)[-1]
    pages.copy(slot.copied, slot.block)
    begin = slot.block * 16
    assert torch.equal(pages.k[0, :, begin : begin + 6], held[3][0, 48:].transpose(0, 1))
    assert torch.equal(pages.v[0, :, begin : begin + 6], held[3][1, 48:].transpose(0, 1))


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((0, 1, 1), "batch: 0"),
        ((1, 129, 1), "queries: 129; from 1 to 128"),
        ((1, 1, 9), "width: 9; from 1 to 4"),
    ],
)
def test_views_that_cannot_be_are_refused(sizes: tuple[int, int, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PagedView(PagedCache(4, 16), *sizes, masks.causal(), CPU)


def test_sequences_that_do_not_fit_a_view_are_refused() -> None:
    cache = PagedCache(4, 16)
    cache.add("a", [1] * 40)
    view = PagedView(cache, 1, 1, 2, masks.causal(), CPU)
    with pytest.raises(ValueError, match="names: 'a' has 3 blocks; the view holds 2"):
        view.update(["a"], [39], [40])
    with pytest.raises(ValueError, match="names: 2 sequences; the view holds 1"):
        view.update(["a", "a"], [39, 39], [40, 40])
    pages = PagedKV.empty(cache, 2, 8, CPU, torch.float32)
    for shape in ((1, 4, 2, 8), (2, 4, 1, 8), (1, 3, 1, 8), (1, 4, 1, 16), (4, 1, 8)):
        with pytest.raises(ValueError, match=r"q: shape .*; the view takes \[1, a multiple of 2, 1, 8\]"):
            attend(torch.zeros(shape), pages, view, view.block_mask)
