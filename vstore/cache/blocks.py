"""Decoded blocks of shards in memory under one byte limit; policies decide what comes in and what goes.

Rows (exact vectors and payload) are read a few at a time by every query and would push out what
guides the next one. So while they hold more than a quarter of the limit, a row block goes first: the
eviction policy is made twice, once for rows and once for the rest.

Kernels find lists and codes through a shard's block tables, so the cache keeps the tables too. A
published table is never changed: admitting or evicting a block publishes a new one, and a query that
holds an older table holds its blocks with it. So nothing that a running kernel reads can go away,
and no lock is taken inside a search. Shards are immutable: a cached block is never stale.

Once every list and code of a shard is resident, and fits well within the limit, the cache moves them into
one array each: large arrays get huge pages, and a walk that jumps about then misses the TLB less. Such an
array is one entry, evicted whole.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from vstore.cache.policies.base import Admission, Eviction, Prefetch
from vstore.cache.policies.lru import LRU
from vstore.cache.policies.prefetch import NoPrefetch
from vstore.cache.policies.residency import Residency
from vstore.cache.rows import PAYLOAD, VECTORS, RowTables
from vstore_kernels.search import BlockTables

if TYPE_CHECKING:
    from vstore.cache.disk import DiskTier

LISTS: Final = "lists"
CODES: Final = "codes"
ROWS: Final = frozenset({VECTORS, PAYLOAD})
"""Sections of rows: what answers show, not what finds them."""
ROWS_SHARE: Final = 0.25
WHOLE: Final = -1
"""The block number of a whole section."""
WHOLE_SHARE: Final = 0.5
"""A shard's lists and codes move into one array each where they take at most this share of the limit."""


class BlockKey(NamedTuple):
    """One block of one section of one shard."""

    shard_id: str
    section: str
    block: int


MARKED_ONE_IN: Final = 16
"""As long as nothing was evicted, so many searches share one note that the guides were used."""


@dataclass(slots=True, eq=False)
class _Attached:
    """What was made of a shard's guides, and how often it was asked for."""

    value: Any
    keys: tuple[BlockKey, ...]
    n_asked: int = 0


