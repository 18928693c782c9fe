"""A paged KV cache: block tables, prefixes found again by chained hashes, copy on write, eviction of the LRU.

A sequence's tokens lie in blocks of a fixed size, wherever there is room; its block table lists them. A
full block is known by the hash of its tokens and of the block before, so that equal hashes mean equal
prefixes, and a new sequence starts with the blocks that are there already. Known blocks that nobody uses
stay until room is needed, and then go in the order in which they were last used.

Here are only the books: which block holds what, and who uses it; `paged_kv` holds the tensors. Whoever books
tokens writes their K and V before anything attends to them.
"""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from monitorgen.kernels.counters import KVCacheCounters

ROOT = b""
"""What comes before the first block of every sequence."""


class OutOfBlocks(RuntimeError):  # noqa: N818 - a state to wait for the end of, as queue.Full is
    """Every block that would be needed is in use: free a sequence first. Nothing was changed."""


def block_hash(before: bytes, tokens: Sequence[int]) -> bytes:
    """The hash of a full block, of the hash of the block before it and of its tokens: 32 bytes.

    SHA-256, so that nobody can find two prefixes with one hash and be given what another sequence wrote.
    """
    return hashlib.sha256(before + struct.pack(f"<{len(tokens)}q", *tokens)).digest()


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a token's K and V go. `copied`: the block that must be copied to `block` before, if any."""

    block: int
    offset: int
    copied: int | None = None


@dataclass(slots=True)
class _Held:
    """A sequence: its tokens, its block table, and the hashes of its full blocks."""

    tokens: list[int]
    table: list[int]
    hashes: list[bytes] = field(default_factory=list)


