"""Rows that are in the log and in no shard yet: immutable chunks, searched exactly or by codes.

Every change makes a new `MemtableView` that shares the unchanged chunks with the old one, so a
reader's snapshot costs nothing and a write that fails is undone by not publishing it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from vstore.format.rows import RowBatch
from vstore.ingest.batches import Keys, concat_rows, owned, size_bytes, take_keys, take_rows
from vstore.ingest.chunk_codes import ChunkCodes
from vstore.types import Bools, Int32s, Int64s

MERGE_ROWS = 4096
"""Small neighbours are merged up to this many rows, or a sixteenth of the memtable if that is more.

So a single write copies little, and a memtable of any size has a few dozen chunks.
"""


@dataclass(frozen=True, slots=True, eq=False)
class KeyIndex:
    """Finds rows by key: binary search over int keys, a dict over str keys. Keys are distinct."""

    sorted_keys: Int64s
    order: Int64s
    rows: Mapping[str, int] | None

    @classmethod
    def of(cls, keys: Keys) -> KeyIndex:
        """Index the keys of a chunk."""
        if isinstance(keys, np.ndarray):
            order = np.argsort(keys, kind="stable")
            return cls(keys[order], order, None)
        empty = np.empty(0, np.int64)
        return cls(empty, empty, {key: row for row, key in enumerate(keys)})

    def lookup(self, keys: Keys) -> Int64s:
        """Return int64[m]: the row of each key, or -1."""
        if not isinstance(keys, np.ndarray):
            if self.rows is None:
                return np.full(len(keys), -1, np.int64)
            get = self.rows.get
            return np.fromiter((get(key, -1) for key in keys), np.int64, len(keys))
        if not len(self.sorted_keys):
            return np.full(len(keys), -1, np.int64)
        at = np.minimum(np.searchsorted(self.sorted_keys, keys), len(self.sorted_keys) - 1)
        return np.where(self.sorted_keys[at] == keys, self.order[at], -1)


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Some rows of the memtable; `alive` bool[n] is False where a row was deleted or replaced."""

    rows: RowBatch
    alive: Bools
    n_alive: int
    size_bytes: int
    index: KeyIndex
    codes: ChunkCodes = field(default_factory=ChunkCodes)

    @classmethod
    def of(cls, rows: RowBatch) -> Chunk:
        """Make a chunk, all of it alive. It keeps the arrays; their keys must be distinct."""
        return cls(rows, np.ones(rows.n, np.bool_), rows.n, size_bytes(rows), KeyIndex.of(rows.keys))

    @property
    def n(self) -> int:
        """Rows, dead ones included."""
        return self.rows.n

    def lookup(self, keys: Keys) -> Int64s:
        """Return int64[m]: the row of each key that is alive here, or -1."""
        rows = self.index.lookup(keys)
        return np.where((rows >= 0) & self.alive[rows], rows, -1) if self.n else rows

    def live_rows(self) -> RowBatch:
        """Return the rows that are alive, in order."""
        return self.rows if self.n_alive == self.n else take_rows(self.rows, np.flatnonzero(self.alive))

    def without(self, keys: Keys) -> tuple[Chunk, int]:
        """Return the chunk with the rows of these keys dead, and how many died."""
        rows = self.lookup(keys)
        rows = np.unique(rows[rows >= 0])
        if not len(rows):
            return self, 0
        alive = self.alive.copy()
        alive[rows] = False
        n_alive = self.n_alive - len(rows)
        changed = replace(self, alive=alive, n_alive=n_alive)
        # Half dead: rewriting it costs no more than what died in it cost to write.
        return (Chunk.of(changed.live_rows()) if 2 * n_alive < self.n else changed), len(rows)


@dataclass(frozen=True, slots=True, eq=False)
class MemtableView:
    """One moment of the memtable. A key is alive in one chunk at most."""

    chunks: tuple[Chunk, ...] = ()

    @property
    def n_rows(self) -> int:
        """Rows held, dead ones included."""
        return sum(chunk.n for chunk in self.chunks)

    @property
    def n_live(self) -> int:
        """Rows that are alive."""
        return sum(chunk.n_alive for chunk in self.chunks)

    @property
    def size_bytes(self) -> int:
        """About how many bytes of memory the rows take."""
        return sum(chunk.size_bytes for chunk in self.chunks)

    def lookup(self, keys: Keys) -> tuple[Int32s, Int64s]:
        """Return int32[m] the chunk of each key (-1 where it is in none) and int64[m] its row there."""
        where = np.full(len(keys), -1, np.int32)
        rows = np.full(len(keys), -1, np.int64)
        for number, chunk in enumerate(self.chunks):
            found = chunk.lookup(keys)
            hit = found >= 0
            where[hit] = number
            rows[hit] = found[hit]
        return where, rows

    def missing(self, keys: Keys) -> Keys:
        """Return those of the keys that no chunk holds alive."""
        where, _ = self.lookup(keys)
        return keys if (where < 0).all() else take_keys(keys, np.flatnonzero(where < 0))

    def without(self, keys: Keys) -> tuple[MemtableView, int]:
        """Return the memtable with the rows of these keys dead, and how many died."""
        if not self.chunks or not len(keys):
            return self, 0
        n_died = 0
        chunks = []
        for chunk in self.chunks:
            kept, n = chunk.without(keys)
            n_died += n
            if kept.n_alive:
                chunks.append(kept)
        return (MemtableView(tuple(chunks)) if n_died else self), n_died

    def upserted(self, rows: RowBatch) -> tuple[MemtableView, int]:
        """Return the memtable with `rows` in place of those of the same keys, and how many it replaced.

        It keeps the arrays of `rows`: `batches.owned` makes them safe to keep.
        """
        kept, n_replaced = self.without(rows.keys)
        if not rows.n:
            return kept, n_replaced
        chunks = [*kept.chunks, Chunk.of(rows)]
        limit = max(MERGE_ROWS, sum(chunk.n for chunk in chunks) // 16)
        start = _merge_from(chunks, limit)
        if start < len(chunks) - 1:
            # One concatenation of the whole run, not one for each pair.
            chunks[start:] = [Chunk.of(concat_rows([chunk.live_rows() for chunk in chunks[start:]]))]
        return MemtableView(tuple(chunks)), n_replaced


def _merge_from(chunks: list[Chunk], limit: int) -> int:
    """Return where the run of last chunks begins that should become one.

    A neighbour joins while it is at most twice the run, so sizes fall geometrically towards the end
    and a row is copied a logarithmic number of times.
    """
    start = len(chunks) - 1
    n_run = chunks[start].n_alive
    while start and chunks[start - 1].n_alive <= 2 * n_run and chunks[start - 1].n_alive + n_run <= limit:
        start -= 1
        n_run += chunks[start].n_alive
    return start


def memtable_of(rows: RowBatch) -> MemtableView:
    """Return a memtable of these rows, in arrays of its own; of a key that comes twice, the last."""
    view, _ = MemtableView().upserted(owned(rows))
    return view