class Block(NamedTuple):
    """A decoded block and what it weighs in memory, in bytes."""

    key: BlockKey
    value: Any
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Totals since the cache was made, and what it holds now.

    `n_refused` blocks were offered and not kept: too heavy, or a policy said no.
    """

    n_blocks: int
    size_bytes: int
    limit_bytes: int
    n_admitted: int
    n_evicted: int
    n_refused: int = 0


class BlockCache:
    """Decoded blocks under a byte limit, shared by every collection of a connection. Thread-safe.

    Args:
        limit_bytes: the most that resident blocks may weigh; 0 caches nothing.
        disk: the tier below, which whoever fetches asks before the store.
        eviction: makes the policy that says which block goes; see `vstore.cache.policies`.
        admission: says whether a block that was read is kept; None keeps all.
        prefetch: says what else a round reads; None nothing.
    """

    def __init__(
        self,
        limit_bytes: int,
        disk: DiskTier | None = None,
        *,
        eviction: Callable[[], Eviction[BlockKey]] = LRU,
        admission: Admission[BlockKey] | None = None,
        prefetch: Prefetch[BlockKey] | None = None,
    ) -> None:
        self.disk = disk
        self._prefetch: Prefetch[BlockKey] = NoPrefetch() if prefetch is None else prefetch
        self._lock = threading.Lock()
        self._books = Residency(limit_bytes, eviction, admission, lesser=_is_row, lesser_share=ROWS_SHARE)
        self._blocks: dict[BlockKey, Block] = {}
        self._tables: dict[str, BlockTables] = {}
        self._row_tables: dict[str, RowTables] = {}
        self._attached: dict[str, _Attached] = {}
        self._n_blocks = 0
        self._n_admitted = 0
        self._n_evicted = 0

    def tables(self, shard_id: str, make: Callable[[], BlockTables]) -> BlockTables:
        """Return the published tables of a shard's lists and codes; the caller must not change them.

        Args:
            shard_id: the shard.
            make: makes empty tables of the shard's shape, where none are published yet.
        """
        published = self._tables.get(shard_id)
        if published is None:
            with self._lock:
                published = self._tables.setdefault(shard_id, make())
        return published

    def row_tables(self, shard_id: str, make: Callable[[], RowTables]) -> RowTables:
        """Return the published tables of a shard's vectors and payload; the caller must not change them.

        Args:
            shard_id: the shard.
            make: makes empty tables of the shard's shape, where none are published yet.
        """
        published = self._row_tables.get(shard_id)
        if published is None:
            with self._lock:
                published = self._row_tables.get(shard_id)
                if published is None:
                    published = make()
                    for key, block in self._blocks.items():
                        if key.shard_id == shard_id and key.section in ROWS:
                            published.put(key.section, key.block, block.value)
                    self._row_tables[shard_id] = published
        return published

    def attach(self, value: Any, keys: Sequence[BlockKey], tables: BlockTables, rows: RowTables) -> None:
        """Keep what was derived from resident blocks of a shard for as long as they stay resident.

        Args:
            value: what `attached` returns from now on, unless something of the shard went in between.
            keys: the guides that it was made of beside lists and codes, at least one.
            tables: the published ones that it refers to.
            rows: the published ones that it refers to.
        """
        shard_id = keys[0].shard_id
        with self._lock:
            current = self._tables.get(shard_id) is tables and self._row_tables.get(shard_id) is rows
            if current and all(key in self._blocks for key in keys):
                self._attached[shard_id] = _Attached(value, tuple(keys))

    def attached(self, shard_id: str) -> Any | None:
        """Return what was attached to a shard, its guides marked used; None where any block of it went.

        Until something was evicted, for the first time, one call in MARKED_ONE_IN marks them: the order of
        use is not needed yet.
        """
        # One look-up needs no lock: what is found holds its blocks, whether they go just now or not.
        held = self._attached.get(shard_id)
        if held is None:
            return None
        held.n_asked += 1
        if self._n_evicted or held.n_asked % MARKED_ONE_IN == 1:
            with self._lock:
                self._books.use(held.keys)
        return held.value

    def use(self, keys: Iterable[BlockKey]) -> None:
        """Mark blocks used, those that are resident: what kernels read, nobody else sees."""
        with self._lock:
            self._books.use(dict.fromkeys(map(self._whole_of, keys)))

    def ahead(self, missed: Sequence[BlockKey]) -> list[BlockKey]:
        """Return what else to read in the round that reads the missed blocks: they may not exist."""
        with self._lock:
            return [key for key in self._prefetch.ahead(missed) if key not in self._blocks]

    @property
    def evicts(self) -> bool:
        """Whether the limit was ever reached, so that the order of use matters."""
        return self._n_evicted > 0

    def get(self, key: BlockKey) -> Any | None:
        """Return a block's value and mark it used, or None where it is not resident."""
        return self.get_many([key])[0]

    def get_many(self, keys: Sequence[BlockKey]) -> list[Any | None]:
        """Return `get` of each key, under one lock."""
        found = []
        with self._lock:
            for key in keys:
                block = self._blocks.get(key)
                found.append(None if block is None else block.value)
            self._books.use(keys)
        return found

    def admit(self, blocks: Sequence[Block], *, evict: bool = True) -> None:
        """Take blocks in, those that the policies will have, and let others go so that the limit holds.

        A block heavier than the whole limit is not kept: it would evict everything else. Lists and
        codes are kept only for shards whose tables were asked for. Without `evict` nothing goes: what does
        not fit beside the others is not kept.
        """
        changed: dict[str, BlockTables] = {}
        rows: dict[str, RowTables] = {}
        with self._lock:
            for block in blocks:
                if block.key in self._blocks or self._has_whole(block.key):
                    continue
                taken, gone = self._books.offer(block.key, block.size_bytes, evict=evict)
                for key in gone:
                    before = self._n_blocks
                    self._count(self._blocks.pop(key).key, -1)
                    self._n_evicted += before - self._n_blocks
                    self._attached.pop(key.shard_id, None)
                    self._publish_later(changed, rows, key, None)
                if taken:
                    self._blocks[block.key] = block
                    self._count(block.key, 1)
                    self._n_admitted += 1
                    self._publish_later(changed, rows, block.key, block.value)
            for shard_id, tables in changed.items():
                self._make_whole(shard_id, tables)
                self._attached.pop(shard_id, None)
            self._tables.update(changed)
            self._row_tables.update(rows)

    def drop_shard(self, shard_id: str) -> None:
        """Forget every block of a shard that no manifest names any more."""
        with self._lock:
            for key in [key for key in self._blocks if key.shard_id == shard_id]:
                self._books.remove(key)
                self._count(self._blocks.pop(key).key, -1)
            self._tables.pop(shard_id, None)
            self._row_tables.pop(shard_id, None)
            self._attached.pop(shard_id, None)

    def stats(self) -> CacheStats:
        """Return what the cache holds and has done."""
        with self._lock:
            return CacheStats(
                self._n_blocks,
                self._books.size_bytes,
                self._books.limit_bytes,
                self._n_admitted,
                self._n_evicted,
                self._books.counts.n_refused,
            )

    def resident(self, shard_id: str) -> list[BlockKey]:
        """Return the keys of a shard's resident blocks; a section in one array is one key, of block -1."""
        with self._lock:
            return [key for key in self._blocks if key.shard_id == shard_id]

    def _has_whole(self, key: BlockKey) -> bool:
        return key.section in (LISTS, CODES) and key._replace(block=WHOLE) in self._blocks

    def _whole_of(self, key: BlockKey) -> BlockKey:
        return key._replace(block=WHOLE) if self._has_whole(key) else key

    def _count(self, key: BlockKey, sign: int) -> None:
        whole = key.block == WHOLE and key.section in (LISTS, CODES)
        self._n_blocks += sign * (self._tables[key.shard_id].list_table.size if whole else 1)

    def _publish_later(
        self, changed: dict[str, BlockTables], rows: dict[str, RowTables], key: BlockKey, value: Any | None
    ) -> None:
        """Write a block that came (or, with None, went) into the tables that will be published."""
        shard_id, section, block = key
        if section in ROWS:
            self._publish_rows(rows, key, value)
            return
        if section not in (LISTS, CODES) or shard_id not in self._tables:
            return
        tables = changed.get(shard_id)
        if tables is None:
            tables = changed[shard_id] = self._tables[shard_id].copy()
        lists = section == LISTS
        if value is not None:
            (tables.set_lists if lists else tables.set_codes)(block, value)
            return
        for gone in range(tables.list_table.size) if block == WHOLE else (block,):
            (tables.clear_lists if lists else tables.clear_codes)(gone)

    def _publish_rows(self, changed: dict[str, RowTables], key: BlockKey, value: Any | None) -> None:
        tables = changed.get(key.shard_id) or self._row_tables.get(key.shard_id)
        if tables is None:
            return
        if value is not None:
            tables.put(key.section, key.block, value)
            return
        if key.shard_id not in changed:
            tables = changed[key.shard_id] = tables.copy()
        tables.clear(key.section, key.block)

    def _make_whole(self, shard_id: str, tables: BlockTables) -> None:
        """Move a shard's lists and codes into one array each, where all are there and there is room."""
        shapes = ((LISTS, tables.M0, np.int32), (CODES, tables.row_bytes, np.uint8))
        size_bytes = sum(tables.n * columns * np.dtype(dtype).itemsize for _, columns, dtype in shapes)
        # While they move, both copies are held: the published tables still have the blocks.
        limit_bytes = self._books.limit_bytes
        room_bytes = min(WHOLE_SHARE * limit_bytes, limit_bytes - self._books.size_bytes)
        if not tables.resident or size_bytes > room_bytes:
            return
        for section, columns, dtype in shapes:
            whole = BlockKey(shard_id, section, WHOLE)
            if whole in self._blocks:
                continue
            keys = [whole._replace(block=block) for block in range(tables.list_table.size)]
            rows = np.empty((tables.n, columns), dtype)
            at = 0
            for key in keys:
                moved = self._blocks.pop(key)
                self._count(key, -1)
                rows[at : at + len(moved.value)] = moved.value
                at += len(moved.value)
            if section == LISTS:
                tables.set_all_lists(rows)
            else:
                tables.set_all_codes(rows)
            self._books.replace(keys, whole, rows.nbytes)
            self._blocks[whole] = Block(whole, rows, rows.nbytes)
            self._count(whole, 1)


def _is_row(key: BlockKey) -> bool:
    return key.section in ROWS
