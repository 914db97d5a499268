"""Decoded blocks of shards in memory under one byte limit, least recently used out first.

Rows (exact vectors and payload) are read a few at a time by every query and would push out what
guides the next one. So while they hold more than a quarter of the limit, a row block goes first.

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
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

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


_NOTHING: Final[tuple[None, tuple[BlockKey, ...]]] = (None, ())


class Block(NamedTuple):
    """A decoded block and what it weighs in memory, in bytes."""

    key: BlockKey
    value: Any
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Totals since the cache was made, and what it holds now."""

    n_blocks: int
    size_bytes: int
    limit_bytes: int
    n_admitted: int
    n_evicted: int


class BlockCache:
    """Decoded blocks under a byte limit, shared by every collection of a connection. Thread-safe.

    Args:
        limit_bytes: the most that resident blocks may weigh; 0 caches nothing.
        disk: the tier below, which whoever fetches asks before the store.
    """

    def __init__(self, limit_bytes: int, disk: DiskTier | None = None) -> None:
        self.disk = disk
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._guides: OrderedDict[BlockKey, Block] = OrderedDict()
        self._rows: OrderedDict[BlockKey, Block] = OrderedDict()
        self._rows_bytes = 0
        self._tables: dict[str, BlockTables] = {}
        self._row_tables: dict[str, RowTables] = {}
        self._attached: dict[str, tuple[Any, tuple[BlockKey, ...]]] = {}
        self._n_blocks = 0
        self._size_bytes = 0
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
                    for key, block in self._rows.items():
                        if key.shard_id == shard_id:
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
            if current and all(key in self._guides for key in keys):
                self._attached[shard_id] = (value, tuple(keys))

    def attached(self, shard_id: str) -> Any | None:
        """Return what was attached to a shard, its guides marked used; None where any block of it went."""
        with self._lock:
            value, keys = self._attached.get(shard_id, _NOTHING)
            for key in keys:
                self._guides.move_to_end(key)
        return value

    def use_rows(self, keys: Sequence[BlockKey]) -> None:
        """Mark blocks of rows used, those that are resident."""
        rows = self._rows
        with self._lock:
            for key in keys:
                if key in rows:
                    rows.move_to_end(key)

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
                queue = self._queue(key)
                block = queue.get(key)
                if block is not None:
                    queue.move_to_end(key)
                found.append(None if block is None else block.value)
        return found

    def admit(self, blocks: Sequence[Block]) -> None:
        """Take blocks in, and evict the least recently used until the limit holds.

        A block heavier than the whole limit is not kept: it would evict everything else. Lists and
        codes are kept only for shards whose tables were asked for.
        """
        changed: dict[str, BlockTables] = {}
        rows: dict[str, RowTables] = {}
        with self._lock:
            for block in blocks:
                queue = self._queue(block.key)
                if block.size_bytes > self._limit_bytes or block.key in queue or self._has_whole(block.key):
                    continue
                queue[block.key] = block
                self._weigh(block, 1)
                self._n_admitted += 1
                self._publish_later(changed, rows, block.key, block.value)
            while self._size_bytes > self._limit_bytes:
                rows_first = self._rows_bytes > ROWS_SHARE * self._limit_bytes or not self._guides
                key, victim = (self._rows if rows_first else self._guides).popitem(last=False)
                before = self._n_blocks
                self._weigh(victim, -1)
                self._n_evicted += before - self._n_blocks
                self._attached.pop(key.shard_id, None)
                self._publish_later(changed, rows, key, None)
            for shard_id, tables in changed.items():
                self._make_whole(shard_id, tables)
                self._attached.pop(shard_id, None)
            self._tables.update(changed)
            self._row_tables.update(rows)

    def drop_shard(self, shard_id: str) -> None:
        """Forget every block of a shard that no manifest names any more."""
        with self._lock:
            for queue in (self._guides, self._rows):
                for key in [key for key in queue if key.shard_id == shard_id]:
                    self._weigh(queue.pop(key), -1)
            self._tables.pop(shard_id, None)
            self._row_tables.pop(shard_id, None)
            self._attached.pop(shard_id, None)

    def stats(self) -> CacheStats:
        """Return what the cache holds and has done."""
        with self._lock:
            return CacheStats(
                self._n_blocks,
                self._size_bytes,
                self._limit_bytes,
                self._n_admitted,
                self._n_evicted,
            )

    def _queue(self, key: BlockKey) -> OrderedDict[BlockKey, Block]:
        return self._rows if key.section in ROWS else self._guides

    def _has_whole(self, key: BlockKey) -> bool:
        return key.section in (LISTS, CODES) and key._replace(block=WHOLE) in self._guides

    def _weigh(self, block: Block, sign: int) -> None:
        key = block.key
        self._size_bytes += sign * block.size_bytes
        if key.section in ROWS:
            self._rows_bytes += sign * block.size_bytes
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
        room_bytes = min(WHOLE_SHARE * self._limit_bytes, self._limit_bytes - self._size_bytes)
        if not tables.resident or size_bytes > room_bytes:
            return
        for section, columns, dtype in shapes:
            whole = BlockKey(shard_id, section, WHOLE)
            if whole in self._guides:
                continue
            rows = np.empty((tables.n, columns), dtype)
            at = 0
            for block in range(tables.list_table.size):
                moved = self._guides.pop(whole._replace(block=block))
                self._weigh(moved, -1)
                rows[at : at + len(moved.value)] = moved.value
                at += len(moved.value)
            if section == LISTS:
                tables.set_all_lists(rows)
            else:
                tables.set_all_codes(rows)
            self._guides[whole] = Block(whole, rows, rows.nbytes)
            self._weigh(self._guides[whole], 1)