class PagedCache:
    """The books of `blocks` blocks of `block_size` tokens. Names of sequences are the caller's.

    Not for several threads. Raises ValueError for sizes below 1.
    """

    def __init__(self, blocks: int, block_size: int, counters: KVCacheCounters | None = None) -> None:
        for what, size in (("blocks", blocks), ("block_size", block_size)):
            if size < 1:
                raise ValueError(f"{what}: {size}; at least 1")
        self.block_size = block_size
        self.counters = counters or KVCacheCounters("none")
        self.counters.blocks, self.counters.block_size = blocks, block_size
        self.users = [0] * blocks
        self.filled = [0] * blocks
        self._hash_of: list[bytes | None] = [None] * blocks
        self._known: dict[bytes, dict[int, None]] = {}  # an ordered set: the same prefix may be there twice
        self._free = deque(range(blocks))
        self._unused: OrderedDict[int, None] = OrderedDict()
        self._held: dict[Hashable, _Held] = {}

    def add(self, name: Hashable, tokens: Sequence[int]) -> int:
        """Book a new sequence's tokens; returns how many of them, from the first, need not be computed.

        At least the last one always is: its output is what decoding goes on from. Raises ValueError for a
        name in use or no tokens, OutOfBlocks if there is no room.
        """
        if name in self._held:
            raise ValueError(f"name: {name!r} is in use; free() it first")
        if not tokens:
            raise ValueError("tokens: none; a sequence has at least one")
        size = self.block_size
        hashes = self._hashes(tokens)
        found = self._prefix(hashes[: (len(tokens) - 1) // size])
        fresh = -(-len(tokens) // size) - len(found)
        room = len(self._free) + len(self._unused) - sum(not self.users[block] for block in found)
        if fresh > room:
            raise OutOfBlocks(f"{len(tokens)} tokens need {fresh} more blocks of {size}, {room} can be had")
        self.counters.queries += len(tokens)
        self.counters.hits += len(found) * size
        for block in found:
            self._use(block)
        table = [*found, *(self._take() for _ in range(fresh))]
        self._held[name] = _Held(list(tokens), table, hashes)
        for index in range(len(found), len(table)):
            self._fill(table[index], min(size, len(tokens) - index * size))
            if index < len(hashes):
                self._learn(table[index], hashes[index])
        return len(found) * size

    def append(self, name: Hashable, token: int) -> Slot:
        """Book one more token; returns where it goes.

        A block that another sequence reads too is copied first: the slot says from where. Raises ValueError
        for an unknown name, OutOfBlocks if a block is needed and there is none.
        """
        held, size = self._of(name), self.block_size
        offset, copied = len(held.tokens) % size, None
        if offset == 0:
            held.table.append(self._take())
        elif self.users[held.table[-1]] > 1:
            copied, target = held.table[-1], self._take()
            self._release(copied)
            self._fill(target, offset)
            held.table[-1] = target
            self.counters.copies += 1
        block = held.table[-1]
        held.tokens.append(token)
        self._fill(block, offset + 1)
        if offset + 1 == size:
            before = held.hashes[-1] if held.hashes else ROOT
            held.hashes.append(block_hash(before, held.tokens[-size:]))
            self._learn(block, held.hashes[-1])
        return Slot(block, offset, copied)

    def fork(self, name: Hashable, other: Hashable) -> None:
        """Start a sequence `other` with all that `name` holds; nothing is copied until one of them writes.

        Raises ValueError for an unknown name, or one in use.
        """
        held = self._of(name)
        if other in self._held:
            raise ValueError(f"other: {other!r} is in use; free() it first")
        for block in held.table:
            self._use(block)
        self._held[other] = _Held(held.tokens.copy(), held.table.copy(), held.hashes.copy())

    def free(self, name: Hashable) -> None:
        """Give a sequence's blocks back; known ones stay until their room is needed, the last ones go first.

        A prefix is worth more than what follows, which is found only behind it. Raises ValueError for an
        unknown name.
        """
        for block in reversed(self._of(name).table):
            self._release(block)
        del self._held[name]

    def table(self, name: Hashable) -> tuple[int, ...]:
        """A sequence's blocks in order. Raises ValueError for an unknown name."""
        return tuple(self._of(name).table)

    def tokens(self, name: Hashable) -> tuple[int, ...]:
        """A sequence's tokens. Raises ValueError for an unknown name."""
        return tuple(self._of(name).tokens)

    def length(self, name: Hashable) -> int:
        """How many tokens a sequence has. Raises ValueError for an unknown name."""
        return len(self._of(name).tokens)

    @property
    def names(self) -> tuple[Hashable, ...]:
        """The sequences held now, the oldest first."""
        return tuple(self._held)

    @property
    def evictable(self) -> tuple[int, ...]:
        """Known blocks that nobody uses, in the order in which they would go."""
        return tuple(self._unused)

    @property
    def empty(self) -> tuple[int, ...]:
        """Blocks that hold nothing, in the order in which they are taken."""
        return tuple(self._free)

    def known(self, block: int) -> bytes | None:
        """The hash by which a block is found, None if it is not."""
        return self._hash_of[block]

    def _of(self, name: Hashable) -> _Held:
        if name not in self._held:
            raise ValueError(f"name: no sequence {name!r}; there are {len(self._held)}")
        return self._held[name]

    def _hashes(self, tokens: Sequence[int]) -> list[bytes]:
        """The chained hashes of the full blocks of some tokens."""
        found, before, size = [], ROOT, self.block_size
        for start in range(0, len(tokens) - size + 1, size):
            before = block_hash(before, tokens[start : start + size])
            found.append(before)
        return found

    def _prefix(self, hashes: Sequence[bytes]) -> list[int]:
        """The known blocks of a chain, up to the first one that is not known."""
        found = []
        for one in hashes:
            blocks = self._known.get(one)
            if blocks is None:
                break
            # One in use takes no room from anybody.
            found.append(next((block for block in blocks if self.users[block]), next(iter(blocks))))
        return found

    def _take(self) -> int:
        """An empty block for one user: one that holds nothing, or the one last used longest ago."""
        if self._free:
            block = self._free.popleft()
        elif self._unused:
            block, _ = self._unused.popitem(last=False)
            self._forget(block)
            self.counters.evictions += 1
        else:
            raise OutOfBlocks(f"all {len(self.users)} blocks are in use; free a sequence first")
        self.filled[block], self.users[block] = 0, 1
        self.counters.blocks_in_use += 1
        return block

    def _use(self, block: int) -> None:
        """One more user of a block that holds something."""
        if not self.users[block]:
            del self._unused[block]
            self.counters.blocks_in_use += 1
            self.counters.tokens += self.filled[block]
        self.users[block] += 1

    def _release(self, block: int) -> None:
        """One user less; without any, the block waits to be found again if it is known, else it is empty."""
        self.users[block] -= 1
        if self.users[block]:
            return
        self.counters.blocks_in_use -= 1
        self.counters.tokens -= self.filled[block]
        if self._hash_of[block] is None:
            self.filled[block] = 0
            self._free.append(block)
        else:
            self._unused[block] = None

    def _fill(self, block: int, count: int) -> None:
        """A block in use now holds so many tokens."""
        self.counters.tokens += count - self.filled[block]
        self.filled[block] = count

    def _learn(self, block: int, hash_: bytes) -> None:
        """A full block can be found from now on."""
        self._hash_of[block] = hash_
        self._known.setdefault(hash_, {})[block] = None

    def _forget(self, block: int) -> None:
        known = self._hash_of[block]
        assert known is not None
        del self._known[known][block]
        if not self._known[known]:
            del self._known[known]
        self._hash_of[block] = None
