"""Decoded blocks of shards in memory under one byte limit, least recently used out first.

Rows (exact vectors and payload) are read a few at a time by every query and would push out what
guides the next one. So while they hold more than a quarter of the limit, a row block goes first.

Kernels find lists and codes through a shard's block tables, so the cache keeps the tables too. A
published table is never changed: admitting or evicting a block publishes a new one, and a query that
holds an older table holds its blocks with it. So nothing that a running kernel reads can go away,
and no lock is taken inside a search. Shards are immutable: a cached block is never stale.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vstore_kernels.search import BlockTables

if TYPE_CHECKING:
    from vstore.cache.disk import DiskTier

LISTS: Final = "lists"
CODES: Final = "codes"
ROWS: Final = frozenset({"vectors", "payload"})
"""Sections of rows: what answers show, not what finds them."""
ROWS_SHARE: Final = 0.25


class BlockKey(NamedTuple):
    """One block of one section of one shard."""

    shard_id: str
    section: str
    block: int


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
        with self._lock:
            for block in blocks:
                queue = self._queue(block.key)
                if block.size_bytes > self._limit_bytes or block.key in queue:
                    continue
                queue[block.key] = block
                self._weigh(block, 1)
                self._n_admitted += 1
                self._publish_later(changed, block.key, block.value)
            while self._size_bytes > self._limit_bytes:
                rows_first = self._rows_bytes > ROWS_SHARE * self._limit_bytes or not self._guides
                key, victim = (self._rows if rows_first else self._guides).popitem(last=False)
                self._weigh(victim, -1)
                self._n_evicted += 1
                self._publish_later(changed, key, None)
            self._tables.update(changed)

    def drop_shard(self, shard_id: str) -> None:
        """Forget every block of a shard that no manifest names any more."""
        with self._lock:
            for queue in (self._guides, self._rows):
                for key in [key for key in queue if key.shard_id == shard_id]:
                    self._weigh(queue.pop(key), -1)
            self._tables.pop(shard_id, None)

    def stats(self) -> CacheStats:
        """Return what the cache holds and has done."""
        with self._lock:
            return CacheStats(
                len(self._guides) + len(self._rows),
                self._size_bytes,
                self._limit_bytes,
                self._n_admitted,
                self._n_evicted,
            )

    def _queue(self, key: BlockKey) -> OrderedDict[BlockKey, Block]:
        return self._rows if key.section in ROWS else self._guides

    def _weigh(self, block: Block, sign: int) -> None:
        self._size_bytes += sign * block.size_bytes
        if block.key.section in ROWS:
            self._rows_bytes += sign * block.size_bytes

    def _publish_later(self, changed: dict[str, BlockTables], key: BlockKey, value: Any | None) -> None:
        if key.section not in (LISTS, CODES) or key.shard_id not in self._tables:
            return
        tables = changed.get(key.shard_id)
        if tables is None:
            tables = changed[key.shard_id] = self._tables[key.shard_id].copy()
        set_block, clear_block = (
            (tables.set_lists, tables.clear_lists)
            if key.section == LISTS
            else (tables.set_codes, tables.clear_codes)
        )
        if value is None:
            clear_block(key.block)
        else:
            set_block(key.block, value)
